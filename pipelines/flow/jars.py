"""Java libraries: taken from a directory, from the cache, or fetched once.

Spark's own package mechanism (Ivy) runs only for the fetch, in a process of its own. Sessions are
started with the cached files, so that they need no network and print none of Ivy's chatter.

Standard library only: where BFM_JARS_DIR is set, `make setup` checks it with this module before
anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipelines.errors import EXIT_USER_ERROR, EnvironmentProblemError, UnknownNameError, UserError
from pipelines.flow.artefacts import JAR_SETS, Artefact, JarSet
from pipelines.flow.java import find_java

JARS_DIR_VARIABLE: Final = "BFM_JARS_DIR"

_FETCH_ATTEMPTS: Final = 2
_FETCH_TIMEOUT_S: Final = 300


def jar_set(name: str) -> JarSet:
    """The set of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in JAR_SETS:
        raise UnknownNameError("set of Java libraries", name, JAR_SETS)
    return JAR_SETS[name]


def find_jars(wanted: JarSet) -> tuple[Path, ...]:
    """Jar files of a set, in the order of its artefacts; fetched when they are not here yet.

    Raises:
        EnvironmentProblemError: BFM_JARS_DIR lacks some of them; or it is not set, the cache is
            empty and they cannot be fetched.
    """
    present = local_jars(wanted)
    return present if present is not None else _fetch(wanted)


def local_jars(wanted: JarSet) -> tuple[Path, ...] | None:
    """The jars this machine already has, None when they have yet to be fetched.

    Raises:
        EnvironmentProblemError: BFM_JARS_DIR is set and lacks some of them.
    """
    named = os.environ.get(JARS_DIR_VARIABLE)
    if named:
        return _jars_of(Path(named).expanduser(), wanted)
    cached = tuple(cache_directory(wanted) / one.file_name for one in wanted.artefacts)
    return cached if all(path.is_file() for path in cached) else None


def cache_directory(wanted: JarSet) -> Path:
    """Where the fetched jars of a set are kept."""
    return cache_root() / wanted.folder


def cache_root() -> Path:
    """The folder of all fetched jars."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "bfm" / "jars"


def run_ivy(package: str, ivy: Path, log_path: Path, excludes: str = "") -> Path:
    """Let spark-submit resolve a package for an empty script: no session is started.

    Args:
        package: Maven coordinates, `group:name:version`.
        ivy: Ivy's working folder.
        log_path: Takes what Ivy prints.
        excludes: Ivy patterns of what is left out, separated by commas.

    Returns:
        The folder of the jars that were found; it is missing when none were.
    """
    script = log_path.with_name("nothing.py")
    script.write_text("")
    command = [
        str(_spark_home() / "bin" / "spark-submit"),
        *("--packages", package),
        *("--conf", f"spark.jars.excludes={excludes}"),
        *("--conf", f"spark.jars.ivy={ivy}"),
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
    return ivy / "jars"


def _by_hand(wanted: JarSet) -> str:
    files = ", ".join(artefact.coordinates for artefact in wanted.artefacts)
    return (
        f"Copy the files below into one directory, from a Maven mirror or from ~/.cache/bfm/jars "
        f"of a machine that has them, and let {JARS_DIR_VARIABLE} name it: {files}."
    )


def _jars_of(directory: Path, wanted: JarSet) -> tuple[Path, ...]:
    if not directory.is_dir():
        raise EnvironmentProblemError(
            f"{JARS_DIR_VARIABLE} is '{directory}', which is not a directory. {_by_hand(wanted)}"
        )
    found = {artefact: _jar_in(directory, artefact) for artefact in wanted.artefacts}
    missing = [artefact.file_name for artefact, path in found.items() if path is None]
    if missing:
        raise EnvironmentProblemError(
            f"{JARS_DIR_VARIABLE} is '{directory}', which lacks {', '.join(missing)} "
            f"({wanted.title}). {_by_hand(wanted)}"
        )
    return tuple(path for path in found.values() if path is not None)


def _jar_in(directory: Path, artefact: Artefact) -> Path | None:
    """The artefact under its Maven file name or the name that Ivy gives it."""
    for name in (artefact.file_name, f"{artefact.group}_{artefact.file_name}"):
        path = directory / name
        if zipfile.is_zipfile(path):
            return path
    return None


def _fetch(wanted: JarSet) -> tuple[Path, ...]:
    """Fetch a set into the cache; whoever finishes first fills it for everyone."""
    find_java()
    target = cache_directory(wanted)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblemError(
            f"The jar cache {target.parent} cannot be made: {error}. "
            f"Let XDG_CACHE_HOME name a directory that can be written. Or: {_by_hand(wanted)}"
        ) from error
    log_path = target.parent / f"fetch-{wanted.folder}.log"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        jars = _resolve(wanted, Path(scratch), log_path)
        staged = Path(scratch) / "staged"
        staged.mkdir()
        for artefact, jar in zip(wanted.artefacts, jars, strict=True):
            shutil.copyfile(jar, staged / artefact.file_name)
        _install(staged, target, wanted)
    log_path.unlink(missing_ok=True)
    return tuple(target / artefact.file_name for artefact in wanted.artefacts)


def _install(staged: Path, target: Path, wanted: JarSet) -> None:
    if target.exists() and local_jars(wanted) is None:
        shutil.rmtree(target)  # a cache that somebody took files out of
    try:
        staged.rename(target)
    except OSError:
        if local_jars(wanted) is None:
            raise


def _resolve(wanted: JarSet, scratch: Path, log_path: Path) -> tuple[Path, ...]:
    ivy_log = scratch / "ivy.log"
    for _ in range(_FETCH_ATTEMPTS):
        package = wanted.artefacts[0].coordinates
        folder = run_ivy(package, scratch / "ivy", ivy_log, wanted.excludes)
        found = [_jar_in(folder, artefact) for artefact in wanted.artefacts]
        if all(found):
            return tuple(path for path in found if path is not None)
    shutil.copyfile(ivy_log, log_path)
    raise EnvironmentProblemError(
        f"{wanted.title}: the Java libraries are not on this machine (looked in "
        f"{cache_directory(wanted)}) and could not be fetched; the log is {log_path}. "
        f"With a network, run the command again. Without one: {_by_hand(wanted)}"
    )


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise EnvironmentProblemError("The package pyspark is not installed. Run 'make setup'.")
    return Path(spec.origin).parent


def main(names: Sequence[str] = ()) -> int:
    """Make sure that sets of jars are here and print where; 2 and the way out otherwise.

    Args:
        names: Of the sets; Delta alone by default.
    """
    try:
        for wanted in [jar_set(name) for name in names or ("delta",)]:
            jars = find_jars(wanted)
            print(f"{wanted.title}: {len(jars)} jar(s) in {jars[0].parent}")
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
