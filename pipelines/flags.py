"""Whom a company knows to be no customer, as `company.yaml` says it under `flags`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import BeforeValidator, Field

from pipelines.expressions import Strict


class StaffConfig(Strict):
    """Accounts of the company's own people: by their ids, or by fields of their profiles.

    `profile` gives a value by field: whoever has one of them is staff.
    """

    users: Annotated[tuple[str, ...], BeforeValidator(tuple)] = ()
    profile: dict[str, str] = Field(default_factory=dict)


class BotsConfig(Strict):
    """Nobody does more than `max_events_per_day` on one day (UTC) by hand."""

    max_events_per_day: Annotated[int, Field(ge=1)] | None = None


class FlagsConfig(Strict):
    """Users that are kept and flagged. Outliers in behaviour are flagged without a rule, too."""

    staff: StaffConfig = StaffConfig()
    bots: BotsConfig = BotsConfig()

    def refuse_unknown(self, fields: Collection[str]) -> None:
        """Refuse profile fields that the company does not have.

        Raises:
            ValueError: names them, and the fields there are.
        """
        unknown = sorted(set(self.staff.profile) - set(fields))
        if unknown:
            raise ValueError(
                f"flags.staff.profile: {unknown} are no fields of 'profiles' "
                f"(there: {sorted(fields)})"
            )
