"""Finds the Java that Spark will use and refuses one it cannot run on.

Standard library only: `make setup` runs `python -m pipelines.flow.java` before anything is
installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.errors import EXIT_USER_ERROR, EnvironmentProblemError

ALLOWED_MAJORS: Final = (17, 21)
REMEDY: Final = (
    "Install a full Java 17 or 21 (on Debian and Ubuntu: apt-get install openjdk-17-jdk-headless) "
    "and put it on PATH, or let JAVA_HOME name its directory."
)
_TIMEOUT_S: Final = 30
_VERSION: Final = re.compile(r'version "(\d+)(?:\.(\d+))?[^"]*"')


@dataclass(frozen=True, kw_only=True)
class JavaRuntime:
    """A Java executable and its version line."""

    path: Path
    major: int
    version: str


def find_java() -> JavaRuntime:
    """The Java of JAVA_HOME, else of PATH: the order in which Spark itself looks.

    Raises:
        EnvironmentProblemError: No Java, a version outside 17 and 21, or a trimmed Java without
            the vector module that Spark starts with.
    """
    path = _executable()
    output = _run(path, "-version")
    version, major = _parse(path, output)
    if major not in ALLOWED_MAJORS:
        raise EnvironmentProblemError(
            f"Spark needs Java 17 or 21, found {version} at {path}. {REMEDY}"
        )
    _require_vector_module(path, version)
    return JavaRuntime(path=path, major=major, version=version)


def _executable() -> Path:
    home = os.environ.get("JAVA_HOME")
    if home:
        path = Path(home) / "bin" / "java"
        if not path.is_file():
            raise EnvironmentProblemError(
                f"JAVA_HOME is '{home}', but there is no {path}. Correct or unset it. {REMEDY}"
            )
        return path
    found = shutil.which("java")
    if found is None:
        raise EnvironmentProblemError(
            f"Spark needs Java 17 or 21; JAVA_HOME is not set and PATH has no java. {REMEDY}"
        )
    return Path(found)


def _parse(path: Path, output: str) -> tuple[str, int]:
    match = _VERSION.search(output)
    if match is None:
        raise EnvironmentProblemError(
            f"'{path} -version' did not answer like a Java: {output.strip()[:200]!r}. {REMEDY}"
        )
    first, second = int(match[1]), int(match[2] or 0)
    return match[0], second if first == 1 else first


def _require_vector_module(path: Path, version: str) -> None:
    output = _run(path, "--add-modules", "jdk.incubator.vector", "-version")
    if _VERSION.search(output) is None:
        raise EnvironmentProblemError(
            f"The Java at {path} ({version}) lacks the module jdk.incubator.vector, without which "
            f"Spark does not start. {REMEDY}"
        )


def _run(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblemError(f"'{path}' cannot be run: {error}. {REMEDY}") from error
    return done.stderr + done.stdout


def main() -> int:
    """Print the Java in use; 2 and the way out when there is none."""
    try:
        java = find_java()
    except EnvironmentProblemError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"Java: {java.version} at {java.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
