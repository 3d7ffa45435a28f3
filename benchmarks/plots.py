"""Show what the benchmarks have measured as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from padis_lightning.files import whole

NO_GPU = "no GPU at hand"
FULL = "out of memory"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"\n{title}")
    for row in (head, *rows):
        print(
            "  ".join(
                f"{cell:>{width}}" if k else f"{cell:<{width}}" for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def spread(value: dict[str, float] | None, scale: float = 1.0, unit: str = "") -> str:
    """Return a median with its range."""
    if value is None:
        return "-"
    middle, low, high = (f"{scale * value[key]:.3g}" for key in ("median", "low", "high"))
    return f"{middle}{unit} [{low}, {high}]"


def percent(value: dict[str, float] | None) -> str:
    """Return a share with its range."""
    return spread(value, 100, " %")


def quantity(value: float | None, scale: float, lost: str) -> str:
    """Return a number in a unit, or what stands for a missing one."""
    return lost if value is None else f"{scale * value:.4g}"


def cost_cells(row: dict[str, Any], lost: str) -> list[str]:
    """Return memory and time of two sides, with ratios."""
    memory = [quantity(side["bytes"], 2**-20, lost) for side in row["values"]]
    seconds = [quantity(side["seconds"] and median(side["seconds"]), 1e3, lost) for side in row["values"]]
    times = row["time"] and (spread(row["time"]) if row["time"]["low"] < row["time"]["high"] else f"{row['time']['median']:.3g}")
    return [*memory, quantity(row["memory"], 1, "-"), *seconds, times or "-"]


def show_costs(memory: dict[str, Any], gpu: bool) -> None:
    """Print part 1: one table for each view."""
    setup = memory["setup"]
    name = f"{setup['network']}, base {setup['base']}, {'bf16 autocast' if setup['bf16'] else 'float32'}, {setup['device']}"
    head = ["image / patch", "pixels", "image MiB", "patch MiB", "ratio", "image ms", "patch ms", "ratio"]
    for view, rows in memory["whole image / patch"].items():
        lost = "in noise" if view == "a further sample" else FULL
        cells = [[f"{r['image']} / {r['patch']}", f"{r['pixels']:.4g}", *cost_cells(r, lost)] for r in rows]
        absent = [] if gpu else [["DDPMpp, base 128, GPU", *[NO_GPU], *[""] * 6]]
        table(f"Whole images against patches, {view} ({name})", head, cells + absent)
    head = ["size", "again MiB", "kept MiB", "ratio", "again ms", "kept ms", "ratio"]
    cells = [[str(r["size"]), *cost_cells(r, FULL)] for r in memory["recomputed / kept"]]
    table(f"Activations computed again in the backward pass, against kept, one sample a step ({name})", head, cells)


def workload(work: dict[str, Any]) -> str:
    """Return the name of a line."""
    setup, step = work["setup"], work["step"]
    return f"{setup['network']}, base {setup['base']}, {step['n']} patches of {step['size']}, {setup['device']}"


def show_speed(works: Sequence[dict[str, Any]], gpu: bool) -> None:
    """Print parts 2 to 4."""
    absent = "DDPMpp, base 128, 128 patches of 56, cuda"
    changes, plain, share = [], [], []
    for work in works:
        name, n, failed = workload(work), work["step"]["n"], work["failed"]
        compiled = spread(work["ratios"].get("compiled / eager")), f"{work['first'].get('compiled', 0):.0f}"
        compiled = compiled if "compiled" in work["first"] else (failed.get("compiled", "left out"), "-")
        changes.append([name, spread(work["ratios"].get("bf16 / float32")), *compiled])
        goal = "at least 4" if work["setup"]["device"] == "cuda" else ""
        for other in ("plain", "plain, TF32 convolutions"):
            if other in failed or other in work["seconds"]:
                ms = [
                    f"{1e3 * median(work['seconds'][k]) / n:.4g}" if k in work["seconds"] else FULL for k in (other, work["ours"])
                ]
                ours = spread(work["ratios"].get(f"{other} / ours"))
                plain.append([f"{name}, {other}", *ms, work["ours"] or "-", ours, goal if other == "plain" else ""])
        for kind, rates in work["share"].items():
            speed = work["flops"] / median(work["seconds"][kind]) / 1e9
            shares = [percent(rates.get(rate)) for rate in ("float32", "bf16")]
            share.append([f"{name}, {kind}", f"{work['flops'] / 1e9:.4g}", f"{speed:.4g}", *shares, target(work, kind)])
        for product in (key for key in work["seconds"] if key.startswith("product")):
            speed = work["product_flops"] / median(work["seconds"][product]) / 1e9
            share.append([f"{product}, matrices", f"{work['product_flops'] / 1e9:.4g}", f"{speed:.4g}", "", "", ""])
    if not gpu:
        changes.append([absent, NO_GPU, NO_GPU, ""])
        plain.append([absent, NO_GPU, "", "", "", "at least 4"])
        share.append([absent, "", NO_GPU, "", "", "bf16: 40 %"])
    table("Time of a step", ["", "bf16 / float32", "compiled / eager", "first compiled step, s"], changes)
    table("Time of a patch, ms", ["", "plain", "ours", "ours is", "plain / ours", "goal"], plain)
    table("Share of the matrix rate", ["", "GFLOP", "GFLOP/s", "of float32", "of bf16", "goal"], share)


def target(work: dict[str, Any], kind: str) -> str:
    """Return the share that a variant should reach of the rate of its own precision."""
    if work["setup"]["device"] == "cuda":
        return "bf16: 40 %" if kind != "float32" else ""
    return "float32: 60 %" if kind == "float32" else ""


def show(figures: dict[str, Any]) -> None:
    """Print all tables."""
    machine = figures["machine"]
    print(f"torch {machine['torch']}, {machine['gpu'] or machine['cpu']}, {machine['threads']} threads")
    print(f"memory: {machine['memory_measured']}, weights and Adam's state included")
    print("ratios: median [lowest, highest] of turns; 'pixels' is the ratio of pixels")
    show_costs(figures["memory"], machine["device"] == "cuda")
    show_speed(figures["speed"], machine["device"] == "cuda")


def drawing() -> ModuleType | None:
    """Return ``matplotlib.pyplot`` without a screen, or None."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed (pip install matplotlib): the picture is left out")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(pyplot: ModuleType, path: Path, dpi: int) -> None:
    """Write the figure that was made last as PNG, and free it."""
    with whole(path) as temporary:
        pyplot.savefig(temporary, format="png", dpi=dpi)
    pyplot.close()


