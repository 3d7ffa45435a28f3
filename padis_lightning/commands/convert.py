"""Turn another program's scan into one HDF5 file of ours, which says all that predict needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import InputError


def _parser() -> Parser:
    parser = Parser(
        "convert",
        description="Turn a scan of any readable kind into one HDF5 file of measured sinograms.",
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="a file, or a folder of projections with scan.yaml")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.h5", help="the file that is written")
    parser.add_argument("--rows", type=int, nargs="+", metavar="ROW", help="those to take, counted from 0 (default: all)")
    parser.add_argument("--size", type=int, help="side of the image in pixels, where the file does not say")
    parser.add_argument("--pixel_spacing", type=float, help="side of a pixel, where the file does not say")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def run(args: Sequence[str]) -> None:
    """Run the command ``convert``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: there is no measurement of slices to read, or the output cannot be written.
    """
    options = _parser().parse_args(list(args))
    import h5py
    import numpy as np

    from padis_lightning.data.containers import HDF5
    from padis_lightning.data.conventions import Named
    from padis_lightning.data.scans import find_format
    from padis_lightning.data.sources.axes import says_axis
    from padis_lightning.data.sources.cone_scans import cone_files
    from padis_lightning.data.sources.measurements import FLAT, ITEMS, geometry_of, load_measured
    from padis_lightning.files import whole

    source, output = options.source, options.output
    if output.suffix not in HDF5:
        raise InputError(f"output is {str(output)!r}; wanted a name that ends in {' or '.join(HDF5)}")
    if output.exists() and not options.overwrite:
        raise InputError(f"{output} is there already; wanted another --output, or --overwrite")
    if cone_files(source):
        raise InputError(f"{source} holds scans of volumes, which predict reads as they are; wanted one of slices")
    arrays = load_measured(source, ITEMS, Named(options.rows, options.size, options.pixel_spacing))
    geometry = geometry_of(arrays, source)
    if geometry is None:
        raise InputError(f"{source} holds no measured slices; wanted a scan")
    found = find_format(source)
    described = {k: v for k, v in geometry.describe().items() if k in FLAT.keys and v is not None}
    if not says_axis(arrays, source):  # so that it is looked for
        described.pop("bin_offset")
    if "centre" not in arrays and described["centre"] == "middle":
        described.pop("centre")
    arrays.pop("axis", None)
    origin = {"converted_from": source.name, "converted_format": found.kind if found else "padis_lightning"}
    if source.is_file():
        with source.open("rb") as file:
            origin["converted_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    with whole(output) as part, h5py.File(part, "w") as file:
        for key, value in {**described, **arrays, "angle_unit": "radians"}.items():
            text = np.asarray(value).dtype.kind == "U"
            file[key] = np.asarray(value).astype(h5py.string_dtype()) if text else value
        file.attrs.update(origin)
    views, bins = geometry.shape
    print(f"wrote {output}: {len(arrays['y' if 'y' in arrays else 'counts'])} slices of {views} views and {bins} bins")
