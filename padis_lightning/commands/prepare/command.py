"""The arguments of ``prepare``, and the file that it writes or checks."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import InputError, require_above, require_at_least
from padis_lightning.files import sweep_up, whole
from padis_lightning.locks import WriteLock

if TYPE_CHECKING:
    from padis_lightning.commands.prepare.plan import Plan

BATCH = 1 << 20  # bytes of images that are written at a time


def _parser() -> Parser:
    parser = Parser(
        "prepare",
        description="Turn images of any readable kind into one HDF5 file for training.",
    )
    add = parser.add_argument
    add("sources", nargs="*", type=Path, metavar="SOURCE", help="files and folders")
    add("--output", type=Path, help="the file to write, .h5")
    add("--check", type=Path, metavar="FILE", help="hash the images of a prepared file and do nothing else")
    add("--size", type=int, metavar="N", help="side of the images (default: as they are)")
    add("--spacing", type=float, metavar="MM", help="resample to this pixel spacing first, then cut or border to --size")
    unit = "values that become 0 and 1, in HU where the sources say so; others are clipped (default: what the sources name, "
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=f"{unit}-1000 1000 for HU)")
    shares = "shares of the groups (patients), of which none is in two parts (default: 0.8 0.1 0.1)"
    parts = ("TRAIN", "VALIDATION", "TEST")
    add("--split", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar=parts, help=shares)
    add("--every", type=int, default=1, metavar="K", help="take every K-th slice of a series (default: 1)")
    add("--hu", action="store_true", help="values are Hounsfield units, where the sources do not say so")
    add("--skip_bad", action="store_true", help="leave out files and series that cannot be used (default: refuse them)")
    dtypes = ("uint16", "uint8", "float32")
    add("--dtype", choices=dtypes, default="uint16", help="type of the stored numbers (default: uint16)")
    add("--licence", default="", metavar="TEXT", help="terms of the data, for the manifest")
    add("--seed", type=int, default=0, help="key of the split (default: 0)")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--workers", type=int, default=processors, metavar="N", help="processes (default: one a processor)")
    add("--overwrite", action="store_true", help="replace a finished file")
    return parser


def run(args: Sequence[str]) -> None:
    """Write a prepared file, or check one.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument or a source cannot be used; nothing was written.
    """
    options = _parser().parse_intermixed_args(list(args))
    if not options.check:
        _prepare(options)
    elif options.sources or options.output:
        raise InputError("--check comes with sources or an output; wanted it alone")
    else:
        count, digest = verify(options.check)
        print(f"{options.check} is whole: {count} slices, SHA-256 {digest}")


def _check_values(options: Namespace) -> None:
    require_at_least(1, size=1 if options.size is None else options.size, every=options.every, workers=options.workers)
    require_at_least(0, seed=options.seed)
    require_above(0, spacing=1 if options.spacing is None else options.spacing)
    if options.range is not None and not -math.inf < options.range[0] < options.range[1] < math.inf:
        raise InputError(f"range is {options.range[0]:g} {options.range[1]:g}; wanted two values, the lower first")
    if not (min(options.split) >= 0 and abs(sum(options.split) - 1) < 1e-6):
        raise InputError(f"split is {' '.join(f'{share:g}' for share in options.split)}; wanted three shares that add up to 1")


def _prepare(options: Namespace) -> None:
    output = options.output
    if not options.sources:
        raise InputError("sources are missing; wanted files or folders")
    _check_values(options)
    if output is None or output.suffix not in (".h5", ".hdf5"):
        raise InputError(f"output is {'missing' if output is None else repr(str(output))}; wanted a name that ends in .h5")
    if output.is_dir() or (output.exists() and not options.overwrite):
        raise InputError(f"{output} exists; wanted another --output, or --overwrite")

    from padis_lightning.commands.prepare.plan import make_plan

    plan = make_plan(options.sources, options)
    if output.resolve() in plan.files:
        raise InputError(f"{output} is a source; wanted another --output")
    with WriteLock(output, file=True):
        sweep_up(output.parent, f".{glob.escape(output.name)}.*.part")
        with whole(output) as temporary:
            write(plan, temporary, options.workers)
    print(f"wrote {output}: {plan}")


def write(plan: Plan, path: Path, workers: int) -> None:
    """Write the file of a plan; the same plan gives the same bytes, whatever the number of processes.

    Raises:
        InputError: a slice cannot be used, or the disk has no room.
    """
    import h5py
    import numpy as np
    from torch.utils.data import DataLoader
    from tqdm.auto import tqdm

    slice_bytes = math.prod(plan.shape) * np.dtype(plan.dtype).itemsize
    if shutil.disk_usage(path.parent).free < slice_bytes * len(plan):
        raise InputError(f"{path.parent} has no space left; wanted room for {slice_bytes * len(plan) / 1e9:.2g} GB")
    manifest = plan.manifest()
    size = max(1, BATCH // slice_bytes)
    loader = DataLoader(plan, size, collate_fn=np.stack, num_workers=workers if workers > 1 else 0)
    batches, digest = iter(loader), hashlib.sha256()  # processes start here, before HDF5 has a file open
    with (
        h5py.File(path, "w", libver="earliest") as file,
        tqdm(total=len(plan), desc="prepare", unit="slice", leave=False, disable=None) as bar,
    ):
        images = file.create_dataset("images", (len(plan), *plan.shape), plan.dtype, track_times=False)
        for start, batch in zip(range(0, len(plan), size), batches, strict=True):
            images[start : start + len(batch)] = batch
            digest.update(np.ascontiguousarray(batch).data)
            bar.update(len(batch))
        for name, words in plan.labels().items():
            encoded = np.char.encode(words, "utf-8")
            text = h5py.string_dtype("utf-8", encoded.itemsize)
            file.create_dataset(name, data=encoded.astype(text), track_times=False)
        file.create_dataset("affine", data=plan.affines(), track_times=False)
        if (ones := plan.units_of_one()) is not None:
            file.create_dataset("scale", data=ones, track_times=False)
        manifest["images"] = {"sha256": digest.hexdigest()}
        file.attrs.update(plan.attributes() | {"manifest": json.dumps(manifest, indent=1)})


def verify(path: Path) -> tuple[int, str]:
    """Hash the images of a prepared file and compare with its manifest; return the number of slices and the SHA-256.

    Raises:
        InputError: the file was not written by ``prepare``, or its images are not those that were.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; wanted one written by prepare")
    from padis_lightning.data.containers import hdf5, require_size

    digest = hashlib.sha256()
    with hdf5(path, "a file written by prepare") as file:
        images, wanted = file["images"], json.loads(file.attrs["manifest"])["images"]["sha256"]
        require_size(path, math.prod(images.shape[1:]) * images.dtype.itemsize, path.stat().st_size)
        count = len(images)
        for i in range(count):
            digest.update(images[i])
    if digest.hexdigest() != wanted:
        raise InputError(f"{path} has images of SHA-256 {digest.hexdigest()}; wanted {wanted}, which its manifest names")
    return count, digest.hexdigest()
