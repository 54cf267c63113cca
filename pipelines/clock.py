"""Moments and UTC microseconds since 1970, the way that tables and the model count time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """UTC microseconds since 1970 of a moment that knows its zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(time_us: int) -> datetime:
    """The moment of UTC microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=time_us)
