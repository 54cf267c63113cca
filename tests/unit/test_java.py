"""Which Java is accepted, and what is said about the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import EnvironmentProblemError
from pipelines.flow.java import find_java

ROOT = Path(__file__).parents[2]


def _java_home(folder: Path, version_line: str, *, has_vector: bool = True) -> Path:
    """A directory with a `bin/java` that answers as the real one of that version does."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    refusal = "" if has_vector else "echo 'Error occurred during boot layer' >&2; exit 1"
    java.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --add-modules ]; then :; {refusal}\nfi\n'
        f"echo '{version_line}' >&2\n"
    )
    java.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("line", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "21.0.4" 2024-07-16 LTS', 21),
    ],
)
def test_17_and_21_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, major: int
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java_home(tmp_path / "jdk", line)))
    java = find_java()
    assert java.major == major
    assert java.path == tmp_path / "jdk" / "bin" / "java"


@pytest.mark.parametrize(
    "line", ['java version "1.8.0_402"', 'openjdk version "11.0.2"', 'openjdk version "25" 2025']
)
def test_other_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java_home(tmp_path / "jdk", line)))
    with pytest.raises(EnvironmentProblemError, match="needs Java 17 or 21, found version") as seen:
        find_java()
    assert line.split('"')[1] in str(seen.value)
    assert "openjdk-17-jdk-headless" in str(seen.value)


def test_a_trimmed_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _java_home(tmp_path / "jdk", 'openjdk version "17.0.1"', has_vector=False)
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(EnvironmentProblemError, match=r"lacks the module jdk\.incubator\.vector"):
        find_java()


def test_a_wrong_java_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EnvironmentProblemError, match=f"JAVA_HOME is '{tmp_path}'"):
        find_java()


def test_no_java_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblemError, match="PATH has no java"):
        find_java()


def test_something_that_is_not_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java_home(tmp_path / "jdk", "hello")))
    with pytest.raises(EnvironmentProblemError, match="did not answer like a Java"):
        find_java()


def test_setup_can_check_java_before_anything_is_installed(tmp_path: Path) -> None:
    """Standard library alone: `-S` hides every installed package."""
    home = _java_home(tmp_path / "jdk", 'openjdk version "17.0.15"')
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipelines.flow.java"],
        cwd=ROOT,
        env={"JAVA_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "17.0.15" in done.stdout
