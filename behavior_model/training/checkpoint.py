"""Training checkpoints: one safetensors file each, written whole or not at all, no pickles.

A file's header carries the key of its run, so that another recipe, cut, seed or vocabulary never
continues from it. Tensors are whole, whatever the processes shared: any number of processes that
divides the run's shards can go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from behavior_model.training.loop import TrainingRun
from pipelines.workspace import write_bytes_atomically

KEPT: Final = 2
_PREFIX: Final = "step-"
_META: Final = "run"


def save_checkpoint(
    folder: Path, run: TrainingRun, run_key: str, *, num_shards: int = 1, writes: bool = True
) -> None:
    """Write weights, optimiser and place of a run; its older files but the last ones go.

    Files of another run that was killed here go, too: no run goes on with them.

    Args:
        folder: Where the run's checkpoints are.
        run: What to save, between two steps.
        run_key: Identity of the run.
        num_shards: Shards that its users are split into.
        writes: Whether this process writes, or only helps another to gather what they share.
    """
    state = run.state(keep=writes)
    if not writes:
        return
    optimiser = state["optimiser"]
    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in state["model"].items()}
    for index, slots in optimiser["state"].items():
        tensors |= {f"optimiser/{index}/{slot}": value for slot, value in slots.items()}
    meta = {
        "run_key": run_key,
        "num_shards": num_shards,
        "progress": state["progress"],
        "groups": optimiser["param_groups"],
    }
    content = save(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
        metadata={_META: json.dumps(meta)},
    )
    path = folder / f"{_PREFIX}{run.progress.global_step:09d}.safetensors"
    write_bytes_atomically(path, content)
    own, others = _files_of(folder, run_key)
    for old in (*others, *own[:-KEPT]):
        old.unlink()


def restore_latest(folder: Path, run: TrainingRun, run_key: str) -> bool:
    """Go on from the newest checkpoint of the same run; False where there is none."""
    path = _latest(folder, run_key)
    if path is None:
        return False
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    run.restore(_state(tensors, _meta(path)))
    return True


def shards_of_latest(folder: Path, run_key: str) -> int | None:
    """Shards of the run that the newest checkpoint is of; None where there is none."""
    path = _latest(folder, run_key)
    return None if path is None else int(_meta(path)["num_shards"])


def clear(folder: Path) -> None:
    """Remove all checkpoints of a run that is done."""
    for path in _files(folder):
        path.unlink()


def _latest(folder: Path, run_key: str) -> Path | None:
    own, _ = _files_of(folder, run_key)
    return own[-1] if own else None


def _files_of(folder: Path, run_key: str) -> tuple[list[Path], list[Path]]:
    """Files of one run by step, and those of all others."""
    own: list[Path] = []
    others: list[Path] = []
    for path in _files(folder):
        (own if _meta(path)["run_key"] == run_key else others).append(path)
    return own, others


def _meta(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        meta: dict[str, Any] = json.loads((file.metadata() or {})[_META])
    return meta


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*.safetensors"))


def _state(tensors: dict[str, Tensor], meta: dict[str, Any]) -> dict[str, Any]:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = tensor
    groups = [{**g, "betas": tuple(g["betas"])} for g in meta["groups"]]
    return {
        "model": {
            name.removeprefix("model/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("model/")
        },
        "optimiser": {"state": slots, "param_groups": groups},
        "progress": meta["progress"],
    }
