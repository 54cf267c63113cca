"""Requests and responses of the public contract. Strict: no coercion, no unknown keys, bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from pipelines.clock import to_micros
from pipelines.contracts import BLANKS, EVENTS
from pipelines.tokens.vocabulary import PROBE_TYPE

MAX_K: Final = 1_000
MAX_EVENTS: Final = 1_000
MAX_IDS: Final = 256
MAX_TEXT: Final = 512
MAX_ID: Final = 256
MAX_NUMBER: Final = 1e12
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2200


def _parse_time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("a time is a string in ISO 8601 with an offset")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(
            "not a time; give ISO 8601 with an offset, such as 2017-10-01T00:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise ValueError("the time has no offset; write Z for UTC")
    if not _FIRST_YEAR < moment.year < _LAST_YEAR:
        raise ValueError(f"the year must lie between {_FIRST_YEAR + 1} and {_LAST_YEAR - 1}")
    return moment.astimezone(UTC)


def _without_blanks(value: Any) -> Any:
    return value.strip(BLANKS) if isinstance(value, str) else value


def _own_value(value: Any) -> str | float | None:
    """A company's own value as tables hold it: blank text is missing."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if len(text) > MAX_ID or _CONTROL.search(text):
            raise ValueError(f"text has {MAX_ID} characters at most, and no control characters")
        return text or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a string or a number")
    if not abs(value) <= MAX_NUMBER:
        raise ValueError(f"a number lies between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
    return float(value)


def _not_reserved(event_type: str) -> str:
    if event_type == PROBE_TYPE:
        raise ValueError(f"{PROBE_TYPE} is reserved for the model; give the type of an event")
    return event_type


_TIME_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "date-time"})
UtcTime = Annotated[datetime, BeforeValidator(_parse_time), _TIME_SCHEMA]
ShownTime = Annotated[
    datetime,
    PlainSerializer(lambda moment: moment.isoformat().replace("+00:00", "Z"), return_type=str),
    _TIME_SCHEMA,
]
Id = Annotated[
    str,
    BeforeValidator(_without_blanks),
    Field(min_length=1, max_length=MAX_ID, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
"""As tables hold it: without blanks around it."""
EventType = Annotated[
    Id, AfterValidator(_not_reserved), Field(json_schema_extra={"not": {"const": PROBE_TYPE}})
]
_WRITTEN: Final = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*"
Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_TEXT,
        pattern=rf"^{_WRITTEN}[^\s\x00-\x1f\x7f]{_WRITTEN}$",
    ),
]
"""Something to read, without control characters other than tabs and ends of lines."""
K = Annotated[
    int,
    Field(ge=1, le=MAX_K, description="The most answers; there are fewer where fewer are known."),
]
Amount = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
Quantity = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
ExtraValue = Annotated[str | float | None, BeforeValidator(_own_value)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class LiveEvent(BaseModel):
    """One canonical event. A company's own fields stand beside the canonical ones; the bundle's
    event contract says which there are and of what type (see `state.check_extra_fields`)."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)
    __pydantic_extra__: dict[str, ExtraValue]

    event_id: Id
    user_id: Id
    event_time: UtcTime
    event_type: EventType
    item_id: Id | None = None
    quantity: Quantity | None = None
    amount: Amount | None = None
    query: Text | None = None
    session_id: Id | None = None
    channel: Id | None = None
    market: Id | None = None
    locale: Id | None = None

    @property
    def extras(self) -> dict[str, ExtraValue]:
        """The values that stand beside the canonical fields."""
        return dict(self.__pydantic_extra__ or {})

    def canonical(self) -> dict[str, Any]:
        """Column -> value without the missing ones; the time as UTC microseconds."""
        declared = {name: getattr(self, name) for name in EVENTS.column_names}
        values = {**declared, **self.extras, "event_time": to_micros(self.event_time)}
        return {name: value for name, value in values.items() if value is not None}


Events = Annotated[list[LiveEvent], Field(max_length=MAX_EVENTS)]


class _UserRequest(_Request):
    """A question about one user. `as_of` is the prediction time: only events before it count.
    Without it: the latest of the bundle's own time, the last refresh, and just after the user's
    last event."""

    user_id: Id
    as_of: UtcTime | None = None
    events: Events = []


class RecommendationRequest(_UserRequest):
    k: K = 10
    level: Literal["item", "category"] = "item"
    exclude_owned: bool = False


class PredictionRequest(_UserRequest):
    pass


class SearchRequest(_Request):
    query: Text
    user_id: Id | None = None
    k: K = 10
    as_of: UtcTime | None = None
    events: Events = []

    @model_validator(mode="after")
    def _events_need_a_user(self) -> SearchRequest:
        if self.user_id is None and (self.events or self.as_of):
            raise ValueError("events and as_of need a user_id")
        return self


class _ItemOrText(_Request):
    item_id: Id | None = None
    text: Text | None = None
    k: K = 10

    @model_validator(mode="after")
    def _exactly_one(self) -> _ItemOrText:
        if (self.item_id is None) == (self.text is None):
            raise ValueError("give exactly one of item_id and text")
        return self


class TagRequest(_ItemOrText):
    pass


class SimilarItemsRequest(_ItemOrText):
    by: Literal["behavior", "content"] = "behavior"


class EmbeddingRequest(_Request):
    entity: Literal["user", "item", "text"]
    ids: Annotated[list[Id], Field(max_length=MAX_IDS)] = []
    text: Text | None = None
    as_of: UtcTime | None = None

    @model_validator(mode="after")
    def _what_the_entity_needs(self) -> EmbeddingRequest:
        if self.entity == "text" and (self.text is None or self.ids):
            raise ValueError("entity 'text' takes text and no ids")
        if self.entity != "text" and (self.text is not None or not self.ids):
            raise ValueError("entities 'user' and 'item' take ids and no text")
        if self.entity != "user" and self.as_of is not None:
            raise ValueError("as_of is the time of users; entities 'item' and 'text' take none")
        return self


class EventsRequest(_Request):
    events: Annotated[list[LiveEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class _Response(BaseModel):
    model_version: str


class RankedItem(BaseModel):
    item_id: str
    rank: int
    score: float
    title: str | None = None
    category: str | None = None


class RankedTag(BaseModel):
    tag: str
    rank: int
    score: float


class _UserResponse(_Response):
    """`fallback`: nothing that counts is known of the user, as of all who get the same answer."""

    user_id: str
    prediction_time: ShownTime
    num_events: int
    fallback: bool


class RecommendationResponse(_UserResponse):
    level: Literal["item", "category"]
    items: list[RankedItem]


class PredictionResponse(_UserResponse):
    task: str
    score: float
    lower: float
    upper: float
    familiarity: float
    out_of_distribution: bool


class CategoryChance(BaseModel):
    category: str
    score: float
    lower: float
    upper: float


class PropensityResponse(_UserResponse):
    """Likeliest category first."""

    categories: list[CategoryChance]


class SearchResponse(_Response):
    """`familiarity` is the share of usual queries that match at most as well; one that matches
    worse than 99 in 100 of them is `out_of_distribution`: its items are the nearest there are."""

    user_id: str | None
    personalised: bool
    familiarity: float
    out_of_distribution: bool
    items: list[RankedItem]


class TagResponse(_Response):
    tags: list[RankedTag]


class SimilarItemsResponse(_Response):
    by: Literal["behavior", "content"]
    items: list[RankedItem]


class Embedding(BaseModel):
    id: str
    embedding: list[float]


class EmbeddingResponse(_Response):
    """`unknown_ids`: items that the bundle does not hold, users without any event."""

    entity: Literal["user", "item", "text"]
    embeddings: list[Embedding]
    unknown_ids: list[str]


class EventsResponse(_Response):
    """`known`: events that were stored before, with the same content."""

    stored: int
    known: int


class ErasureResponse(_Response):
    """What this call erased; the shelf's files and the lake follow when `bfm erase --due` runs."""

    user_id: str
    num_live_events: int
    request_id: str
    lake_erased: Literal[False] = False


class ModelResponse(_Response):
    """`as_of` ends what the weights learned from, `memories_as_of` what the memories hold of all
    users, `shelf_as_of` what the shelf knows of each; `trained_version` made the embeddings."""

    trained_version: str
    company: str
    vocabulary_id: str
    as_of: ShownTime
    memories_as_of: ShownTime
    shelf_as_of: ShownTime
    tasks: list[str]
    num_items: int
    schema_version: int


class HealthResponse(BaseModel):
    status: Literal["ok"]
    model_version: str


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


def canonical_events(events: Sequence[LiveEvent]) -> list[dict[str, Any]]:
    """Events as the live event store and the encoder take them."""
    return [event.canonical() for event in events]
