"""Container files and settings examples: linted, and nothing in them without a reader."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import RAY_ADDRESS_ENVIRONMENT_VARIABLE

from feature_store.settings import ShelfSettings
from pipelines.flow.jars import JARS_DIR_VARIABLE
from pipelines.flow.spark import SparkSettings
from serving.settings import ServingSettings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
CONTAINER_FILES = ("Containerfile.jobs", "Containerfile.serving")
BIN = Path(sys.executable).parent


def _names(settings: type, prefix: str) -> set[str]:
    return {f"{prefix}{field}".upper() for field in settings.model_fields}  # type: ignore[attr-defined]


READERS = {
    "spark.env": _names(SparkSettings, "BFM_SPARK_") | {JARS_DIR_VARIABLE},
    "ray.env": {RAY_ADDRESS_ENVIRONMENT_VARIABLE, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"},
    "serving.env": _names(ServingSettings, "BFM_"),
    "shelf.env": _names(ShelfSettings, "BFM_SHELF_"),
}


def _assignments(name: str) -> dict[str, str]:
    """All settings of an example, those that are commented out included."""
    text = (INFRA / name).read_text()
    return dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", text, flags=re.MULTILINE))


def _services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((INFRA / "compose.yaml").read_text())[
        "services"
    ]
    return services


def test_container_files_pass_the_linter() -> None:
    paths = [str(INFRA / name) for name in CONTAINER_FILES]
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_file_follows_the_specification() -> None:
    done = subprocess.run(
        [
            BIN / "check-jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            INFRA / "compose.yaml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_setting_has_a_reader(name: str) -> None:
    assert _assignments(name)
    assert set(_assignments(name)) <= READERS[name]


def test_no_spark_setting_is_left_out() -> None:
    assert set(_assignments("spark.env")) == READERS["spark.env"]


def test_examples_of_spark_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _assignments("spark.env").items():
        monkeypatch.setenv(name, value)
    settings = SparkSettings()
    assert settings.conf == {"spark.executor.memory": "8g"}
    defaults = SparkSettings.model_fields
    for field in ("master", "driver_host", "driver_memory", "extra_jars"):
        assert getattr(settings, field) == defaults[field].default


def test_examples_of_serving_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = _assignments("serving.env")
    for name, value in examples.items():
        monkeypatch.setenv(name, value)
    settings = ServingSettings(workspace=Path("workspace"))
    for name in set(examples) - {"BFM_MAX_STATE_AGE_DAYS", "BFM_ADMIN_TOKEN"}:
        field = name.removeprefix("BFM_").lower()
        assert getattr(settings, field) == ServingSettings.model_fields[field].default, name


def test_shelf_example_names_the_store_of_the_compose_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _assignments("shelf.env").items():
        monkeypatch.setenv(name, value)
    settings = ShelfSettings()
    assert settings.online_store == "redis"
    assert settings.connection.split(":")[0] in _services()


@pytest.mark.parametrize("name", ["serving", "jobs"])
def test_services_build_from_files_that_exist(name: str) -> None:
    service = _services()[name]
    build = service["build"]
    context = (INFRA / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    assert all((INFRA / file).is_file() for file in service["env_file"])
    assert "shelf.env" in service["env_file"]


def test_jobs_see_a_company_s_folder_and_keep_fetched_jars() -> None:
    volumes = _services()["jobs"]["volumes"]
    assert "${BFM_COMPANY_DIR:-./company}:/company:ro" in volumes
    cache = re.search("XDG_CACHE_HOME=(.*)", (INFRA / "Containerfile.jobs").read_text())
    assert cache is not None
    assert f"jars:{cache[1]}" in volumes


def test_a_build_is_sent_neither_environment_nor_workspaces_and_all_that_it_copies() -> None:
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line}
    assert {".git", ".venv", "workspace", "**/__pycache__"} <= ignored
    for name in CONTAINER_FILES:
        lines = (INFRA / name).read_text().splitlines()
        copied = {part for line in lines if line.startswith("COPY") for part in line.split()[1:-1]}
        assert "README.md" in copied, "pyproject.toml names it"
        assert not copied & ignored


def test_counter_is_published_on_loopback_alone() -> None:
    ports = [port for service in _services().values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:${BFM_HOST_PORTS:-8000}:8000"]


@pytest.mark.parametrize("name", CONTAINER_FILES)
def test_images_copy_what_exists_and_leave_root(name: str) -> None:
    lines = (INFRA / name).read_text().splitlines()
    copied = [part for line in lines if line.startswith("COPY") for part in line.split()[1:-1]]
    assert copied
    assert all((ROOT / part).exists() for part in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001"]
    last_user = max(i for i, line in enumerate(lines) if line.startswith("USER"))
    entry = next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    assert last_user < entry
