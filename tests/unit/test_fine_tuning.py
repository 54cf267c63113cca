"""Fine-tuning learns from labels, leaves the checkpoint alone and can be repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from behavior_model.benchmark.fine_tuning import FROZEN, TUNED, TuningStudy, run, study_table
from behavior_model.context import Futures, ModelContext
from behavior_model.tasks import Doubles, Past, TaskKind, UserTask, get_user_task
from pipelines.errors import UserError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.workspace import Workspace
from tests.ranking_shop import ranking_context

EPOCHS = 5


def by_hand(past: Past, future: Futures) -> Doubles:
    """Whether the user's orders carry a note: every second user's do."""
    first = past.histories.tokens["note_0"][past.histories.offsets[:-1]]
    return (first >= FIRST_IDX).astype(np.float64)


TASK = UserTask(name="by_hand", kind=TaskKind.BINARY, label=by_hand)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    return ranking_context(Workspace(tmp_path_factory.mktemp("shop")))


def study(context: ModelContext, out: Path, epochs: int) -> TuningStudy:
    return run(context, TASK, out, epochs=epochs, seed=1, say=lambda line: None)


def test_an_untrained_backbone_learns_from_labels(context: ModelContext, tmp_path: Path) -> None:
    weights = (context.workspace.checkpoints / "backbone" / "backbone.safetensors").read_bytes()
    found = study(context, tmp_path, EPOCHS)
    names = [row.name for row in found.rows]
    assert names == [FROZEN, *(f"{TUNED}, pass {i}" for i in range(1, EPOCHS + 1))]
    assert found.rows[-1].auc > 0.95
    assert found.num_rows > found.num_users
    after = (context.workspace.checkpoints / "backbone" / "backbone.safetensors").read_bytes()
    assert after == weights
    assert not any(p.requires_grad for p in context.backbone.parameters())
    assert len(study_table(found).rows) == len(names)
    assert (tmp_path / "fine_tuning.json").is_file()


def test_one_seed_gives_one_figure(context: ModelContext, tmp_path: Path) -> None:
    first, second = (study(context, tmp_path / name, 1) for name in "ab")
    assert [row.auc for row in first.rows] == [row.auc for row in second.rows]


def test_a_task_with_a_number_for_an_answer_is_refused(
    context: ModelContext, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="'next_spend' is answered with a number"):
        run(
            context,
            get_user_task("next_spend"),
            tmp_path,
            epochs=1,
            seed=0,
            say=lambda line: None,
        )
