"""Where Java libraries are taken from, and what is said when they are not there."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from pipelines.errors import EnvironmentProblemError
from pipelines.flow import jars
from pipelines.flow.artefacts import DELTA, DELTA_VERSION, KAFKA, POSTGRESQL, SPARK_MINOR, Artefact

ARTEFACTS = DELTA.artefacts


@pytest.fixture(autouse=True)
def _no_machine_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BFM_JARS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _write_jar(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")


def _fill(directory: Path, names: list[str]) -> None:
    for name in names:
        _write_jar(directory / name)


def _plain_name(artefact: Artefact) -> str:
    return artefact.file_name


def _ivy_name(artefact: Artefact) -> str:
    return f"{artefact.group}_{artefact.file_name}"


@pytest.mark.parametrize("naming", [_plain_name, _ivy_name])
def test_named_directory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naming) -> None:
    _fill(tmp_path / "jars", [naming(artefact) for artefact in ARTEFACTS])
    monkeypatch.setenv("BFM_JARS_DIR", str(tmp_path / "jars"))
    found = jars.find_jars(DELTA)
    assert [path.name for path in found] == [naming(artefact) for artefact in ARTEFACTS]


def test_named_directory_that_lacks_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [artefact.file_name for artefact in ARTEFACTS]
    _fill(tmp_path / "jars", names[:-2])
    (tmp_path / "jars" / names[-2]).write_text("not a jar")
    monkeypatch.setenv("BFM_JARS_DIR", str(tmp_path / "jars"))
    with pytest.raises(EnvironmentProblemError) as refused:
        jars.find_jars(DELTA)
    message = str(refused.value)
    assert f"lacks {names[-2]}, {names[-1]} (Delta)." in message
    assert ARTEFACTS[-1].coordinates in message


def test_named_path_that_is_no_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BFM_JARS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentProblemError, match="is not a directory"):
        jars.local_jars(DELTA)


def test_cache_counts_only_when_complete() -> None:
    names = [artefact.file_name for artefact in ARTEFACTS]
    _fill(jars.cache_directory(DELTA), names[1:])
    assert jars.local_jars(DELTA) is None
    _fill(jars.cache_directory(DELTA), names[:1])
    assert jars.local_jars(DELTA) == tuple(jars.cache_directory(DELTA) / name for name in names)


def test_a_cache_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblemError, match="XDG_CACHE_HOME"):
        jars.find_jars(DELTA)


def test_versions_agree_with_the_installed_packages() -> None:
    assert metadata.version("delta-spark") == DELTA_VERSION
    assert metadata.version("pyspark").startswith(f"{SPARK_MINOR}.")


def test_main_tells_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BFM_JARS_DIR", str(tmp_path / "nowhere"))
    assert jars.main() == 2
    assert "io.delta:delta-storage:" in capsys.readouterr().err


def test_each_set_has_a_folder_of_its_own() -> None:
    _fill(jars.cache_directory(POSTGRESQL), [POSTGRESQL.artefacts[0].file_name])
    assert jars.local_jars(DELTA) is None
    assert jars.local_jars(KAFKA) is None
    assert jars.local_jars(POSTGRESQL) is not None


def test_main_prints_the_sets_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    _fill(jars.cache_directory(POSTGRESQL), [POSTGRESQL.artefacts[0].file_name])
    assert jars.main(["postgresql"]) == 0
    assert "PostgreSQL's driver: 1 jar(s) in " in capsys.readouterr().out
    assert jars.main(["postgres"]) == 2
    assert "Did you mean 'postgresql'?" in capsys.readouterr().err
