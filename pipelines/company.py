"""`company.yaml`: a business describes its data once, and every room reads it from here.

The file is typed and unknown keys are refused. A column of the contract is filled by a *column
expression*: the name of a source column, or one of the ways in `pipelines.expressions`. Source
columns that the contract does not know become extra fields with a semantic type. Tables that
expressions look values up in stand under `lookups`.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipelines.contracts import (
    CATALOGUE,
    CONTENT_HASH,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    EVENTS,
    ITEM_ID,
    KEY_HASH,
    PROFILES,
    RAW_ROW,
    ROW_HASH,
    RULE,
    SOURCE_TABLE,
    TITLE,
    USER_ID,
    Column,
    SemanticType,
    TableContract,
)
from pipelines.errors import CompanyConfigError
from pipelines.expressions import ColumnExpression, DecimalMark, Expression, Strict, TimeZone
from pipelines.flags import FlagsConfig

PACKAGE_PREFIX: Final = "package:"
NAME_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,62}$"
FIELD_PATTERN: Final = r"^[a-z][a-z0-9_]{0,62}$"
RESERVED_FIELDS: Final = (
    CONTENT_HASH,
    KEY_HASH,
    SOURCE_TABLE,
    RULE,
    RAW_ROW,
    ROW_HASH,
    *("item", "gap", "hour", "weekday", "session_start"),
)
"""Names of columns and tokens that the platform makes itself."""


SECRET_OPTIONS: Final = ("password", "pass", "pwd", "secret", "token")
_SECRET_IN_URL: Final = re.compile(r"(?i)\b(password|passwd|pwd)\s*=|://[^/@\s]*:[^/@\s]*@")


class ExtraField(Strict):
    """A source column that the contract does not know, with its meaning."""

    type: Annotated[SemanticType, Field(strict=False)]
    source: Annotated[Expression | None, Field(alias="from")] = None

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class SourceConfig(Strict):
    """Where a table's raw rows come from.

    `format` names a registered reader; `path` is relative to the folder of `company.yaml`,
    absolute, or `package:NAME/inside/path` for data that an installed Python package carries.
    """

    format: str
    path: str | None = None
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            if name in SECRET_OPTIONS or _SECRET_IN_URL.search(str(given)):
                raise ValueError(
                    f"'{name}' holds a password. Put the password into an environment variable "
                    "and give that variable's name as 'password_variable'."
                )
        return value


class TableConfig(Strict):
    """One source table and how its columns become a canonical table.

    `time_zone` (IANA name) is needed where times hold no zone; `time_unit` where they are numbers
    since 1970-01-01 UTC. `decimal_mark: ","` reads numbers that are text as 1.234,50 is meant;
    lookup tables are read with the mark of the table that asks. `max_quarantined_share` is the
    share of rows that may break a rule before the line stops. Rows with a negative quantity or
    amount go to quarantine, or become events of type `return` with the values' sizes
    (`negative_quantity: return_event`).
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    into: Literal["events", "catalogue", "profiles"]
    source: SourceConfig
    time_zone: TimeZone = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    decimal_mark: DecimalMark = "."
    negative_quantity: Literal["quarantine", "return_event"] = "quarantine"
    max_quarantined_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    columns: dict[str, Expression]
    fields: dict[Annotated[str, Field(pattern=FIELD_PATTERN)], ExtraField] = Field(
        default_factory=dict
    )

    @property
    def contract(self) -> TableContract:
        return {"events": EVENTS, "catalogue": CATALOGUE, "profiles": PROFILES}[self.into]

    def field_expression(self, name: str) -> ColumnExpression:
        """The expression behind an extra field; by default the source column of that name."""
        return self.fields[name].source or ColumnExpression(column=name)

    @property
    def expressions(self) -> dict[str, ColumnExpression]:
        """All expressions by their keys."""
        columns = {f"columns.{name}": expression for name, expression in self.columns.items()}
        return columns | {f"fields.{name}": self.field_expression(name) for name in self.fields}

    @model_validator(mode="after")
    def _columns_known_and_complete(self) -> TableConfig:
        known = set(self.contract.column_names)
        unknown = sorted(set(self.columns) - known)
        if unknown:
            raise ValueError(
                f"columns {unknown} are not columns of '{self.into}' (allowed: {sorted(known)}); "
                "put a company's own columns under 'fields'"
            )
        if self.negative_quantity != "quarantine" and self.into != "events":
            raise ValueError(f"negative_quantity is for 'events'; take it out of '{self.into}'")
        clash = sorted(set(self.fields) & known)
        if clash:
            raise ValueError(f"fields {clash} have the name of a contract column; rename them")
        reserved = sorted(set(self.fields) & set(RESERVED_FIELDS))
        if reserved:
            raise ValueError(f"fields {reserved} have a name that the platform uses; rename them")
        needed = {
            "events": (USER_ID, EVENT_TIME, EVENT_TYPE),
            "catalogue": (ITEM_ID, TITLE),
            "profiles": (USER_ID,),
        }[self.into]
        missing = [name for name in needed if name not in self.columns]
        if missing:
            raise ValueError(f"columns {missing} are required for '{self.into}'")
        return self


