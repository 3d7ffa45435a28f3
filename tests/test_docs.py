"""The docs: links lead somewhere, Python runs, the recipe for a solver gives one that passes the contract, the site is built."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import padis_lightning as pl
from padis_lightning.data.sources.open import open_source

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
PYTHON = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_readme():
    linked = set(LINK.findall(PAGES[0].read_text(encoding="utf-8")))
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} <= linked


def test_the_readme_is_one_page():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


def test_every_config_that_the_docs_name_exists():
    names = {path.name for path in (ROOT / "configs").rglob("*.yaml")} | {"mine.yaml"}
    for page in PAGES:
        named = re.findall(r"(?:--config|sweep) (\w+\.yaml)", page.read_text(encoding="utf-8"))
        assert set(named) <= names, f"{page.name} names {sorted(set(named) - names)}"


def blocks(page: Path) -> list[str]:
    """Return the Python of a page."""
    return [textwrap.dedent(code) for _, code in PYTHON.findall(page.read_text(encoding="utf-8"))]


def test_the_python_of_the_data_page_writes_a_scan_that_is_read(tmp_path, monkeypatch):
    """Projections turned over, attenuations from counts, and angles against the turns of the object."""
    monkeypatch.chdir(tmp_path)
    counts, sent = np.random.default_rng(0).uniform(50, 90, (6, 5, 7)), np.full((5, 7), 100.0)
    np.save("flat.npy", sent), np.save("counts.npy", counts)
    (code,) = blocks(ROOT / "docs" / "data.md")
    exec(code, {})  # noqa: S102
    source = open_source("scan.npz")
    assert source.image_shape == (1, 64, 128, 128) and not source.has_images
    expected = -np.log(counts / sent)[:, ::-1] / 0.04
    np.testing.assert_allclose(source[0].measurement[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_the_python_of_the_readme_reconstructs():
    """Closer to the truth than filtered back-projection by 8 dB."""
    (code,) = blocks(PAGES[0])
    names: dict = {}
    exec(code, names)  # noqa: S102
    plain = pl.reconstruct(names["sinogram"], names["scan"], solver="PseudoInverse").image
    ours, theirs = (np.square(found - names["truth"]).mean() for found in (names["found"].image, plain))
    assert ours < theirs / 6


FROM_PYTHON = blocks(ROOT / "docs" / "python.md")


@pytest.mark.parametrize("k", range(len(FROM_PYTHON)))
def test_the_blocks_of_from_python_run(k, recwarn):
    """Each by itself: what it finds is near to what it measured."""
    for library in re.findall(r"^(?:import|from) (deepinv|cil)\b", FROM_PYTHON[k], re.MULTILINE):
        pytest.importorskip(library)
    names: dict = {}
    exec(FROM_PYTHON[k], names)  # noqa: S102
    if k == 0:
        assert np.abs(names["found"].image - names["disc"]).mean() < 1 and names["clean"].std() < 5
    elif k == 1:
        left = torch.linalg.vector_norm(names["operator"](names["images"]) - names["y"])
        assert left < 0.1 * torch.linalg.vector_norm(names["y"])
    elif k == 2:
        assert np.allclose(names["least_squares"], 1, atol=1e-3) and np.allclose(names["half"].reshape(-1)[::2], 1, atol=0.1)
    elif k == 4:
        disc = names["disc"].as_array()
        assert np.abs(names["found"] - disc).mean() < 0.03 and np.abs(names["ours"] - disc).mean() < 0.03
    else:
        assert names["mended"].shape == (1, 3, 96, 96) and (names["mended"] - names["restored"]).abs().mean() < 0.1


COMING_FROM = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")


def test_names_in_coming_from_are_public_here():
    named = set(re.findall(r"\bpl\.(\w+)", COMING_FROM))
    assert len(named) > 20 and named <= {*dir(pl)}


def test_names_in_coming_from_are_deepinvs():
    deepinv = pytest.importorskip("deepinv")
    for name in set(re.findall(r"\bdeepinv\.((?:[a-z]+\.)?[A-Z]\w+)", COMING_FROM)):
        assert attrgetter(name)(deepinv), name


def test_the_readme_cites_the_paper_of_the_citation_file():
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\}", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE))
    assert fields["author"] == " and ".join(f"{of['family-names']}, {of['given-names']}" for of in paper["authors"])
    assert fields["title"].lower() == paper["title"].lower() and fields["booktitle"] == paper["collection-title"]
    assert (fields["volume"], fields["year"]) == (str(paper["volume"]), str(paper["year"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the site by name, built with the options of ``make docs``; a warning is an error."""
    for name in ("sphinx", "myst_parser", "furo", "sphinx-mathjax-offline"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("site")
    (folder / "source").mkdir()
    options = re.search(r"-m sphinx (.+) --doctree-dir", (ROOT / "Makefile").read_text())[1].split()
    assert "--fail-on-warning" in options
    command = [sys.executable, "-m", "sphinx", *options, folder / "source", folder / "site"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return {page.stem: page.read_text(encoding="utf-8") for page in (folder / "site").glob("*.html")}


@pytest.mark.slow
def test_the_site_describes_every_public_name(site):
    described = {name for page in site.values() for name in re.findall(r'id="padis_lightning\.(\w+)"', page)}
    assert described == set(pl._listed())


@pytest.mark.slow
def test_the_site_describes_all_that_is_public_in_interop(site):
    described = set(re.findall(r'id="padis_lightning\.interop\.(\w+\.\w+)"', site["api_interop"]))
    trees = {path.stem: ast.parse(path.read_text()).body for path in (ROOT / "padis_lightning" / "interop").glob("*.py")}
    named = {f"{stem}.{part.name}" for stem, body in trees.items() for part in body if hasattr(part, "name")}
    assert described == {name for name in named if "._" not in name} and {"cil.scan", "deepinv.Physics"} <= described


@pytest.mark.slow
def test_every_solver_has_a_page_with_its_equation_and_what_was_measured(site):
    """Each figure of the tables of 20 and 8 views is on the page of its solver and on no other."""
    tables = re.findall(r"^### (?:20|8) views\n\n((?:\|.*\n)+)", (ROOT / "docs" / "solvers.md").read_text(), re.MULTILINE)
    rows = [row.split(" | ") for table in tables for row in table.splitlines()[2:]]
    assert len(tables) == 2 and len(rows) > 40
    for first, _, figure, *_ in rows:
        (name,) = (word for word in re.findall(r"`(\w+)`", first) if word in dir(pl))
        assert [page for page in site if page.startswith("solver_") and figure in site[page]] == [f"solver_{name}"]
    for name in {page.removeprefix("solver_") for page in site if page.startswith("solver_")} & {*dir(pl)}:
        shown = site[f"solver_{name}"].count('class="math notranslate nohighlight"')
        assert shown >= (getattr(pl, name).__doc__ or "").count(".. math::")


@pytest.mark.slow
def test_every_picture_is_in_the_gallery_with_a_command(site):
    parts = site["gallery"].split("<hr")
    pictures = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".jpg")}
    assert {name for part in parts for name in re.findall(r'src="_images/([^"]+)"', part)} == pictures
    for part in parts:
        code = re.sub("<[^>]+>", "", " ".join(re.findall(r"<(?:code|pre)\b.*?</(?:code|pre)>", part, re.DOTALL)))
        assert re.search(r"predict --config \w+\.yaml|python -m benchmarks\.\w+", code), part


