"""One page that opens anywhere and needs nothing else: a result folder, or several against each other."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from padis_lightning.errors import first_few
from padis_lightning.results.histogram import histogram
from padis_lightning.results.panels import Panel, to_png
from padis_lightning.results.runs import Run, changed, differences, flat, shared_pictures
from padis_lightning.results.scores import MEANS, SAMPLED, VOLUMES

TEMPLATE = Path(__file__).parent.parent / "assets" / "report"
LARGEST = 64_000_000  # characters of pictures on a page
PRESETS = {"lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800)}  # level and width in HU
MADE = {"seconds_per_image", "baselines", "gain", "intervals", "n", "groups", "failed", "missing"}
SCORED = {*MEANS, *SAMPLED, *VOLUMES, *MADE}  # what a summary has besides


def report_page(runs: Sequence[Run]) -> str:
    """Summary, scores, pictures, settings and provenance of one run, or of several that hold the same images, as HTML."""
    pictures = _pictures(runs)
    first, title = runs[0], " and ".join(run.name for run in runs)
    template = Template((TEMPLATE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        style=(TEMPLATE / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATE / "script.js").read_text(encoding="utf-8"),
        lead=html.escape(_lead(runs)),
        overview=_overview(runs),
        histogram=_histogram(runs),
        options="".join(f"<option>{html.escape(p['name'])}</option>" for p in pictures),
        told=html.escape(_told(pictures, first.summary["n"])),
        scores=_scores(runs, {p["name"] for p in pictures}),
        provenance=_provenance(runs),
        data=json.dumps({**_shown(first), "images": pictures}, allow_nan=False).replace("<", "\\u003c"),
    )


def _lead(runs: Sequence[Run]) -> str:
    """How many images there are, and which are not because they failed or are missing."""
    first, lacking = runs[0], []
    for run in runs:
        for kind in ("failed", "missing"):
            names = list(run.summary.get(kind, ()))
            if names:
                lacking.append(f" In {run.name} {len(names)} {kind}: {first_few(names)}.")
    said = f"{first.summary['n']} images of {first.summary['groups']} groups; brackets: 95 % bootstrap intervals over groups."
    return said + "".join(lacking)


def _shown(run: Run) -> dict[str, Any]:
    hounsfield = run.shown["units"] == "HU"
    lower, upper = run.shown["lower"], run.shown["upper"]
    return {**run.shown, "presets": {**(PRESETS if hounsfield else {}), "full": ((lower + upper) / 2, upper - lower)}}


def _picture(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """The panels of one image; pixels as data URIs, errors as the number of the panel that they are of."""
    rows = {run.name: next(row for row in run.rows if row["name"] == name) for run in runs}
    if len(runs) == 1:
        row = rows[runs[0].name]
        scores = {("baseline", b): theirs["psnr"] for b, theirs in row["baselines"].items()}
        scores["estimate", runs[0].summary["solver"]] = row["psnr"]
        panels = [_embedded(p, scores.get((p.kind, p.title))) for p in runs[0].panels(name)]
    else:
        every = {run.name: run.panels(name) for run in runs}
        panels = [_embedded(p, None) for p in next(iter(every.values())) if p.kind == "truth"]
        for run, kept in every.items():
            panels += [{**_embedded(p, rows[run]["psnr"]), "title": run} for p in kept if p.kind == "estimate"]
    if any(p["kind"] == "truth" for p in panels):
        errors = [
            {"title": f"error of {p['title']}", "kind": "error", "of": k} for k, p in enumerate(panels) if p["kind"] == "estimate"
        ]
        place = next((k for k, p in enumerate(panels) if p["kind"] == "deviation"), len(panels))
        panels[place:place] = errors
    return {"name": name, "panels": panels}


def _embedded(panel: Panel, psnr: float | None) -> dict[str, Any]:
    note = "" if psnr is None else f"{psnr:.2f} dB"
    ends = {"lower": panel.lower, "upper": panel.upper}
    colour = panel.codes.ndim > 2 and panel.codes.shape[-1] > 1
    about = {"shape": panel.codes.shape[:3], "extent": panel.extent, "voxels": panel.voxels} if panel.extent else {}
    return {"title": panel.title, "kind": panel.kind, "note": note, **ends, "colour": colour, **about, "png": to_png(panel.codes)}


def _pictures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Those of all images that have panels, or of so many, evenly spread, that a browser can hold the page."""
    names = shared_pictures(runs)
    if not names:
        return []
    first = _picture(runs, names[0])
    size = sum(len(p.get("png", "")) for p in first["panels"])
    count = min(len(names), max(1, LARGEST // size))
    return [first, *(_picture(runs, names[k * len(names) // count]) for k in range(1, count))]


def _told(pictures: Sequence[dict[str, Any]], total: int) -> str:
    """What of the images is not here."""
    said = []
    if len(pictures) != total:
        said.append(f"{len(pictures)} of {total} images are here with their pixels; the others are in the table only.")
    found = [next((panel for panel in image["panels"] if "voxels" in panel), None) for image in pictures]
    volumes = {image["name"]: panel for image, panel in zip(pictures, found, strict=True) if panel}
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


def _cell(value: Any, digits: str = ".3g") -> str:  # noqa: ANN401 - a number, a text, or nothing
    if value is None:
        return "<td>–</td>"
    if isinstance(value, float):
        return f'<td data-key="{json.dumps(value)}">{value:{digits}}</td>'
    key = f' data-key="{value}"' if isinstance(value, int) else ""
    return f"<td{key}>{html.escape(str(value))}</td>"


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]], caption: str, strong: Collection[int] = ()) -> str:
    """A table; the rows at the places ``strong`` stand out."""
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in header)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    lines = ((' class="strong"' if k in strong else "", "".join(map(_cell, row))) for k, row in enumerate(rows))
    body = "".join(f"<tr{kind}>{cells}</tr>" for kind, cells in lines)
    caption = f"<caption>{html.escape(caption)}</caption>"
    return f'<div class="scroll"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def _with_interval(means: dict[str, Any], key: str, digits: int) -> str:
    value, spread = means.get(key), means["intervals"].get(key)
    if value is None:
        return "–"
    ends = "" if spread is None else f" [{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]"
    return f"{value:.{digits}f}{ends}"


def _gain(gain: dict[str, Any]) -> str:
    return f"{gain['psnr']:+.2f} [{gain['interval'][0]:+.2f}, {gain['interval'][1]:+.2f}]"


def _overview(runs: Sequence[Run]) -> str:
    """The methods of every run with their means; under it, what a run gains over another and what intervals hold."""
    rows, lines, strong = [], [], []
    stacked = any("consistency" in run.summary for run in runs)
    for run in runs:
        of = f" of {run.name}" if len(runs) > 1 else ""
        for name, means in [*run.summary["baselines"].items(), (run.summary["solver"], run.summary)]:
            quality = [_with_interval(means, "psnr", 2), _with_interval(means, "ssim", 3)]
            rest = [means.get(key) for key in ("residual", "seconds_per_image", "evaluations")]
            rest += [_with_interval(means, "consistency", 3)] if stacked else []
            gain = run.summary["gain"].get(name) if means is not run.summary else None
            rows.append([name + of, *quality, gain and _gain(gain), *rest])
        strong.append(len(rows) - 1)
        if run.summary.get("coverage") is not None:
            low, high = (100 * end for end in run.summary["intervals"]["coverage"])
            held = f"{100 * run.summary['coverage']:.1f} % [{low:.1f}, {high:.1f}]"
            lines.append(f"90 % intervals of the samples{of} hold {held} of the truth.")
    lines += [f"{d['of']} over {d['over']}: {_gain(d)} dB, image by image." for d in differences(runs)]
    header = ["method", "PSNR (dB)", "SSIM", "gain (dB)", "residual", "s/image", "evaluations", *["consistency"] * stacked]
    if stacked:
        lines.append("Consistency: how much neighbouring slices differ, over how much they do in truth; 1 is right.")
    table = _table(header, rows, "Means over all images, and what the solver gains over each baseline", strong)
    return table + "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _histogram(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        series = {run.name: [row["psnr"] for row in run.rows] for run in runs}
    else:
        rows = runs[0].rows
        series = {name: [row["baselines"][name]["psnr"] for row in rows] for name in rows[0]["baselines"]}
        series[runs[0].summary["solver"]] = [row["psnr"] for row in rows]
    return histogram({name: [v for v in values if v is not None] for name, values in series.items()}, "PSNR (dB)")


def _columns(runs: Sequence[Run]) -> dict[str, tuple[str, list[float | None]]]:
    """Columns of the table of images: how numbers are written, and one of each image of the first run, or None."""
    names, psnr = [row["name"] for row in runs[0].rows], ".2f"
    if len(runs) > 1:
        scores = [{row["name"]: row["psnr"] for row in run.rows} for run in runs]
        columns = {f"{run.name}: PSNR (dB)": (psnr, [one[n] for n in names]) for run, one in zip(runs, scores, strict=True)}
        for d in differences(runs) if len(runs) == 2 else ():
            columns[f"{d['of']} over {d['over']} (dB)"] = "+.2f", [scores[1][n] - scores[0][n] for n in names]
        return columns
    rows = runs[0].rows
    columns = {"PSNR (dB)": (psnr, [row["psnr"] for row in rows])}
    columns |= {f"{b}: PSNR": (psnr, [row["baselines"][b]["psnr"] for row in rows]) for b in rows[0]["baselines"]}
    columns["SSIM"] = ".4f", [row["ssim"] for row in rows]
    rest = {
        "residual": "residual",
        "seconds": "s/image",
        "evaluations": "evaluations",
        **{k: k.replace("_", " ") for k in (*SAMPLED, *VOLUMES)},
    }
    return columns | {word: (".3g", [row[key] for row in rows]) for key, word in rest.items() if key in rows[0]}


def _scores(runs: Sequence[Run], pictured: set[str]) -> str:
    """The table of every image; its headers sort it, and the names of those with pixels show them."""
    columns = _columns(runs)
    header = (f'<th scope="col"><button type="button">{html.escape(h)}</button></th>' for h in ["image", "group", *columns])
    body = []
    for k, row in enumerate(runs[0].rows):
        name = html.escape(row["name"])
        shown = f'<button type="button">{name}</button>' if row["name"] in pictured else name
        cells = "".join(_cell(values[k], digits) for digits, values in columns.values())
        body.append(f'<tr data-name="{name}"><th scope="row">{shown}</th>{_cell(row["group"])}{cells}</tr>')
    return (
        '<div class="scroll tall"><table id="scores"><caption>Scores of every image; headers sort</caption>'
        f"<thead><tr>{''.join(header)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _provenance(runs: Sequence[Run]) -> str:
    names, parts = [run.name for run in runs], []
    if len(runs) > 1:
        rows = [[key, *values] for key, values in changed(runs).items()]
        parts.append(_table(["setting", *names], rows, "Settings that differ"))
    made = [flat({k: v for k, v in run.summary.items() if k not in SCORED}) for run in runs]
    rows = [[key, *(one.get(key) for one in made)] for key in dict.fromkeys(key for one in made for key in one)]
    parts.append(_table(["", *names] if len(runs) > 1 else [], rows, "What made it"))
    state = "open" if len(runs) == 1 else ""
    for run in runs:
        text = html.escape(run.config or "There is no config.yaml: the run was not started from the command line.")
        heading = f"<summary>config.yaml of {html.escape(run.name)}</summary>"
        parts.append(f"<details {state}>{heading}<pre>{text}</pre></details>")
    return "".join(parts)
