"""Write ``results.md``: what was run, on what, and the tables with the command above each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.paper import figures, tables
from benchmarks.paper.scales import TITLES
from benchmarks.paper.studies import MAIN, MORE
from padis_lightning.files import write_text

SCALE = {
    "cpu": """Two processor cores, {SIZE}x{SIZE} images, a network of two million weights. The priors of the main table were
trained for {STEPS} steps, 15 to 55 minutes of a core, those that are compared with each other for {SHORT_STEPS}. Methods have
{EVALUATIONS} evaluations where the paper takes 1000, and {COUNT} test images of a task. Such figures can show how methods compare
under one prior and one budget, and effects that are larger than the intervals. They cannot show the paper's numbers or small
differences between priors: an interval counts patients, not trainings. Methods that need many evaluations (Langevin, DPS,
VE-DDNM) suffer from the budget.""",
    "gpu": """One GPU, {SIZE}x{SIZE} images, networks of a few million weights, minutes of training, {EVALUATIONS}
evaluations where the paper takes 1000. Such figures compare methods under one prior; they are not the paper's numbers.""",
    "paper": """The paper's sizes: {SIZE}x{SIZE} images, its networks, its {EVALUATIONS} evaluations, {COUNT} test images.
Its data are AAPM 2016 and CelebA-HQ; figures are of whatever data was given.""",
    "test": "A scale of seconds for the tests: the figures mean nothing.",
}
LEVELS = {"padis": (1.0, 0.002), "default": (0.08, 0.015)}
SOLVERS = {"padis": "PaDIS (DPS)", "default": "default (PnP-ADMM, falling level)"}


@dataclass(frozen=True)
class Page:
    """A page holds what its sections are made from.

    Args:
        output: the folder of results.
        pictures: the folder of plots.
        link: its path as the page names it.
        setup: scale, values, machine and versions of the run.
    """

    output: Path
    pictures: Path
    link: str
    setup: dict[str, Any]

    @property
    def values(self) -> dict[str, str]:
        """Return what stood for the names of the scale."""
        return self.setup["values"]

    def command(self, study: str) -> str:
        """Return the command that makes a study."""
        data = "--data DIR " if self.setup["data"] else ""
        return f"```\npython -m benchmarks.paper --scale {self.setup['scale']} {data}--only {study}\n```"

    def plot(self, name: str, draw: Callable[[Path], None], text: str) -> str:
        """Draw a plot and return the line that shows it."""
        draw(self.pictures / f"{name}.png")
        return f"![{text}]({self.link}/{name}.png)"


def main_section(page: Page) -> list[str]:
    """Return the main table, task by task."""
    lines = ["## Main table", page.command("main")]
    folders = {TITLES[name]: page.output / "main" / name for name in MAIN}
    lines.append(page.plot("main", lambda path: figures.methods(folders, path), "PSNR of every method with its interval"))
    methods = [name for name in tables.METHODS if name != "without_positions"]
    for title, folder in folders.items():
        lines += [f"### {title[0].upper()}{title[1:]}", tables.task_table(folder, methods)]
    tuned = [task for task in (*MAIN, *MORE) if (page.output / "tuning" / task).is_dir()]
    what = "What was chosen on validation data; all other settings are those of the shipped configs and of the paper."
    return [*lines, "### Tuning", what, tables.tuning_table(page.output / "tuning", tuned)]


def more_section(page: Page) -> list[str]:
    """Return the other tasks of the paper's appendix."""
    lines = ["## Fan beam, 60 views, heavy deblurring, a larger image", page.command("more")]
    for name in MORE:
        lines += [f"### {TITLES[name]}", tables.task_table(page.output / "more" / name, ("plain", "tv", "padis", "default"))]
    values = page.values
    lines += [
        f"### 60 views, {values['LARGE']}x{values['LARGE']}",
        f"`ct_large` was trained on images of {values['LARGE']} pixels with patches {values['LARGE_SIZES']}, as the paper does "
        "at 512. A prior with positions serves one size only; that without positions was trained on images of "
        f"{values['SIZE']} pixels.",
        tables.task_table(page.output / "more" / "large", ("plain", "tv", "padis", "default", "without_positions")),
    ]
    return lines


def positions_section(page: Page) -> list[str]:
    """Return the scores by patch size and position encoding."""
    values = page.values
    sizes = {"small": values["SMALL_SIZES"], "middle": values["PATCH_SIZES"], "big": values["BIG_SIZES"]}
    text = "20-view CT with the default solver; every prior was trained for as many steps, a step takes about as many pixels."
    return [
        "## Patch size and position encoding",
        page.command("positions"),
        text,
        tables.positions_table(page.output / "positions", sizes),
    ]


def patients_section(page: Page) -> list[str]:
    """Return the scores by size of the training set."""
    counts = {"few": page.values["FEW"], "some": page.values["SOME"], "all": "all"}
    folder = page.output / "patients"
    return [
        "## Patches and whole images by training patients",
        page.command("patients"),
        "20-view CT with the default solver, priors trained for as many steps whatever the data.",
        tables.patients_table(folder, counts),
        page.plot("patients", lambda path: figures.patients(folder, counts, path), "PSNR by training patients"),
    ]


def levels_section(page: Page) -> list[str]:
    """Return the scores by the first and the last noise level."""
    folder = page.output / "levels"
    return [
        "## First and last noise level",
        page.command("levels"),
        "20-view CT.",
        tables.levels_table(folder, SOLVERS),
        page.plot("levels", lambda path: figures.levels(folder, LEVELS, path), "PSNR by first and last level"),
    ]


