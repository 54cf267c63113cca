"""`bfm bench transfer` and `bfm bench cold-items`: what texts alone are good for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import UserError
from serving.cli.bench_options import (
    BudgetOption,
    FolderOption,
    InteractionsOption,
    SeedOption,
    SizeOption,
    SourceItemsOption,
    SourceOption,
    TextedItemsOption,
)
from serving.cli.console import out, print_table

if TYPE_CHECKING:
    from behavior_model.evaluation.results import Result


def register(bench: typer.Typer) -> None:
    """Add the commands of this module to the group of benchmarks."""
    bench.command("transfer")(transfer)
    bench.command("cold-items")(cold_items)


def transfer(
    source: SourceOption,
    source_items: SourceItemsOption,
    interactions: InteractionsOption,
    items: TextedItemsOption,
    out_path: FolderOption,
    shares: Annotated[
        str, typer.Option("--shares", help="Shares of the target's users to learn from.")
    ] = "0,0.01,0.1,1",
    size: SizeOption = "tiny",
    seed: SeedOption = 0,
    budget_minutes: BudgetOption = 30.0,
) -> None:
    """A core trained on one shop answers in another, with low-rank adapters or without."""
    learned_from = _numbers(shares)
    from behavior_model.benchmark.transfer import BASELINES, TransferOptions, run

    options = TransferOptions(
        source=source.resolve(),
        source_items=source_items.resolve(),
        interactions=interactions.resolve(),
        items=items.resolve(),
        out=out_path.resolve(),
        shares=learned_from,
        size=size,
        seed=seed,
        budget_minutes=budget_minutes,
    )
    results = run(options, lambda line: out.print(line, markup=False))
    by_split = _by_split(results)
    home, last = results[0], results[-1]
    print_table(
        f"Transfer, full ranking: core from {home.num_users:,} users, {home.num_items:,} items, "
        f"{home.num_events:,} interactions (there NDCG@10 {home.model:.4f}), asked about "
        f"{last.num_users:,} users, {last.num_items:,} items",
        ["share", "interactions", *_header("adapter", *BASELINES), "seconds"],
        [
            [
                split.partition("/")[2],
                f"{one['ndcg@10'].num_events:,}",
                *_figures(one, *BASELINES),
                f"{one['ndcg@10'].seconds:.0f}",
            ]
            for split, one in by_split.items()
            if "/" in split
        ],
    )
    out.print(f"Core, adapters and figures: {options.out}", markup=False)


def cold_items(
    interactions: InteractionsOption,
    items: TextedItemsOption,
    out_path: FolderOption,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of items that training never sees.")
    ] = 0.1,
    size: SizeOption = "tiny",
    seed: SeedOption = 0,
    budget_minutes: BudgetOption = 30.0,
) -> None:
    """Items that nobody took yet, ranked among all others; users with short histories."""
    from behavior_model.benchmark.cold_items import BASELINES, RATIO, ColdItemsOptions, run

    options = ColdItemsOptions(
        interactions=interactions.resolve(),
        items=items.resolve(),
        out=out_path.resolve(),
        held_out=held_out,
        size=size,
        seed=seed,
        budget_minutes=budget_minutes,
    )
    results = run(options, lambda line: out.print(line, markup=False))
    by_split = _by_split(results)
    first = results[0]
    print_table(
        f"Cold items, full ranking: {first.num_items:,} items, {first.num_events:,} interactions "
        f"learned from, {first.seconds:.0f} s",
        ["", "users", *_header("model", *BASELINES)],
        [
            [
                split.partition("/")[2],
                f"{one['ndcg@10'].num_users:,}",
                *_figures(one, *BASELINES),
            ]
            for split, one in by_split.items()
            if "ndcg@10" in one
        ],
    )
    _print_placement(by_split)
    ratio = next(result for result in results if result.metric == RATIO)
    low, high = ratio.interval
    out.print(
        f"Recall@10 of cold items to that of warm ones: {ratio.model:.2f} ({low:.2f} to {high:.2f})"
    )
    out.print(f"Figures: {options.out}", markup=False)


def _print_placement(by_split: dict[str, dict[str, Result]]) -> None:
    """What each step of placing unseen items gives and costs."""
    slices = {split: by_split[f"test/{split}"]["recall@10"] for split in ("cold", "warm", "all")}
    steps = [
        (name, [result.parts[name] for result in slices.values()]) for name in slices["cold"].parts
    ]
    steps.append(("and shown evenly (the model)", [result.model for result in slices.values()]))
    print_table(
        "What an unseen item gets, step by step: Recall@10",
        ["", *slices],
        [[name, *(f"{value:.4f}" for value in values)] for name, values in steps],
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(
            f"--shares '{text}': give numbers between 0 and 1 with commas, such as 0,0.01,0.1,1."
        ) from None


def _by_split(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    """Results by split and metric, in order."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.split, {})[result.metric] = result
    return found


def _header(*names: str) -> list[str]:
    return [f"{name} {metric}" for name in names for metric in ("NDCG@10", "Recall@10")]


def _figures(by_metric: dict[str, Result], *baselines: str) -> list[str]:
    """Figures of the model and of baselines under `_header`; a dash where there is none."""
    found = []
    for name in (None, *baselines):
        for metric in ("ndcg@10", "recall@10"):
            result = by_metric[metric]
            value = result.model if name is None else result.baselines.get(name)
            found.append("-" if value is None else f"{value:.4f}")
    return found
