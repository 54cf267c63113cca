"""Set-up for real: sessions that come and go, jars that are fetched, scripts that refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines import lake
from pipelines.errors import EnvironmentProblemError
from pipelines.flow.artefacts import DELTA, Artefact
from pipelines.flow.spark import jvm_peak_bytes, read_settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]
MIB = 2**20

pytestmark = pytest.mark.integration

# Runs in a process of its own, because the test run's shared session lives in this one.
TWO_SESSIONS = """
import sys
import zipfile
from pathlib import Path
import psutil
from pyspark.errors import AnalysisException
from pipelines.flow.spark import SparkJobError, SparkSettings, jvm_peak_bytes, spark_session

def processes():
    return [child.name() for child in psutil.Process().children(recursive=True)]

log = Path(sys.argv[1])
quick = {"spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"}
settings = SparkSettings(
    master="local[1]", driver_memory="512m", shuffle_partitions=1, conf=quick
)
assert jvm_peak_bytes() == 0
with spark_session("first", log_path=log, settings=settings) as spark:
    assert "java" in processes(), processes()
    with spark_session("inner") as inner:
        assert inner is spark
    assert spark.range(3).count() == 3
    try:
        spark.table("no_such_table").count()
    except AnalysisException as error:
        kept = error
assert processes() == [], processes()
assert "no_such_table" in str(kept)
peak = jvm_peak_bytes()
assert peak > 100 * 2**20, peak
try:
    with spark_session("second", log_path=log, settings=settings) as spark:
        print("rows", spark.range(5).count())
        spark.table("another_missing_table")
except SparkJobError as error:
    assert "another_missing_table" in str(error), error
    print("told")
assert processes() == [], processes()
"""


@pytest.mark.slow
def test_sessions_come_and_go_with_their_jvm(tmp_path: Path) -> None:
    log = tmp_path / "spark.log"
    done = subprocess.run(
        [sys.executable, "-c", TWO_SESSIONS, str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["rows", "5", "told"]
    assert done.stderr == "", "Spark's own words belong in the log"
    assert log.stat().st_size > 0


def test_session_is_set_up_for_small_tables(spark: SparkSession) -> None:
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.get("spark.sql.ansi.enabled") == "true"
    assert spark.conf.get("spark.databricks.delta.snapshotPartitions") == "2"
    assert spark.conf.get("spark.sql.shuffle.partitions") == "2"
    assert spark.sparkContext.pythonExec == sys.executable
    assert jvm_peak_bytes() > 100 * MIB


def test_what_spark_writes_delta_rs_reads(spark: SparkSession, workspace: Workspace) -> None:
    path = str(workspace.table("events"))
    spark.sql("select 'u' || id as user_id, id as n from range(100)").write.format("delta").save(
        path
    )
    spark.sql(f"delete from delta.`{path}` where n < 10")
    table = lake.read(workspace, "events")
    assert sorted(table.column("n").to_pylist()) == list(range(10, 100))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BFM_SPARK_DRIVER_MEMORY", "a lot", "String should match pattern"),
        ("BFM_SPARK_SHUFFLE_PARTITIONS", "0", "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentProblemError) as refused:
        read_settings()
    assert f"{name} is '{value}'" in str(refused.value)
    assert said in str(refused.value)


def test_a_jar_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = _python(
        "from pipelines.flow.spark import spark_session\nwith spark_session('x'): pass\n",
        BFM_SPARK_EXTRA_JARS=str(tmp_path / "driver.jar"),
    )
    assert done.returncode == 1
    assert (
        f"BFM_SPARK_EXTRA_JARS names files that do not exist: {tmp_path}/driver.jar" in done.stderr
    )


def test_a_jvm_that_does_not_start_is_explained(tmp_path: Path) -> None:
    done = _python(
        "from pipelines.flow.spark import SparkSettings, spark_session\n"
        "conf = {'spark.driver.extraJavaOptions': '-agentlib:nosuchagent'}\n"
        "settings = SparkSettings(conf=conf)\n"
        "with spark_session('x', settings=settings): pass\n"
    )
    assert done.returncode == 1
    assert "Spark did not start (master local[*], driver memory 2g)" in done.stderr
    assert "nosuchagent" in done.stderr
    assert "bfm doctor" in done.stderr


def test_jars_are_fetched_once_into_the_cache(tmp_path: Path) -> None:
    """From a Maven repository in the home directory, which Spark asks first: no network."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    _write_maven_repository(home / ".m2" / "repository")
    first = _fetch(home, cache)
    assert first.returncode == 0, first.stderr
    folder = cache / "bfm" / "jars"
    assert [path.name for path in folder.iterdir()] == [DELTA.folder]
    fetched = {path.name for path in (folder / DELTA.folder).iterdir()}
    assert fetched == {artefact.file_name for artefact in DELTA.artefacts}
    again = _fetch(tmp_path / "no-home", cache)
    assert again.returncode == 0, again.stderr


