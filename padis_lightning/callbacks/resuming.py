"""The checkpoint that a run goes on from, and what the two must have in common."""

from __future__ import annotations

import json
from pathlib import Path

from padis_lightning.callbacks.checkpoint_io import newest
from padis_lightning.callbacks.setup import tell
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError


def check_resumable(path: str, model: PatchModel) -> None:
    """Refuse a checkpoint of another network, image size, padding or normalisation than the run's.

    Raises:
        InputError: with both values.
    """
    if Path(path).suffix != ".ckpt" or not Path(path).is_file():
        raise InputError(f"there is no checkpoint {str(path)!r}; wanted a .ckpt file written by fit")
    theirs, ours = (json.loads(json.dumps(m.describe())) for m in (PatchModel.load(path), model))  # tuples become lists
    for key in ours:
        if key != "training" and theirs[key] != ours[key]:
            raise InputError(f"the checkpoint's {key} is {theirs[key]}; wanted {ours[key]}, the run's")


def find_checkpoint(asked: str | None, output: Path, kept: Path, max_steps: int, model: PatchModel) -> tuple[str | None, bool]:
    """Return the checkpoint that a run goes on from, None where it has none, and whether it is the run's last.

    Args:
        asked: the checkpoint, ``auto`` for the newest, or what Lightning finds itself.
        output: the folder of the run, where SLURM's requeueing leaves checkpoints.
        kept: the folder of its checkpoints.
        max_steps: steps of the run.
        model: what is trained.

    Raises:
        InputError: the checkpoint is missing or of another model.
    """
    path, finished = asked, False
    if asked == "auto":
        path, steps = newest([*kept.glob("*.ckpt"), *output.glob("hpc_ckpt_*.ckpt")], tell) or (None, 0)
        finished = path is not None and steps >= max_steps
        if path is None:
            tell(f"there is no checkpoint in {kept}; training begins at step 0")
        elif finished:
            tell(f"{path} is at step {steps} of {max_steps}; training is finished")
        else:
            tell(f"going on from {path} at step {steps}")
    if path not in (None, "best", "last", "hpc"):
        check_resumable(str(path), model)
    return None if path is None else str(path), finished
