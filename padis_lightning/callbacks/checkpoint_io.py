"""Checkpoint files that are written whole, and the newest of a run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from padis_lightning.files import whole
from padis_lightning.pickles import require_plain_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Write local checkpoints whole or not at all, and read them without running code inside."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write beside ``path``, then rename; addresses of other file systems are written as Lightning does.

        Raises:
            OSError: with ``path``, for example of a full disk; what was there stays.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        written = io.BytesIO()  # by itself torch.save hides the errors of the disk
        torch.save(checkpoint, written)
        with whole(Path(path)) as temporary:
            temporary.write_bytes(written.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, place: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read tensors and plain values only, unless ``weights_only`` is false.

        Raises:
            InputError: the checkpoint is not one of tensors and plain values, or stands for too much.
        """
        if weights_only is not False:
            require_plain_checkpoint(Path(path))
        return super().load_checkpoint(path, map_location, weights_only is not False)


def newest(paths: Iterable[Path], tell: Callable[[str], None], run: str = "") -> tuple[Path, int] | None:
    """Return the whole checkpoint of the most steps and its steps, of several the last one written; None where there is none.

    Args:
        paths: checkpoints; each one that is damaged, or of another run, costs a line.
        tell: what takes such a line.
        run: digest of the run's settings; checkpoints that name none are taken.
    """
    readable = []
    for path in paths:
        steps, theirs = _about(path)
        if steps is None:
            tell(f"{path} is damaged; it is skipped")
        elif run and theirs not in (None, run):
            tell(f"{path} is of a run with other settings; it is skipped")
        else:
            readable.append((steps, path.stat().st_mtime_ns, path))
    for steps, _, path in sorted(readable, reverse=True):
        if _is_whole(path):
            return path, steps
        tell(f"{path} is damaged; it is skipped")
    return None


def _is_whole(path: Path) -> bool:
    """Return whether all checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive can ask for anything, such as a password
        return False


def _about(path: Path) -> tuple[int | None, str | None]:
    """Return the steps behind a checkpoint, None if it cannot be read, and its run; its tensors are not read."""
    try:
        require_plain_checkpoint(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint["global_step"], checkpoint.get("run")
    except Exception:  # a damaged file can make the unpickler raise anything
        return None, None
