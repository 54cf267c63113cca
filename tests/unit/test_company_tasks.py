"""A company's own questions: a Python file that company.yaml names, one head each."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from behavior_model import stage_heads, stage_pretrain
from behavior_model.context import ModelContext
from behavior_model.embedding import UserStates
from behavior_model.evaluation import user_tasks
from behavior_model.evaluation.results import Result
from behavior_model.tasks import (
    UserTaskError,
    ZeroShot,
    answers_without_head,
    get_user_task,
    load_tasks,
    try_own_tasks,
    user_task,
    user_task_names,
)
from pipelines.clock import from_micros
from pipelines.company import load_company
from pipelines.errors import CompanyConfigError, TooLittleDataError
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.workspace import Workspace
from serving.line import line
from tests.ranking_shop import ranking_context
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_vocabulary
from tests.tiny_company import write_tiny_company

BIG_BASKET = """
from behavior_model.tasks import Doubles, Futures, Past, TaskKind, user_task


@user_task("big_basket", kind=TaskKind.BINARY)
def big_basket(past: Past, future: Futures) -> Doubles:
    return (future.amounts > 2 * past.amounts()).astype(float)
"""
PLATFORMS = user_task_names()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No task of a file is left for other tests."""
    yield
    load_tasks(None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.py"
    path.write_text(BIG_BASKET)
    return path


class TestLoading:
    def test_a_file_adds_its_tasks_until_another_is_read(self, file: Path, tmp_path: Path) -> None:
        load_tasks(file)
        load_tasks(file)
        assert user_task_names() == tuple(sorted((*PLATFORMS, "big_basket")))
        assert get_user_task("big_basket").source
        assert not get_user_task("churn").source
        other = tmp_path / "other.py"
        other.write_text(BIG_BASKET.replace("big_basket", "small_basket"))
        load_tasks(other)
        assert user_task_names() == tuple(sorted((*PLATFORMS, "small_basket")))
        load_tasks(None)
        assert user_task_names() == PLATFORMS

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("def f(:", "failed with SyntaxError"),
            (BIG_BASKET + "1 / 0", "failed with ZeroDivisionError: division by zero"),
            (BIG_BASKET.replace("big_basket", "churn"), "'churn' is registered already"),
            (BIG_BASKET.replace("big_basket", "Big basket", 1), "a name of a to z, 0 to 9 and _"),
            (BIG_BASKET + "raise SystemExit(0)", "failed with SystemExit: 0"),
            ("x = 1", "registers no task"),
        ],
    )
    def test_what_is_wrong_with_a_file_is_named_and_nothing_stays(
        self, file: Path, content: str, message: str
    ) -> None:
        file.write_text(content)
        with pytest.raises(CompanyConfigError, match=f"questions.py: .*{message}"):
            load_tasks(file)
        assert user_task_names() == PLATFORMS

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CompanyConfigError, match=r"nowhere.py: no such file. Correct 'tasks'"):
            load_tasks(tmp_path / "nowhere.py")

    def test_the_description_names_it_beside_itself(self, tmp_path: Path) -> None:
        company = tmp_path / "company.yaml"
        company.write_text(
            "name: shop\ntasks: questions.py\ntables:\n  - name: t\n    into: events\n"
            "    source: {format: csv, path: t.csv}\n"
            "    columns: {user_id: u, event_time: t, event_type: {constant: purchase}}\n"
        )
        assert load_company(company).tasks_path(company) == tmp_path / "questions.py"


