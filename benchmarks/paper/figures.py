"""Plot the studies as small PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.paper.records import mean, read_scores
from benchmarks.paper.tables import METHODS, level_scores, task_scores
from benchmarks.plots import save

COLOURS = {"default": "#005ab5", "padis": "#dc5a00", "patches": "#005ab5", "whole": "#dc5a00"}


@contextmanager
def figure(path: Path, columns: int, width: float = 3.4, height: float = 3.2) -> Iterator[Any]:
    """Yield panels side by side that are written when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, panels = pyplot.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    yield panels[0]
    save(pyplot, path, 80)


def methods(folders: dict[str, Path], path: Path) -> None:
    """Plot PSNR of every method with its interval, a panel a task."""
    with figure(path, len(folders), height=3.6) as panels:
        for k, (panel, (title, folder)) in enumerate(zip(panels, folders.items(), strict=True)):
            scores = task_scores(folder)
            names = [name for name in reversed(METHODS) if name in scores]
            for place, name in enumerate(names):
                middle, low, high = mean(scores[name].psnr, scores[name].groups)
                colour = COLOURS.get(name, "#666666")
                panel.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, markersize=4)
            labels = [name.replace("_", " ") for name in names] if k == 0 else [""] * len(names)
            panel.set_yticks(range(len(names)), labels, fontsize=8)
            panel.set(title=title, xlabel="PSNR (dB)")
            panel.grid(axis="x", alpha=0.3)


def patients(folder: Path, counts: dict[str, str], path: Path) -> None:
    """Plot PSNR by the number of training patients, patches and whole images."""
    with figure(path, 1, 4.5) as (panel,):
        for kind in ("patches", "whole"):
            known = [(label, read_scores(folder / f"{kind}-{share}").get("estimate")) for share, label in counts.items()]
            points = [(label, *mean(scores.psnr, scores.groups)) for label, scores in known if scores]
            if points:
                labels, middle, low, high = zip(*points, strict=True)
                below, above = ([abs(a - b) for a, b in zip(ends, middle, strict=True)] for ends in (low, high))
                panel.errorbar(labels, middle, yerr=[below, above], fmt="o-", color=COLOURS[kind], capsize=3, label=kind)
        panel.set(xlabel="training patients", ylabel="PSNR (dB)")
        panel.legend()
        panel.grid(alpha=0.3)


def levels(folder: Path, solvers: dict[str, tuple[float, float]], path: Path) -> None:
    """Plot PSNR by the first and by the last level, the other one as in the pair of each solver."""
    with figure(path, 2) as panels:
        for solver, fixed in solvers.items():
            rows = [(pair, mean(scores.psnr, scores.groups)[0]) for *pair, scores in level_scores(folder, solver)]
            for end, panel in enumerate(panels):
                points = sorted((pair[end], value) for pair, value in rows if pair[1 - end] == fixed[1 - end])
                panel.plot([x for x, _ in points], [y for _, y in points], "o-", color=COLOURS[solver], label=solver)
        for panel, title in zip(panels, ("first level", "last level"), strict=True):
            panel.set(xscale="log", xlabel=f"{title}, sigma", ylabel="PSNR (dB)")
            panel.grid(alpha=0.3)
        panels[0].legend()


def partitions(found: list[dict[str, Any]], path: Path) -> None:
    """Plot the mean squared error by level: the part that averaging takes away and the part that stays."""
    sigmas = [level["sigma"] for level in found]
    with figure(path, 1, 4.5) as (panel,):
        panel.loglog(
            sigmas, [level["error of all"] for level in found], "o-", color=COLOURS["default"], label="mean of all partitions"
        )
        for count, style in ((1, "s-"), (4, "s--"), (16, "s:")):
            values = [level["variance"] / count for level in found]
            panel.loglog(sigmas, values, style, color=COLOURS["padis"], label=f"variance of {count}")
        panel.set(xlabel="sigma", ylabel="mean square of a pixel")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