def partitions_section(page: Page) -> list[str]:
    """Compare one partition with averages of several."""
    path = page.output / "partitions.json"
    lines = ["## One random partition or the average of several", page.command("partitions")]
    if not path.is_file():
        return [*lines, tables.MISSING]
    found = json.loads(path.read_text(encoding="utf-8"))
    first, second, off = tables.partitions_tables(found)
    return [
        *lines,
        "The denoised image of one random partition is an unbiased estimate of the mean over all partitions, so its variance "
        "is all that averaging K of them removes, by 1 / K; the error of the mean itself stays, whatever K. Mean squares a "
        "pixel; the deviation over sigma is that of the score in units of 1 / sigma; dB: what the squared error is above that "
        "of the mean of all "
        f"{found['levels'][0]['partitions']} partitions. Drawn averages of 1 to 16 follow 1 / K within {100 * off:.0f} %.",
        first,
        page.plot("partitions", lambda to: figures.partitions(found["levels"], to), "error and variance by level"),
        "In reconstructions, 20-view CT: the same steps with averages, and one partition with four times the steps, which "
        "costs as much as four.",
        second,
    ]


def inpainting_section(page: Page) -> list[str]:
    """Return the scores of irregular masks, faces and photographs."""
    lines = ["## Inpainting with irregular masks", page.command("inpainting")]
    built = (page.output / "folders" / "built-in").is_dir()
    source = "six built-in photographs in their names and mixed shapes stand in for them" if built else "their own pictures"
    lines.append(
        "Strokes, 30 % missing. Faces with the faces' prior; folders laid out as BSD100 and DIV2K with the bundled prior of "
        f"photographs: {source}, centre squares of {page.values['PHOTO']} pixels."
    )
    rows = []
    for name, title in (("faces", "faces"), ("bsd100", "BSD100's layout"), ("div2k", "DIV2K's layout")):
        scores = tables.read_scores(page.output / "inpainting" / name)
        for method, label in (
            ("plain", "nearest known pixel"),
            ("tv", "total variation"),
            ("estimate", "this library's default"),
        ):
            rows.append([title, label, *tables.cells(scores.get(method), scores.get("tv"))])
        if name == "faces":
            padis = tables.read_scores(page.output / "inpainting" / "faces-padis").get("estimate")
            rows.append([title, "PaDIS (DPS)", *tables.cells(padis, scores.get("tv"))])
    head = ["images", "method", "PSNR (dB)", "gain over TV (dB)", "SSIM", "evaluations", "s/image"]
    return [*lines, tables.markdown(head, rows)]


def costs_section(page: Page) -> list[str]:
    """Return time and memory of one evaluation."""
    path = page.output / "costs.json"
    lines = ["## Time and memory of one evaluation", page.command("costs")]
    if not path.is_file():
        return [*lines, tables.MISSING]
    text = (
        "Untrained networks of this scale; peak memory beyond weights and libraries in a process of its own (on a processor, "
        "less than some 20 MiB is noise); least time of three."
    )
    return [*lines, text, tables.costs_table(json.loads(path.read_text(encoding="utf-8")))]


SECTIONS = {
    "main": main_section,
    "more": more_section,
    "positions": positions_section,
    "patients": patients_section,
    "levels": levels_section,
    "partitions": partitions_section,
    "inpainting": inpainting_section,
    "costs": costs_section,
}


def _versions(output: Path) -> str:
    """Return the versions that a finished row names."""
    for path in sorted(output.rglob("summary.json")):
        versions = json.loads(path.read_text(encoding="utf-8")).get("versions", {})
        return "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    return "No row is finished"


def head(setup: dict[str, Any], output: Path) -> list[str]:
    """Say what the figures are of."""
    values, machine = setup["values"], setup["machine"]
    evaluations = int(values["LEVELS"]) * int(values["INNER"])
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    data = "real CT and faces" if setup["data"] else "generated phantoms and dead leaves"
    trained = len(list(output.glob("priors/*/done.json")))
    sizes = yaml.safe_load(values["PATCH_SIZES"])
    return [
        "# The paper's studies",
        SCALE[setup["scale"]].format(EVALUATIONS=evaluations, **values),
        f"Data: {data}; test images in final predictions only, everything that was tuned was tuned on validation data. PSNR "
        "clips to [0, 1]. Brackets are 95 % bootstrap intervals over patients (over images where there are no patients); gains "
        f"are paired, on the same images. {trained} priors were trained, {values['STEPS']} steps each for the main table (faces: "
        f"{values['FACES_STEPS']}) and {values['SHORT_STEPS']} for comparisons (whole images: {values['WHOLE_STEPS']}, "
        f"{values['FACES_WHOLE_STEPS']} and {values['WHOLE_SHORT_STEPS']}), patches of {' and '.join(map(str, sizes))} where "
        "nothing else is said. Seed 0 throughout: of training, of the split, of measurements and of solvers. Measurements are "
        "simulated as in the paper, by the operator that reconstructs; only those of the fan beam are on a finer grid.",
        f"Machine: {device}, {machine['system'].split('-')[0]}; times are those of a machine that others may have used. "
        f"{_versions(output)}.",
    ]


def write_page(output: Path, setup: dict[str, Any], studies: Sequence[str], path: Path, pictures: Path) -> None:
    """Make the page and its plots again from the folders of results.

    Args:
        output: the folder of results.
        setup: of ``setup.json`` there.
        studies: in the page.
        path: of the page.
        pictures: folder of its plots, beside it.
    """
    page = Page(output, pictures, pictures.name, setup)
    lines = head(setup, output) + [line for study in studies for line in SECTIONS[study](page)]
    write_text(path, "\n\n".join(lines) + "\n")