def plot(memory: dict[str, Any], path: Path) -> None:
    """Plot memory and time of a step against the side of what it trains on."""
    if (pyplot := drawing()) is None:
        return

    setup, steps = memory["setup"], [row for row in memory["steps"] if row["bytes"] is not None]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    one = [row for row in steps if row["n"] == 1 and not row["recompute"]]
    again = [row for row in steps if row["recompute"]]
    further: dict[int, dict[str, Any]] = {}
    for row in memory["whole image / patch"]["a further sample"]:
        further |= {row[key]: value for key, value in zip(("image", "patch"), row["values"], strict=True)}
    extra = sorted(({"size": size} | value for size, value in further.items()), key=lambda row: row["size"])
    curves = {"one sample a step": (one, "o-"), "each further sample": (extra, "s--"), "one, recomputed": (again, "^")}
    for panel, key, label in zip(panels, ("bytes", "seconds"), ("peak memory, GiB", "time of a step, s"), strict=True):
        for name, (rows, style) in curves.items():
            points = [(r["size"], r[key] / 2**30 if key == "bytes" else median(r[key])) for r in rows if r[key]]
            panel.plot(*zip(*points, strict=True), style, label=name) if points else None
        panel.set(xscale="log", yscale="log", xlabel="side of the patch or image, pixels", ylabel=label)
        sizes = sorted({row["size"] for row in one})
        panel.set_xticks(sizes, map(str, sizes), minor=False)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.suptitle(f"{setup['network']}, base {setup['base']}, {setup['device']}", fontsize=10)
    save(pyplot, path, 150)


