"""The notebooks: small, linked, and what they keep is what their code prints and shows."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_docs import LINK, ROOT, anchors

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def outputs(path: Path) -> tuple[list[str], list[float], list[np.ndarray]]:
    """What the cells of a notebook print without its numbers, these, and the pictures that they show."""
    found = [output for cell in cells(path) for output in cell.get("outputs", [])]
    text = "".join("".join(output.get("text", "\n")) for output in found)
    files = [base64.b64decode(shown) for output in found if (shown := output.get("data", {}).get("image/png"))]
    pictures = [np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in files]
    return NUMBER.split(text), [float(number) for number in NUMBER.findall(text)], pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_linked_and_was_run_from_top_to_bottom(path):
    assert path.stat().st_size < 1_000_000
    run = [cell["execution_count"] for cell in cells(path) if cell["cell_type"] == "code"]
    assert run == list(range(1, len(run) + 1)) and outputs(path)[1] and outputs(path)[2]
    for page in ("README.md", "docs/python.md"):
        assert f"notebooks/{path.name})" in (ROOT / page).read_text(encoding="utf-8")
    prose = "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown")
    for link in LINK.findall(prose):
        name, _, anchor = link.partition("#")
        target = path.parent / name
        assert target.is_file() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8"))), link


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder of all notebooks as one process has run them, which warns of nothing."""
    folder, env = tmp_path_factory.mktemp("ran"), {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "notebooks.run", *NOTEBOOKS, "--output", folder]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_keeps_is_what_its_code_prints_and_shows(path, ran):
    """Up to rounding: the same words, numbers within 2 %, pictures within a grey level."""
    assert [cell["source"] for cell in cells(ran / path.name)] == [cell["source"] for cell in cells(path)]
    (words, numbers, pictures), (kept_words, kept_numbers, kept_pictures) = outputs(ran / path.name), outputs(path)
    assert words == kept_words and numbers == pytest.approx(kept_numbers, rel=0.02)
    for picture, kept in zip(pictures, kept_pictures, strict=True):
        assert picture.shape == kept.shape and np.abs(picture - kept).mean() < 1
