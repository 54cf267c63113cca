"""The Java libraries of Delta: taken from a directory, from the cache, or fetched once.

Spark's own package mechanism (Ivy) runs only for the fetch, in a process of its own. Sessions are
started with the cached files, so that they need no network and print none of Ivy's chatter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipelines.errors import EXIT_USER_ERROR, EnvironmentProblemError
from pipelines.flow.java import find_java

JARS_DIR_VARIABLE: Final = "BFM_JARS_DIR"
DELTA_VERSION: Final = "4.4.0"
SPARK_MINOR: Final = "4.1"
UNITY_CATALOG_VERSION: Final = "0.6.0"

_FETCH_ATTEMPTS: Final = 2
_FETCH_TIMEOUT_S: Final = 300
# What Delta names beyond these, Spark ships already, and newer.
_SHIPPED_BY_SPARK: Final = "org.*:*,com.*:*,commons-*:*,javax.*:*,io.airlift:*"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One Maven artefact."""

    group: str
    name: str
    version: str

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.jar"


def _delta(name: str) -> Artefact:
    return Artefact(group="io.delta", name=name, version=DELTA_VERSION)


def _unity(name: str) -> Artefact:
    return Artefact(group="io.unitycatalog", name=name, version=UNITY_CATALOG_VERSION)


DELTA_SPARK: Final = _delta(f"delta-spark_{SPARK_MINOR}_2.13")
ARTEFACTS: Final = (
    DELTA_SPARK,
    _delta("delta-storage"),
    _delta("delta-kernel-api"),
    _delta("delta-kernel-defaults"),
    _delta("delta-kernel-unitycatalog"),
    _unity("unitycatalog-client"),
    _unity("unitycatalog-hadoop"),
)
_BY_HAND: Final = (
    f"Copy the files below into one directory, from a Maven mirror or from ~/.cache/bfm/jars of a "
    f"machine that has them, and let {JARS_DIR_VARIABLE} name it: "
    + ", ".join(artefact.coordinates for artefact in ARTEFACTS)
    + "."
)


def delta_jars() -> tuple[Path, ...]:
    """Jar files of `ARTEFACTS`, in that order.

    Raises:
        EnvironmentProblemError: BFM_JARS_DIR lacks some of them; or it is not set, the cache is
            empty and they cannot be fetched.
    """
    present = local_jars()
    return present if present is not None else _fetch()


def local_jars() -> tuple[Path, ...] | None:
    """The jars this machine already has, None when they have yet to be fetched.

    Raises:
        EnvironmentProblemError: BFM_JARS_DIR is set and lacks some of them.
    """
    named = os.environ.get(JARS_DIR_VARIABLE)
    if named:
        return _jars_of(Path(named).expanduser())
    cached = tuple(cache_directory() / artefact.file_name for artefact in ARTEFACTS)
    return cached if all(path.is_file() for path in cached) else None


def cache_directory() -> Path:
    """Where fetched jars are kept: one folder per pair of Delta and Spark versions."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "bfm" / "jars" / f"delta-{DELTA_VERSION}-spark-{SPARK_MINOR}"


def _jars_of(directory: Path) -> tuple[Path, ...]:
    if not directory.is_dir():
        raise EnvironmentProblemError(
            f"{JARS_DIR_VARIABLE} is '{directory}', which is not a directory. {_BY_HAND}"
        )
    found = {artefact: _jar_in(directory, artefact) for artefact in ARTEFACTS}
    missing = [artefact.file_name for artefact, path in found.items() if path is None]
    if missing:
        raise EnvironmentProblemError(
            f"{JARS_DIR_VARIABLE} is '{directory}', which lacks {', '.join(missing)}. {_BY_HAND}"
        )
    return tuple(path for path in found.values() if path is not None)


def _jar_in(directory: Path, artefact: Artefact) -> Path | None:
    """The artefact under its Maven file name or the name that Ivy gives it."""
    for name in (artefact.file_name, f"{artefact.group}_{artefact.file_name}"):
        path = directory / name
        if zipfile.is_zipfile(path):
            return path
    return None


def _fetch() -> tuple[Path, ...]:
    """Fetch all artefacts into the cache; whoever finishes first fills it for everyone."""
    find_java()
    target = cache_directory()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblemError(
            f"The jar cache {target.parent} cannot be made: {error}. "
            f"Let XDG_CACHE_HOME name a directory that can be written. Or: {_BY_HAND}"
        ) from error
    log_path = target.parent / "fetch.log"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        jars = _resolve(Path(scratch), log_path)
        staged = Path(scratch) / "staged"
        staged.mkdir()
        for artefact, jar in zip(ARTEFACTS, jars, strict=True):
            shutil.copyfile(jar, staged / artefact.file_name)
        _install(staged, target)
    log_path.unlink(missing_ok=True)
    return tuple(target / artefact.file_name for artefact in ARTEFACTS)


def _install(staged: Path, target: Path) -> None:
    if target.exists() and local_jars() is None:
        shutil.rmtree(target)  # a cache that somebody took files out of
    try:
        staged.rename(target)
    except OSError:
        if local_jars() is None:
            raise


def _resolve(scratch: Path, log_path: Path) -> tuple[Path, ...]:
    log_path.write_text("")
    for _ in range(_FETCH_ATTEMPTS):
        _run_ivy(scratch, log_path)
        found = [_jar_in(scratch / "ivy" / "jars", artefact) for artefact in ARTEFACTS]
        if all(found):
            return tuple(path for path in found if path is not None)
    raise EnvironmentProblemError(
        f"Delta's Java libraries are not on this machine (looked in {cache_directory()}) and "
        f"could not be fetched; the log is {log_path}. "
        f"With a network, run 'make setup' again. Without one: {_BY_HAND}"
    )


def _run_ivy(scratch: Path, log_path: Path) -> None:
    """Let spark-submit resolve the packages for an empty script: no session is started."""
    script = scratch / "nothing.py"
    script.write_text("")
    command = [
        str(_spark_home() / "bin" / "spark-submit"),
        "--packages",
        DELTA_SPARK.coordinates,
        "--conf",
        f"spark.jars.excludes={_SHIPPED_BY_SPARK}",
        "--conf",
        f"spark.jars.ivy={scratch / 'ivy'}",
        str(script),
    ]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(_spark_home())}
    with log_path.open("ab") as log:
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                timeout=_FETCH_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            log.write(f"{error}\n".encode())


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise EnvironmentProblemError("The package pyspark is not installed. Run 'make setup'.")
    return Path(spec.origin).parent


def main() -> int:
    """Make sure that the jars are here and print where; 2 and the way out otherwise."""
    try:
        jars = delta_jars()
    except EnvironmentProblemError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"Jars: {len(jars)} in {jars[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