def memory_of_slices(memory: dict[str, dict[str, int]], size: int, path: Path) -> None:
    """Plot peak memory against the number of slices of a volume, slices in turn and all at once."""
    if (pyplot := drawing()) is None:
        return

    _, axis = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    for (way, found), style in zip(memory.items(), ("o-", "s--"), strict=True):
        depths, peaks = zip(*sorted((int(depth), value / 2**30) for depth, value in found.items()), strict=True)
        axis.plot(depths, peaks, style, label=f"slices {way}")
    axis.set(xlabel=f"slices of {size}x{size}", ylabel="peak memory of the process, GiB", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    save(pyplot, path, 150)


def labels(points: Sequence[tuple[str, float, float]], gap: float) -> list[tuple[str, float, float, float]]:
    """Return points with heights for their names, ``gap`` away from the names of points that are about as far to the right."""
    placed: list[tuple[str, float, float, float]] = []
    for name, x, y in sorted(points, key=lambda point: -point[2]):
        near = [label for _, other, _, label in placed if 0.4 < x / other < 2.5]
        label = y
        while any(abs(label - taken) < gap for taken in near):
            label -= gap / 4
        placed.append((name, x, y, label))
    return placed


def quality_against_evaluations(figures: dict[str, Any], path: Path) -> None:
    """Plot the PSNR of every solver against its network evaluations, a panel for each number of views."""
    if (pyplot := drawing()) is None:
        return

    figure, axes = pyplot.subplots(1, len(figures), figsize=(6 * len(figures), 4.5), squeeze=False)
    for axis, (views, rows) in zip(axes[0], figures.items(), strict=True):
        for name, row in rows.items():
            if row["evaluations"] == 0:
                axis.axhline(row["psnr"], color="#888888", linewidth=0.8, linestyle=":")
                axis.text(4.2, row["psnr"], name, fontsize=7, color="#555555", va="bottom")
                continue
            ours = name.startswith(("PnP-ADMM ", "DDS "))
            axis.semilogx(row["evaluations"], row["psnr"], "o" if ours else "s", color="#005ab5" if ours else "#dc5a00")
        values = [row["psnr"] for row in rows.values()]
        gap = 0.028 * (max(values) - min(values))
        for name, x, y, label in labels([(n, r["evaluations"], r["psnr"]) for n, r in rows.items() if r["evaluations"]], gap):
            axis.annotate(
                name,
                (x, y),
                (1.12 * x, label),
                fontsize=7,
                va="center",
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#888888"},
            )
        axis.set(title=f"{views} views", xlabel="network evaluations", ylabel="PSNR (dB)", xlim=(4, 4000))
        axis.grid(alpha=0.3)
    figure.tight_layout()
    save(pyplot, path, 110)


def noise_and_resolution(methods: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the noise power spectrum of every method, and its task transfer function at every contrast."""
    if (pyplot := drawing()) is None:
        return

    contrasts = list(next(iter(methods.values()))["edges"])
    _, axes = pyplot.subplots(1, 1 + len(contrasts), figsize=(3.6 * (1 + len(contrasts)), 3.6), layout="constrained")
    for (name, row), style in zip(methods.items(), cycle(("-", "--", "-.", ":")), strict=False):
        axes[0].semilogy(*row["spectrum"], style, label=name)
        for axis, contrast in zip(axes[1:], contrasts, strict=True):
            axis.plot(*row["edges"][contrast]["curve"], style, label=name)
    axes[0].set(title="noise power spectrum", ylabel="HU² mm²")
    axes[0].legend(fontsize=8)
    nyquist = next(iter(methods.values()))["edges"][contrasts[0]]["curve"][0][-1] / 2
    for axis, contrast in zip(axes[1:], contrasts, strict=True):
        axis.set(title=f"edge of {contrast} HU", ylim=(0, 1.3))
        axis.axvline(nyquist, color="#888888", linewidth=0.6)
        for level in (0.5, 0.1):
            axis.axhline(level, color="#888888", linewidth=0.6, linestyle=":")
    axes[1].set_ylabel("task transfer function")
    for axis in axes:
        axis.set_xlabel("frequency, 1/mm")
        axis.grid(alpha=0.3)
    save(pyplot, path, 110)


def reconstructions(pictures: dict[str, Any], path: Path) -> None:
    """Draw images ``(H, W)`` beside each other under their names, on one scale of grey."""
    from matplotlib import pyplot

    columns = min(len(pictures), 4)
    rows = -(-len(pictures) // columns)
    highest = max(float(picture.quantile(0.999)) for picture in pictures.values())
    figure, axes = pyplot.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for place, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        place.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=highest)
        place.set_title(name, fontsize=9)
    for place in axes.flat:
        place.axis("off")
    save(pyplot, path, 150)