@pytest.mark.slow
def test_the_site_takes_nothing_from_other_hosts(site):
    taken = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
    assert {page: taken.findall(text) for page, text in site.items() if taken.search(text)} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("read my format", "NIfTI"),
        ("choose a solver", "Which one to take"),
        ("what the units are", "radians"),
        ("train on two GPUs", "--trainer.devices 2"),
        ("write an operator", "LinearOperator"),
        ("cite", "@inproceedings"),
    ],
)
def test_the_first_page_leads_to_what_people_ask(site, question, answer):
    """In one click, to the section that answers."""
    name, anchor = re.search(rf'href="(?:(\w+)\.html)?(?:#([\w-]+))?">(?:<span[^>]*>)?{question}', site["index"]).groups()
    text = site[name or "index"]
    section = re.search(rf'<section id="{anchor}">.*?</section>', text, re.DOTALL)[0] if anchor else text
    assert answer in re.sub("<[^>]+>", "", section)


@pytest.mark.slow
def test_contributings_solver_passes_the_contract_as_it_is_printed(tmp_path):
    """In a copy of the package: its file, its config and its line in the list, and nothing else."""
    solver, line = blocks(ROOT / "CONTRIBUTING.md")
    for name in ("padis_lightning", "configs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)  # with what is compiled
    for name in ("setup.cfg", "pyproject.toml", "environment.yml", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "padis_lightning" / "solvers" / "mine.py").write_text(solver)
    config = re.sub(
        r"^model:\n(  .*\n)+",
        "model: {class_path: Mine, init_args: {steps: 50}}\n",
        (ROOT / "configs/ct20.yaml").read_text(),
        flags=re.M,
    )
    (tmp_path / "configs" / "mine.yaml").write_text(config)
    tests = tmp_path / "tests" / "test_solvers.py"
    text = tests.read_text().replace("SOLVERS = {\n", f"SOLVERS = {{\n    {line}")
    tests.write_text(
        text.replace(
            "from padis_lightning.solvers.mmps",
            "from padis_lightning.solvers.mine import Mine\nfrom padis_lightning.solvers.mmps",
        )
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True}
    files = [f"tests/test_{name}.py" for name in ("solvers", "resuming", "host_state", "cli", "package")]
    done = subprocess.run([sys.executable, "-m", "pytest", *files, "-k", "(Mine or contract or package) and not heavy"], **run)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 12
    small = ["--data.count", "1", "--model.steps", "2", "--results.baselines", "{}", "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "padis_lightning", "predict", "--config", "mine.yaml", *small, "--output", "out"], **run
    )
    assert done.returncode == 0 and (tmp_path / "out" / "summary.json").is_file(), done.stderr[-3000:]
