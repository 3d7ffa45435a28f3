"""One page that opens anywhere and needs nothing else: a result folder, or several against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from padis_lightning.errors import first_few
from padis_lightning.results.pictures import evenly_spread
from padis_lightning.results.report.histogram import histogram
from padis_lightning.results.report.panels import Panel, to_png
from padis_lightning.results.report.runs import Run, differing_settings, dotted, paired_differences, shared_pictures
from padis_lightning.results.report.template import raw, render
from padis_lightning.results.scores import (
    CALIBRATED,
    DISTANCE,
    MEANS,
    PERCEPTUAL,
    SAMPLED,
    SCANNED,
    VOLUMES,
    held_sentence,
    methods,
    optional,
    sample_sentence,
    with_interval,
)

LARGEST = 64_000_000  # characters of pictures on a page
PRESETS = {"lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800)}  # level and width in HU
LAST = ("phase", "deviation", "interval", "risk")  # panels that follow those of errors
DERIVED = {"seconds_per_image", "baselines", "gain", "intervals", "n", "groups", "failed", "missing"}
#: what a summary holds besides provenance
SCORED = {*MEANS, *PERCEPTUAL, *SCANNED, *SAMPLED, CALIBRATED, DISTANCE, *VOLUMES, *DERIVED}


def report_page(runs: Sequence[Run]) -> str:
    """Return summary, scores, pictures, settings and provenance of one run, or of several of the same images, as HTML."""
    pictures = _pictures(runs)
    made = [dotted({k: v for k, v in run.summary.items() if k not in SCORED}) for run in runs]
    names = dict.fromkeys(key for one in made for key in one)
    return render(
        "page.html",
        title=" and ".join(run.name for run in runs),
        style=raw("style.css"),
        slider=raw("slider.js"),
        script=raw("script.js"),
        lead=_lead(runs),
        overview=_overview(runs),
        histogram=_histogram(runs),
        notes=_notes(pictures, runs[0].summary["n"]),
        columns=_columns(runs),
        pictured={picture["name"] for picture in pictures},
        runs=runs,
        names=[run.name for run in runs],
        differing=[{"cells": [key, *values]} for key, values in differing_settings(runs).items()],
        made=[{"cells": [key, *(one.get(key) for one in made)]} for key in names],
        data={**_display(runs[0]), "images": pictures},
    )


def _lead(runs: Sequence[Run]) -> str:
    """Return how many images there are, and which are not because they failed or are missing."""
    first, lacking = runs[0], []
    for run in runs:
        for kind in ("failed", "missing"):
            names = list(run.summary.get(kind, ()))
            if names:
                lacking.append(f" In {run.name} {len(names)} {kind}: {first_few(names)}.")
    said = f"{first.summary['n']} images of {first.summary['groups']} groups; brackets: 95 % bootstrap intervals over groups."
    return said + "".join(lacking)


def _display(run: Run) -> dict[str, Any]:
    hounsfield = run.shown["units"] == "HU"
    lower, upper = run.shown["lower"], run.shown["upper"]
    return {**run.shown, "presets": {**(PRESETS if hounsfield else {}), "full": ((lower + upper) / 2, upper - lower)}}


def _picture(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """Return the panels of one image; pixels as data URIs, errors and phases with the number of the panel that they are of."""
    panels: list[dict[str, Any]] = []
    for run in runs:
        row = run.scores[name]
        scores = {("baseline", b): theirs["psnr"] for b, theirs in row["baselines"].items()}
        scores |= {("estimate", ""): row["psnr"], ("sample", ""): row.get("sample_psnr")}
        for p in run.panels(name):
            one = _embedded(p, scores.get((p.kind, p.title if p.kind == "baseline" else "")))
            if len(runs) == 1 or p.kind == "truth" and run is runs[0]:
                panels.append(one)
            elif p.kind == "estimate":
                panels.append({**one, "title": run.name})
    kinds = [p["kind"] for p in panels]
    sizes = [k for k, kind in enumerate(kinds) if kind in ("truth", "estimate")]  # which the phases are of, in this order
    for k, phase in zip(sizes, [p for p in panels if p["kind"] == "phase"], strict=False):
        phase |= {"of": k, "note": "dark where the magnitude is small"}
    if "truth" in kinds:
        estimates = [k for k, kind in enumerate(kinds) if kind == "estimate"]
        place = next((k for k, kind in enumerate(kinds) if kind in LAST), len(kinds))
        panels[place:place] = [{"title": f"error of {panels[k]['title']}", "kind": "error", "of": k} for k in estimates]
    return {"name": name, "panels": panels}


def _embedded(panel: Panel, psnr: float | None) -> dict[str, Any]:
    note = "" if psnr is None else f"{psnr:.2f} dB"
    colour = panel.codes.ndim > 2 and panel.codes.shape[-1] > 1
    volume = {"shape": panel.codes.shape[:3], "extent": panel.extent, "voxels": panel.voxels} if panel.extent else {}
    about = {"title": panel.title, "kind": panel.kind, "lower": panel.lower, "upper": panel.upper}
    return {**about, **volume, "note": note, "colour": colour, "png": to_png(panel.codes)}


def _pictures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the pictures of all images that have panels, or of so many, evenly spread, that a browser can hold the page."""
    names = shared_pictures(runs)
    if not names:
        return []
    size = sum(len(p.get("png", "")) for p in _picture(runs, names[0])["panels"])
    return [_picture(runs, name) for name in evenly_spread(names, max(1, LARGEST // size))]


def _notes(pictures: Sequence[dict[str, Any]], total: int) -> str:
    """Return what of the images is not on the page."""
    said = []
    if len(pictures) != total:
        said.append(f"{len(pictures)} of {total} images are here with their pixels; the others are in the table only.")
    volumes = {image["name"]: panel for image in pictures for panel in image["panels"] if "voxels" in panel}
    if volumes:
        said.append("Volumes are here in 256 steps between the ends of the data.")
    averaged = [
        f"{name} from {' × '.join(map(str, panel['voxels']))} to {' × '.join(map(str, panel['shape']))} voxels"
        for name, panel in volumes.items()
        if panel["shape"] != panel["voxels"]
    ]
    if averaged:
        said.append(f"To fit on the page they are averaged: {first_few(averaged)}.")
    return " ".join(said)


def _overview(runs: Sequence[Run]) -> dict[str, Any]:
    """Return a table of the methods of every run with their means; under it, what a run gains and what intervals hold."""
    rows, lines = [], []
    stacked = any("consistency" in run.summary for run in runs)
    scores = {"psnr": ".2f", "ssim": ".3f", **({"consistency": ".3f"} if stacked else {})}
    further = {key: name for key, name in (PERCEPTUAL | SCANNED).items() if any(key in run.summary for run in runs)}
    for run in runs:
        summary, of = run.summary, f" of {run.name}" if len(runs) > 1 else ""
        for name, means in methods(summary):
            psnr, ssim, *last = (with_interval(means.get(k), means["intervals"].get(k), d) for k, d in scores.items())
            gain = summary["gain"].get(name) if means is not summary else None
            gained = gain and with_interval(gain["psnr"], gain["interval"], "+.2f")
            rest = [means.get(key) for key in ("residual", "seconds_per_image", "evaluations")]
            alike = [with_interval(means.get(key), None, ".3f") for key in further]
            rows.append({"cells": [name + of, psnr, ssim, *alike, gained, *rest, *last], "strong": means is summary})
        if held := held_sentence(summary, of):
            lines.append(held + ".")
        if "deviation" in summary:
            lines.append(sample_sentence(summary, of))
    for d in paired_differences(runs):
        lines.append(f"{d['of']} over {d['over']}: {with_interval(d['psnr'], d['interval'], '+.2f')} dB, image by image.")
    header = ["method", "PSNR (dB)", "SSIM", *further.values(), "gain (dB)", "residual", "s/image", "evaluations"]
    header += ["consistency"] * stacked
    if "psnr_of_range" in further:
        lines.append(
            "PSNR is of values clipped to the ends of the data, SSIM of a Gaussian window. Of range: the peak is the range of "
            "each truth, nothing is clipped, SSIM as scikit-image has it (the convention of LoDoPaB-CT). HaarPSI: similarity of "
            "Haar wavelet coefficients, 1 is alike. Error: mean of its size inside the body. NMSE: squared error over squared "
            "truth."
        )
    if stacked:
        lines.append("Consistency: how much neighbouring slices differ, over how much they do in truth; 1 is right.")
    return {"header": header, "rows": rows, "lines": lines}


def _histogram(runs: Sequence[Run]) -> str:
    series = {run.name if len(runs) > 1 else run.summary["solver"]: [row["psnr"] for row in run.rows] for run in runs}
    if len(runs) == 1:
        rows = runs[0].rows
        series = {name: [row["baselines"][name]["psnr"] for row in rows] for name in rows[0]["baselines"]} | series
    return histogram({name: [v for v in values if v is not None] for name, values in series.items()}, "PSNR (dB)")


def _columns(runs: Sequence[Run]) -> dict[str, tuple[str, list[float | None]]]:
    """Return the columns of the table of images: how numbers are written, and one of each image of the first run, or None."""
    if len(runs) > 1:
        psnr = {run.name: [run.scores[row["name"]]["psnr"] for row in runs[0].rows] for run in runs}
        columns = {f"{name}: PSNR (dB)": ("%.2f", values) for name, values in psnr.items()}
        for d in paired_differences(runs) if len(runs) == 2 else ():
            gains = np.subtract(psnr[d["of"]], psnr[d["over"]]).tolist()
            columns[f"{d['of']} over {d['over']} (dB)"] = "%+.2f", gains
        return columns
    rows = runs[0].rows
    columns = {"PSNR (dB)": ("%.2f", [row["psnr"] for row in rows])}
    columns |= {f"{b}: PSNR": ("%.2f", [row["baselines"][b]["psnr"] for row in rows]) for b in rows[0]["baselines"]}
    columns["SSIM"] = "%.4f", [row["ssim"] for row in rows]
    words = {"residual": "residual", "seconds": "s/image", "evaluations": "evaluations"}
    words |= {key: (PERCEPTUAL | SCANNED).get(key, key.replace("_", " ")) for key in optional(rows)}
    return columns | {
        word: ("%.3g", [row.get(key) for row in rows]) for key, word in words.items() if any(key in r for r in rows)
    }