def test_no_jars_and_no_network_tells_the_way_out(tmp_path: Path) -> None:
    done = _fetch(tmp_path / "no-home", tmp_path)
    assert done.returncode == 2
    assert "let BFM_JARS_DIR name it" in done.stderr
    log = tmp_path / "bfm" / "jars" / f"fetch-{DELTA.folder}.log"
    assert str(log) in done.stderr
    assert "io.delta" in log.read_text()


def _fetch(home: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines.flow.jars` with the network cut: a proxy that nobody answers."""
    cut = f"-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9 -Duser.home={home}"
    return _python(
        "import sys; from pipelines.flow import jars; sys.exit(jars.main())",
        XDG_CACHE_HOME=str(cache),
        JAVA_TOOL_OPTIONS=cut,
    )


def _write_maven_repository(root: Path) -> None:
    first, *others = DELTA.artefacts
    for artefact in DELTA.artefacts:
        needs = others if artefact == first else []
        folder = root.joinpath(*artefact.group.split("."), artefact.name, artefact.version)
        folder.mkdir(parents=True)
        (folder / artefact.file_name).with_suffix(".pom").write_text(_pom(artefact, needs))
        with zipfile.ZipFile(folder / artefact.file_name, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")


def _pom(artefact: Artefact, needs: list[Artefact]) -> str:
    def place(of: Artefact) -> str:
        return (
            f"<groupId>{of.group}</groupId><artifactId>{of.name}</artifactId>"
            f"<version>{of.version}</version>"
        )

    dependencies = "".join(f"<dependency>{place(need)}</dependency>" for need in needs)
    return (
        f"<project><modelVersion>4.0.0</modelVersion>{place(artefact)}"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if name != "BFM_JARS_DIR"}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=outer | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make setup` reads, in a folder without an environment."""
    folder = tmp_path / "checkout"
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "infra/setup.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("pipelines/__init__.py", "pipelines/errors.py", "pipelines/flow"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    return folder


def _make(checkout: Path, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *targets],
        cwd=checkout,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", ["setup", "demo", "test"])
def test_setup_refuses_a_machine_without_java_at_once(
    checkout: Path, tmp_path: Path, target: str
) -> None:
    done = _make(checkout, target, JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"JAVA_HOME is '{tmp_path}'" in done.stderr
    assert "openjdk-17-jdk-headless" in done.stderr
    assert not (checkout / ".venv").exists()


def test_setup_refuses_a_directory_that_lacks_jars_at_once(checkout: Path, tmp_path: Path) -> None:
    done = _make(checkout, "setup", BFM_JARS_DIR=str(tmp_path))
    assert done.returncode == 2
    assert f"BFM_JARS_DIR is '{tmp_path}', which lacks delta-spark" in done.stderr
    assert not (checkout / ".venv").exists()


def test_setup_without_uv_and_without_an_index_tells_the_way_out(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "uv").chmod(0o755)
    paths = f"{tmp_path}:{os.environ['PATH']}"
    closed = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "BFM_JARS_DIR": ""}
    done = _make(checkout, "setup", PATH=paths, **closed)
    assert done.returncode == 2
    assert "pip cannot get uv==" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert "No matching distribution" not in done.stderr
    assert "No matching distribution" in (checkout / ".venv" / "uv.log").read_text()


def test_setup_refuses_a_machine_without_python(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("make", "sh", "cat", "cksum", "env"):
        (tools / name).symlink_to(shutil.which(name) or "")
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # too old for the question
    (tools / "python3").chmod(0o755)
    done = _make(checkout, "setup", PATH=str(tools))
    assert done.returncode == 2
    assert "No Python 3.11 or 3.12 on PATH" in done.stderr


def test_setup_that_was_done_is_not_done_again(checkout: Path) -> None:
    """An environment whose stamp matches is taken as it is."""
    scripts = checkout / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").symlink_to(sys.executable)
    (scripts / "bfm").write_text("#!/bin/sh\n")
    (scripts / "bfm").chmod(0o755)
    key = subprocess.run(
        "cat constraints.txt pyproject.toml | cksum",
        shell=True,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    (checkout / ".venv" / ".setup-stamp").write_text(key.stdout)
    done = _make(checkout, "setup")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Already set up in .venv; nothing to do.\n"


def test_make_alone_lists_its_targets(checkout: Path) -> None:
    listed = _make(checkout).stdout
    for target in ("setup", "demo", "test", "lint", "types", "clean"):
        assert f"make {target}" in listed
