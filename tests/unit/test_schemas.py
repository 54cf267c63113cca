"""Requests are strict, and times are exact to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipelines.clock import from_micros, to_micros
from pipelines.tokens.vocabulary import PROBE_TYPE
from serving.schemas import (
    EmbeddingRequest,
    LiveEvent,
    RecommendationRequest,
    SearchRequest,
    TagRequest,
    UtcTime,
)
from tests.small_shop import live_event


class _Timed(BaseModel):
    time: UtcTime


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
)
def test_times_are_exact(naive: datetime, offset_minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    if not 1971 <= moment.year < 2200:
        return
    read = _Timed.model_validate({"time": moment.isoformat()}).time
    assert read == moment
    assert from_micros(to_micros(read)) == moment


@pytest.mark.parametrize(
    "value",
    [
        "2017-10-01T00:00:00",
        "1969-12-31T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "",
        "now",
        5,
        None,
    ],
)
def test_other_times_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        _Timed.model_validate({"time": value})


def test_a_type_that_is_the_model_s_own_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"\[PROBE\] is reserved"):
        LiveEvent.model_validate(live_event(event_type=PROBE_TYPE))
    schema = LiveEvent.model_json_schema()["properties"]["event_type"]
    assert schema["not"] == {"const": PROBE_TYPE}


def test_an_event_keeps_its_own_fields_and_drops_what_is_missing() -> None:
    event = LiveEvent.model_validate(live_event(query=None, quantity=2))
    moment = to_micros(datetime(2017, 10, 1, 8, tzinfo=UTC))
    assert event.canonical() == {**live_event(), "quantity": 2.0, "event_time": moment}


def test_own_fields_are_taken_as_tables_take_them() -> None:
    event = LiveEvent.model_validate(live_event(store=" north\t", discount=2, channel=None))
    assert (event.extras["store"], event.extras["discount"]) == ("north", 2.0)
    assert "store" not in LiveEvent.model_validate(live_event(store=" \t")).canonical()


def test_a_text_may_have_lines() -> None:
    assert TagRequest.model_validate({"text": "red shoes\n\tsize 40"}).text


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (TagRequest, {}),
        (TagRequest, {"item_id": "a", "text": "b"}),
        (EmbeddingRequest, {"entity": "item", "ids": ["a"], "as_of": "2017-10-01T00:00:00Z"}),
        (EmbeddingRequest, {"entity": "text", "text": "b", "as_of": "2017-10-01T00:00:00Z"}),
        (SearchRequest, {"query": "tea", "as_of": "2017-10-01T00:00:00Z"}),
        (EmbeddingRequest, {"entity": "user"}),
        (EmbeddingRequest, {"entity": "text", "ids": ["a"], "text": "b"}),
        (EmbeddingRequest, {"entity": "item", "ids": ["a"] * 300}),
        (RecommendationRequest, {"user_id": "a", "k": True}),
        (RecommendationRequest, {"user_id": "a", "exclude_owned": 1}),
        (RecommendationRequest, {"user_id": "a", "level": "shop"}),
        (RecommendationRequest, {"user_id": "a", "events": [live_event()] * 1_001}),
    ],
)
def test_contradictions_and_coercions_are_refused(
    model: type[BaseModel], body: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(body)
