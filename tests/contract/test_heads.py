"""What every head promises: it survives save and load, and answers each case on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from behavior_model.heads.item_counts import popularity
from behavior_model.heads.lexical_index import LexicalIndex, item_texts
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import (
    FEATURES,
)
from behavior_model.heads.tagging import TaggingHead
from behavior_model.heads.tagging_fitting import fit as fit_tagging
from behavior_model.heads.user_inputs import InputKind
from behavior_model.heads.user_task import UserTaskHead, fit_rows
from behavior_model.memory.queries import QueryMemory
from behavior_model.tasks import get_user_task
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.errors import BundleError
from pipelines.tokens.binning import FIRST_IDX
from tests.rhythm_shop import (
    CUT_US,
    shop_catalogue,
    shop_content,
    shop_histories,
    shop_vocabulary,
)
from tests.unit.test_churn import TIMES, rows_at
from tests.unit.test_tagging import context, makers

Answers = list[npt.NDArray[np.generic]]

NUM_CASES = 24
HISTORIES = shop_histories(NUM_CASES)
QUERIES = ("bread", "milk number 3", "sop", "toys", "shelf 2 milk")


class Head(Protocol):
    """What all kinds have in common; what they are asked differs."""

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Member:
    """One kind of head: how to make it, bring it back, and ask it about some cases."""

    make: Callable[[], Head]
    load: Callable[[Path], Head]
    ask: Callable[[Any, list[int]], Answers]


def make_user_task() -> UserTaskHead:
    rows = rows_at(shop_histories(80), TIMES)
    task = get_user_task("churn")
    return fit_rows(rows, task, InputKind.STATISTICS, shop_vocabulary(), seed=0)


def ask_user_task(head: UserTaskHead, cases: list[int]) -> Answers:
    answer = head.predict(HISTORIES.select(cases), None, CUT_US)
    return [answer.scores, answer.lowers, answer.uppers, answer.familiarities]


def make_search() -> SearchHead:
    vocabulary = shop_vocabulary()
    return SearchHead(
        vocabulary=vocabulary,
        index=LexicalIndex(item_texts(shop_catalogue(), vocabulary)),
        content=shop_content(vocabulary),
        encoder=TextEncoder(None, HashedBackend(32)),
        popularity=popularity(vocabulary, HISTORIES, CUT_US),
        queries=QueryMemory.empty(),
        weights=np.linspace(3.0, 1.0, len(FEATURES)),
        matches=np.linspace(0.0, 5.0, 101),
    )


def load_search(folder: Path) -> SearchHead:
    vocabulary = shop_vocabulary()
    encoder = TextEncoder(None, HashedBackend(32))
    return SearchHead.load(folder, vocabulary, shop_content(vocabulary), encoder)


def ask_search(head: SearchHead, cases: list[int]) -> Answers:
    texts = [QUERIES[case % len(QUERIES)] for case in cases]
    users = HISTORIES.select(cases)
    return list(head.predict(texts, 5, histories=users, prediction_times_us=CUT_US))


MEMBERS = {
    "user task": Member(
        make_user_task,
        lambda folder: UserTaskHead.load(folder, shop_vocabulary()),
        ask_user_task,
    ),
    "search": Member(make_search, load_search, ask_search),
    "tagging": Member(
        lambda: fit_tagging(context(), catalogue=makers(shop_catalogue())),
        lambda folder: TaggingHead.load(folder, shop_vocabulary()),
        lambda head, cases: list(head.predict(np.asarray(cases) + FIRST_IDX, 4)),
    ),
}


@pytest.fixture(scope="module", params=MEMBERS, ids=lambda name: name.replace(" ", "-"))
def member(request: pytest.FixtureRequest) -> Member:
    return MEMBERS[request.param]


@pytest.fixture(scope="module")
def head(member: Member) -> Head:
    return member.make()


def assert_same(first: Answers, second: Answers, tolerance: float = 0.0) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def test_save_and_load_change_nothing(member: Member, head: Head, tmp_path: Path) -> None:
    cases = list(range(NUM_CASES))
    head.save(tmp_path)
    assert_same(member.ask(head, cases), member.ask(member.load(tmp_path), cases))


def test_saving_twice_writes_the_same_bytes(head: Head, tmp_path: Path) -> None:
    for name in ("one", "two"):
        head.save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.suffix in {".json", ".safetensors", ".txt", ".arrow"}


def test_a_case_alone_is_answered_as_in_a_batch(member: Member, head: Head) -> None:
    together = member.ask(head, list(range(NUM_CASES)))
    for case in (0, 7, NUM_CASES - 1):
        alone = member.ask(head, [case])
        assert_same(alone, [values[[case]] for values in together], tolerance=1e-5)


def test_order_does_not_matter(member: Member, head: Head) -> None:
    forth = member.ask(head, list(range(NUM_CASES)))
    back = member.ask(head, list(reversed(range(NUM_CASES))))
    assert_same(forth, [values[::-1] for values in back], tolerance=1e-5)


def test_making_it_again_gives_the_same_answers(member: Member, head: Head) -> None:
    cases = list(range(NUM_CASES))
    assert_same(member.ask(head, cases), member.ask(member.make(), cases))


def test_another_schema_version_is_refused(member: Member, head: Head, tmp_path: Path) -> None:
    head.save(tmp_path)
    (document,) = tmp_path.glob("*.json")
    facts = json.loads(document.read_text(encoding="utf-8"))
    document.write_text(json.dumps({**facts, "schema_version": 0}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"schema version 0 came.*bfm run"):
        member.load(tmp_path)
