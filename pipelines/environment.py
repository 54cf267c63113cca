"""Settings from the environment: what is wrong is told by the variable's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from pipelines.errors import EnvironmentProblemError

Settings = TypeVar("Settings", bound=BaseSettings)


def from_environment(settings: type[Settings], whose: str, **given: Any) -> Settings:
    """Settings of the environment, and values that are given in place of it.

    Args:
        settings: Their class; its prefix and a field's name make a variable's name.
        whose: Whose settings they are, for the message.
        given: Values by name of the field.

    Raises:
        EnvironmentProblemError: a value is missing or not allowed; the message names the variable,
            what came and what is allowed.
    """
    prefix = settings.model_config.get("env_prefix", "")
    try:
        return settings(**given)
    except ValidationError as error:
        problems = "; ".join(_problem(settings, prefix, one) for one in error.errors())
    except SettingsError as error:
        problems = str(error)
    raise EnvironmentProblemError(
        f"{whose} settings are wrong. {problems}. Correct or unset the variable(s)."
    ) from None


def _problem(settings: type[BaseSettings], prefix: str, problem: Mapping[str, Any]) -> str:
    """One problem; a secret, and the input of a check over several fields, is not told."""
    said = str(problem["msg"]).removeprefix("Value error, ")
    name = f"{prefix}{'.'.join(str(part) for part in problem['loc'])}".upper()
    if not problem["loc"]:
        return said
    if problem["type"] == "missing":
        return f"{name} is not set"
    field = settings.model_fields.get(str(problem["loc"][0]))
    if field is not None and "SecretStr" in str(field.annotation):
        return f"{name}: {said}"
    return f"{name} is '{problem['input']}': {said}"
