"""Bring the data that a GPU is measured with to a size that travels with the repository: slices of all patients, fewer of each.

python -m benchmarks.gpu.carry --data FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from padis_lightning.commands import explaining
from padis_lightning.data.batches import spread_over_groups
from padis_lightning.errors import require_above
from padis_lightning.files import whole

MOST = 64 * 2**20  # bytes of everything that travels
TESTS = 24  # slices
ROOT = Path(__file__).parents[2]


def tracked_bytes() -> int:
    """Return the size of all files that git knows of."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sum((ROOT / name).stat().st_size for name in names.split("\0") if name)


def thin(source: Path, target: Path, count: int) -> None:
    """Copy so many slices, spread evenly over patients, with all that is known of them."""
    with np.load(source) as arrays:
        total = len(arrays["images"])
        kept = spread_over_groups(arrays["patient"].tolist(), min(count, total))
        parts = {name: values[kept] if values.shape[:1] == (total,) else values for name, values in arrays.items()}
    with whole(target) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **parts)


def carry(data: Path, out: Path, most: int, tests: int = TESTS) -> int:
    """Write slices to test on, and as many to train on as fit; return the bytes of both."""
    thin(data / "ct_test.npz", out / "ct_test.npz", tests)
    left = most - (out / "ct_test.npz").stat().st_size
    require_above(0, bytes_left_for_slices=left)
    with np.load(data / "ct_train.npz") as arrays:
        total = len(arrays["images"])
    size = (data / "ct_train.npz").stat().st_size / total
    thin(data / "ct_train.npz", out / "ct_train.npz", int(0.95 * left / size))
    return sum(path.stat().st_size for path in out.glob("ct_*.npz"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the slices, and say how large everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ct_train.npz and ct_test.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the fewer slices")
    parser.add_argument("--room", type=float, default=2.0, help="MiB left for packages (default: 2)")
    args = parser.parse_args(arguments)
    tracked = tracked_bytes()
    written = carry(args.data, args.out, MOST - tracked - int(args.room * 2**20))
    print(f"repository {tracked / 2**20:.1f} MiB, slices {written / 2**20:.1f} MiB of {MOST / 2**20:.0f} MiB")


if __name__ == "__main__":
    with explaining():
        main()