class TestHeads:
    @pytest.fixture
    def fitted(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the heads that were fitted, in order; a head is an empty folder."""
        names: list[str] = []

        def fake(name: str) -> stage_heads.FitAndJudge:
            def fit(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
                names.append(name)
                return []

            return fit

        monkeypatch.setattr(stage_heads, "_RANKINGS", {"recommendation": fake("recommendation")})
        monkeypatch.setattr(stage_heads, "_WORDS", {})
        monkeypatch.setattr(stage_heads, "needs_of", lambda name: ())
        monkeypatch.setattr(user_tasks, "of", fake)
        return names

    def fit(self, workspace: Workspace, made_from: str) -> list[str]:
        said: list[str] = []
        context = ModelContext(
            workspace=workspace, vocabulary=shop_vocabulary(), as_of_us=CUT_US, window_us=WINDOW_US
        )
        stage_heads.fit_all(context, seed=0, say=said.append, made_from=made_from)
        return said

    def test_one_that_finds_too_little_is_left_out_and_the_others_are_fitted(
        self, fitted: list[str], monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        def too_little(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
            raise TooLittleDataError("9 users can be asked")

        monkeypatch.setattr(stage_heads, "_RANKINGS", {"recommendation": too_little})
        said = self.fit(workspace, "model 1")
        assert said[0] == "  recommendation: left out, 9 users can be asked"
        assert fitted == list(PLATFORMS)
        assert not (workspace.heads / "recommendation").exists()
        assert stage_heads.read_results(workspace) == []

    @pytest.mark.parametrize(("interval", "warns"), [((0.55, 0.85), True), ((0.6, 0.7), False)])
    def test_a_figure_of_too_few_is_warned_of(
        self,
        fitted: list[str],
        monkeypatch: pytest.MonkeyPatch,
        workspace: Workspace,
        interval: tuple[float, float],
        warns: bool,
    ) -> None:
        result = Result(
            task="recommendation",
            metric="auc",
            split="test",
            cut="2024-01-01",
            model=0.65,
            interval=interval,
            baselines={},
            num_users=120,
            num_items=0,
            num_events=9,
            seed=0,
            seconds=1.0,
            peak_memory_bytes=1,
        )
        heads = {"recommendation": lambda context, folder, *, seed: [result]}
        monkeypatch.setattr(stage_heads, "_RANKINGS", heads)
        warnings = [line for line in self.fit(workspace, "") if "warning" in line]
        assert len(warnings) == warns
        for warning in warnings:
            assert "recommendation: too few could be judged (120 users)" in warning
            assert "from 0.55 to 0.85" in warning

    def test_a_new_question_fits_one_head(
        self, fitted: list[str], file: Path, tmp_path: Path
    ) -> None:
        workspace = Workspace(tmp_path / "workspace")
        self.fit(workspace, "model 1")
        assert fitted == ["recommendation", *PLATFORMS]
        fitted.clear()
        load_tasks(file)
        said = self.fit(workspace, "model 1")
        assert fitted == ["big_basket"]
        assert "  churn: nothing to do" in said
        fitted.clear()
        file.write_text(BIG_BASKET + "\n# another question\n")
        load_tasks(file)
        self.fit(workspace, "model 1")
        assert fitted == ["big_basket"]
        fitted.clear()
        load_tasks(None)
        self.fit(workspace, "model 1")
        assert fitted == []
        assert not (workspace.heads / "big_basket").exists()

    def test_another_model_fits_all_and_so_does_none_named(
        self, fitted: list[str], tmp_path: Path
    ) -> None:
        workspace = Workspace(tmp_path / "workspace")
        for made_from in ("model 1", "model 2", "", ""):
            fitted.clear()
            self.fit(workspace, made_from)
            assert fitted == ["recommendation", *PLATFORMS]

    def test_a_run_that_was_killed_goes_on_at_its_head(
        self, fitted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workspace = Workspace(tmp_path / "workspace")

        def killed(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(user_tasks, "of", lambda name: killed)
            with pytest.raises(KeyboardInterrupt):
                self.fit(workspace, "model 1")
        assert fitted == ["recommendation"]
        self.fit(workspace, "model 1")
        assert fitted == ["recommendation", *PLATFORMS]

    def test_a_head_whose_results_are_gone_is_fitted_again(
        self, fitted: list[str], tmp_path: Path
    ) -> None:
        workspace = Workspace(tmp_path / "workspace")
        self.fit(workspace, "model 1")
        (workspace.reports / stage_heads.RESULTS_FOLDER / "churn.json").unlink()
        fitted.clear()
        self.fit(workspace, "model 1")
        assert fitted == ["churn"]
        assert stage_heads.read_results(workspace) == []

    def test_a_task_with_the_name_of_a_head_is_refused(self, fitted: list[str], file: Path) -> None:
        file.write_text(BIG_BASKET.replace("big_basket", "recommendation"))
        load_tasks(file)
        with pytest.raises(CompanyConfigError, match="has the name of a head"):
            stage_heads.heads()


def test_a_mistake_shows_before_a_training(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    monkeypatch.setattr(stage_pretrain, "pretrain", lambda *_: trained.append("in vain"))
    context = ranking_context(Workspace(tmp_path / "workspace"), 12)
    as_of = from_micros(context.as_of_us)
    company = write_tiny_company(tmp_path, 5)
    company.write_text(f"{company.read_text()}\ntasks: questions.py\n")
    settings = RunSettings(company_path=company, size="tiny", seed=0, as_of=as_of)
    (pretraining,) = (stage for stage in line() if stage.name == "pretrain")
    file.write_text(BIG_BASKET.replace("past.amounts()", "past.amount()"))
    with pytest.raises(UserTaskError, match=r"'big_basket' failed with AttributeError.*'amount'"):
        pretraining.run(StageContext(context.workspace, settings))
    assert not trained
    file.write_text(BIG_BASKET.replace("big_basket", "search"))
    with pytest.raises(CompanyConfigError, match="'search' has the name of a head"):
        pretraining.run(StageContext(context.workspace, settings))
    assert not trained
    file.write_text(BIG_BASKET)
    load_tasks(file)
    try_own_tasks(context)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda states: states.nothing, "failed with AttributeError"),
        (lambda states: np.zeros(1), r"gave shape \(1,\).*shape \(3,\)"),
        (lambda states: np.full(3, np.nan), "gave shape .*one finite number per user"),
    ],
)
def test_what_a_backbone_says_without_a_head_is_checked(answer: ZeroShot, message: str) -> None:
    task = replace(get_user_task("churn"), zero_shot=answer)
    with pytest.raises(UserTaskError, match=f"zero_shot of user task 'churn' {message}"):
        answers_without_head(task, cast(UserStates, range(3)))
    assert answers_without_head(replace(task, zero_shot=None), cast(UserStates, range(3))) is None


def test_a_name_must_fit_an_address() -> None:
    with pytest.raises(ValueError, match="beginning with a letter"):
        user_task("1st", kind=get_user_task("churn").kind)
