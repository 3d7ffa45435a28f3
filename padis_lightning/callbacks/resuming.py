"""The run that a folder holds, the checkpoint that another goes on from, and what the two must have in common."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from padis_lightning.callbacks.checkpoint_io import newest
from padis_lightning.callbacks.setup import tell
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.files import lies_in
from padis_lightning.results.report.runs import dotted

CHANGEABLE = (  # settings that a run may change and go on
    r"output|overwrite|ckpt_path|weights_only|(samples|throughput|checkpoint|export|tracking)\..*"
    r"|trainer\.(?!(precision|deterministic|accumulate_grad_|gradient_clip_|limit_train_|overfit_|callbacks|plugins)).*"
    r"|data\.init_args\.(num_workers|shards?)|model\.init_args\.(compile_network|recompute)"
)
OWN = ("prior.safetensors", "run.json", "hpc_ckpt_*.ckpt")  # what a run leaves besides checkpoints
ESCAPE = "wanted the same, another --output, or --overwrite true"


class Earlier:
    """What an earlier run has left in a folder.

    Args:
        folder: the run's.
        kept: the folder of its checkpoints.
        config: its settings; empty where there is no ``config.yaml``.
    """

    def __init__(self, folder: Path, kept: Path, config: dict[str, Any]) -> None:
        self.folder, self.settings = folder, deciding(config)
        self.files = [path for pattern in OWN for path in folder.glob(pattern)] + [*kept.glob("*.ckpt")]

    def refuse_other(self, settings: dict[str, str]) -> None:
        """Refuse to replace what a run of other settings has left.

        Raises:
            InputError: with the first difference.
        """
        if not self.files:
            return
        if not self.settings:
            raise InputError(f"{self.folder} holds {self.files[0].name} without the config.yaml of its run; {ESCAPE}")
        for key in dict.fromkeys((*self.settings, *settings)):
            old, new = (one.get(key, "not set") for one in (self.settings, settings))
            if old != new:
                raise InputError(f"{self.folder} holds a run with {key} {old} and this run has {new}; {ESCAPE}")

    def forget_other(self, settings: dict[str, str]) -> None:
        """Remove the prior, the checkpoints and the samples of a run of other settings, and nothing outside of the folder."""
        try:
            self.refuse_other(settings)
        except InputError:
            for path in (*self.files, *(self.folder / "samples").glob("*.png")):
                if lies_in(path.parent, self.folder) and path.name != "run.json":
                    path.unlink(missing_ok=True)


def deciding(config: dict[str, Any]) -> dict[str, str]:
    """Return the settings that decide a prior's bits, as dotted keys with values in words."""
    return {key: value for key, value in dotted(config).items() if key and not re.fullmatch(CHANGEABLE, key)}


def run_of(config: dict[str, Any]) -> str:
    """Return a digest of the settings that decide, by which checkpoints say of which run they are."""
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()


def take_over(
    folder: Path, kept: Path, settings: dict[str, Any], read: Callable[[Path], dict[str, Any]], *, overwrite: bool, forgets: bool
) -> None:
    """Refuse the folder's run of other settings, or forget it.

    Args:
        folder: the run's.
        kept: the folder of its checkpoints.
        settings: those of this run.
        read: what reads the ``config.yaml`` of the earlier one.
        overwrite: whether a run of other settings may be forgotten.
        forgets: whether this process is the one that does it.

    Raises:
        InputError: with the first difference.
    """
    path, ours = folder / "config.yaml", deciding(settings)
    earlier = Earlier(folder, kept, read(path) if path.is_file() else {})
    if not overwrite:
        earlier.refuse_other(ours)
    elif forgets:
        earlier.forget_other(ours)


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


def find_checkpoint(
    asked: str | None, output: Path, kept: Path, max_steps: int, model: PatchModel, run: str = ""
) -> tuple[str | None, bool]:
    """Return the checkpoint that a run goes on from, None where it has none, and whether it is the run's last.

    Args:
        asked: the checkpoint, ``auto`` for the newest, or what Lightning finds itself.
        output: the folder of the run, where SLURM's requeueing leaves checkpoints.
        kept: the folder of its checkpoints.
        max_steps: steps of the run.
        model: what is trained.
        run: digest of the run's settings; checkpoints that name another are not found.

    Raises:
        InputError: the checkpoint is missing or of another model.
    """
    path: str | Path | None = asked
    finished = False
    if asked == "auto":
        path, steps = newest([*kept.glob("*.ckpt"), *output.glob("hpc_ckpt_*.ckpt")], tell, run) or (None, 0)
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
