"""Measure the time and memory of ``prepare`` against a plain loop over the same slices.

    python -m benchmarks.preparing --data FILE.npz --slices 50000 [--size 128] [--turns 3] [--folder FOLDER] [--output FOLDER]

The images of the file are repeated up to so many slices, 20 a patient, in an uncompressed ``.npz`` in a folder of its own,
which is deleted in the end. Both programs run in turn, each in a process of its own. Memory is the largest sum over a
program's processes of their proportional set sizes, in which a page that several share counts once, and at least what the
kernel names as the first process's maximum. Writes ``preparing.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from padis_lightning.commands import explaining
from padis_lightning.files import write_text

PLAIN = """
import sys
import numpy as np
source, target, size, low, high = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
offset, count, side = map(int, sys.argv[6:9])
stored = np.memmap(source, np.uint16, "r", offset, (count, side, side))
out = np.memmap(target, np.uint16, "w+", shape=(count, size, size))
for i in range(count):
    image = stored[i].astype(np.float32) + low
    image = image.reshape(size, side // size, size, side // size).mean((1, 3)).clip(low, high)
    out[i] = np.rint((image - low) / (high - low) * 65535)
out.flush()
"""


def repeat(images: np.ndarray, window: np.ndarray, count: int, path: Path) -> int:
    """Write ``count`` slices, the images again and again; return the byte at which they begin."""
    header = {"descr": images.dtype.str, "fortran_order": False, "shape": (count, *images.shape[1:])}
    patients = np.array([f"P{i // 20:05d}" for i in range(count)])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for start in range(0, count, len(images)):
                member.write(images[: count - start].tobytes())
        for name, values in {"patient": patients, "hu_window": window}.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values)
        size = archive.getinfo("images.npy").file_size
    with open(path, "rb") as handle:
        lengths = np.frombuffer(handle.read(30)[26:], "<u2")
    return 30 + int(lengths.sum()) + size - count * images[0].nbytes


def tree(root: int) -> list[int]:
    """Return a process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(root: int) -> int:
    """Return the bytes that a process and all below it keep in memory, shared pages counted once."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def run(command: Sequence[str]) -> tuple[float, int]:
    """Return the seconds and peak bytes of a program, whose output is thrown away."""
    peak, begun = 0, time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.1):
            peak = max(peak, memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    peak = max(peak, 1024 * used.ru_maxrss)  # the kernel's own maximum, for what ended between two looks
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    if code:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {code}")
    return seconds, peak


def measure(folder: Path, options: argparse.Namespace) -> dict:
    """Run both programs in turn and compare what they wrote."""
    with np.load(options.data) as file:
        images, window = file["images"], file["hu_window"]
    source, ours, plain = folder / "source.npz", folder / "ours.h5", folder / "plain.bin"
    offset = repeat(images, window, options.slices, source)
    program = [sys.executable, "-W", "ignore", "-m", "padis_lightning", "prepare"]
    prepare = [*program, str(source), "--size", str(options.size), "--workers", str(options.workers)]
    numbers = (options.size, *window, offset, options.slices, images.shape[1])
    loop = [sys.executable, "-c", PLAIN, str(source), str(plain), *map(str, numbers)]
    turn = [program + ["--help"], [*prepare, "--output", str(ours), "--overwrite"], loop]
    rows = np.array([[run(command) for command in turn] for _ in range(options.turns)])
    (starts, times, plains), peaks = rows[..., 0].T, rows[..., 1].max(0)
    with h5py.File(ours) as file:
        stored, theirs = file["images"], np.memmap(plain, np.uint16, "r", shape=file["images"].shape)
        apart = max(int(np.abs(stored[i].astype(int) - theirs[i]).max()) for i in range(0, len(stored), 97))
    return {
        "slices": options.slices,
        "workers": options.workers,
        "start": starts.tolist(),
        "prepare": {"seconds": times.tolist(), "peak": int(peaks[1])},
        "plain": {"seconds": plains.tolist(), "peak": int(peaks[2])},
        "ratio": (times / plains).tolist(),
        "ratio without the start": ((times - starts) / plains).tolist(),
        "largest difference in steps": apart,
    }


def show(figures: dict) -> None:
    """Print the table."""
    print(f"{figures['slices']} slices{'seconds':>20}{'slices/s':>10}{'peak MiB':>10}")
    for name in ("prepare", "plain"):
        seconds = median(figures[name]["seconds"])
        print(f"{name:<20}{seconds:>13.1f}{figures['slices'] / seconds:>10.0f}{figures[name]['peak'] / 2**20:>10.0f}")
    begin, whole, rest = (median(figures[key]) for key in ("start", "ratio", "ratio without the start"))
    print(f"prepare / plain: {whole:.2f}; without the start of the program, {begin:.1f} s, {rest:.2f}")
    print(f"largest difference: {figures['largest difference in steps']} steps of 65535")


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=".npz with images (n, N, N) uint16 and hu_window")
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128, help="a divisor of the images' side")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="runs of both programs, in turn")
    parser.add_argument("--folder", type=Path, help="where the large files go (default: the system's)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(args)
    with np.load(options.data) as file:
        side = file["images"].shape[1]
    needed = options.slices * 2 * (side**2 + 3 * options.size**2)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        free = shutil.disk_usage(name).free
        if free < 1.2 * needed:
            raise SystemExit(f"{name} has {free / 1e9:.1f} GB free; wanted {1.2 * needed / 1e9:.1f} GB")
        figures = measure(Path(name), options)
    write_text(options.output / "preparing.json", json.dumps(figures, indent=1) + "\n")
    show(figures)


if __name__ == "__main__":
    with explaining():
        main()