class LookupConfig(Strict):
    """A table that column expressions look values up in."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    source: SourceConfig


class CompanyConfig(Strict):
    """A company: its name, tables, the tables that these look values up in, retention and flags.

    `tasks` is a Python file of the company's own questions about users. `retention_days` is the age
    from which on events leave the workspace at the next run, and with them all that was made of
    them; without it nothing expires.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    tasks: str | None = None
    retention_days: Annotated[int, Field(ge=1)] | None = None
    tables: Annotated[tuple[TableConfig, ...], BeforeValidator(tuple), Field(min_length=1)]
    lookups: Annotated[tuple[LookupConfig, ...], BeforeValidator(tuple)] = ()
    flags: FlagsConfig = FlagsConfig()

    @property
    def sources(self) -> tuple[TableConfig | LookupConfig, ...]:
        """All tables that are read."""
        return (*self.tables, *self.lookups)

    def tasks_path(self, company_path: Path) -> Path | None:
        """The file of the company's own tasks; a relative one lies beside the description."""
        return None if self.tasks is None else company_path.parent / Path(self.tasks).expanduser()

    @model_validator(mode="after")
    def _consistent(self) -> CompanyConfig:
        names = [one.name for one in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"table names {twice} appear twice")
        if not any(table.into == "events" for table in self.tables):
            raise ValueError("no table goes into 'events'; at least one is needed")
        for into in ("events", "catalogue", "profiles"):
            self._field_types(into)
        self._refuse_unknown_lookups()
        self.flags.refuse_unknown(self._field_types("profiles"))
        return self

    def _refuse_unknown_lookups(self) -> None:
        known = sorted(lookup.name for lookup in self.lookups)
        for table in self.tables:
            for key, expression in table.expressions.items():
                for lookup in expression.lookups:
                    if lookup.table not in known:
                        raise ValueError(
                            f"tables.{table.name}.{key}: table '{lookup.table}' does not stand "
                            f"under 'lookups' (there: {known}); add it with its name and source"
                        )

    def _field_types(self, into: str) -> dict[str, SemanticType]:
        types: dict[str, SemanticType] = {}
        for table in self.tables:
            if table.into != into:
                continue
            for name, field in table.fields.items():
                if types.setdefault(name, field.type) != field.type:
                    raise ValueError(f"field '{name}' has two types in '{into}'")
        return types

    def contract(self, into: Literal["events", "catalogue", "profiles"]) -> TableContract:
        """The canonical contract with this company's extra fields, in order of name."""
        base = {"events": EVENTS, "catalogue": CATALOGUE, "profiles": PROFILES}[into]
        types = self._field_types(into)
        return base.with_fields(
            tuple(
                Column(name=name, type=types[name].column_type, semantic=types[name])
                for name in sorted(types)
            )
        )


def load_company(path: Path) -> CompanyConfig:
    """Read and validate a `company.yaml`.

    Raises:
        CompanyConfigError: the file is missing, is not YAML, or breaks the schema; the message
            names the file and each offending key.
    """
    if not path.is_file():
        raise CompanyConfigError(
            f"{path}: no such file. Give --company the path of a company.yaml, "
            "or 'complete-journey' for the built-in example."
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CompanyConfigError(f"{path}: not valid YAML in UTF-8: {error}") from error
    if not isinstance(raw, dict):
        raise CompanyConfigError(f"{path}: expected keys 'name' and 'tables', found {raw!r:.60}")
    try:
        return CompanyConfig.model_validate(raw)
    except ValidationError as error:
        raise CompanyConfigError(_describe(path, error)) from error


def _describe(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: {error.error_count()} problem(s) in the description of the company:"]
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or check its spelling"
        lines.append(f"  {key}: {message}")
    return "\n".join(lines)


def resolve_path(text: str, company_path: Path) -> Path:
    """Absolute path of a `source.path`; see `SourceConfig`.

    Raises:
        CompanyConfigError: `package:NAME/...` names a package that is not installed.
    """
    if not text.startswith(PACKAGE_PREFIX):
        return (company_path.parent / Path(text).expanduser()).resolve()
    package, _, inside = text.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CompanyConfigError(
            f"{company_path}: path '{text}' needs the Python package '{package}', which is not "
            f"installed. Install it with: pip install {package.replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inside


__all__ = [
    "EVENT_ID",
    "ColumnExpression",
    "CompanyConfig",
    "ExtraField",
    "LookupConfig",
    "SourceConfig",
    "TableConfig",
    "load_company",
    "resolve_path",
]
