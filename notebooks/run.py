"""Run notebooks from top to bottom, and keep what their cells print and show.

    python -m notebooks.run [FILE ...] [--output FOLDER]
    python -m padis_lightning.notebooks.run --output FOLDER       from the wheel, which has the notebooks, too

All notebooks of this folder are written anew where they are, unless files or another folder are named. Cells are plain Python
and pictures are Pillow's, as Jupyter shows them, so that neither Jupyter nor a kernel has to be installed to keep them true.
"""

from __future__ import annotations

import argparse
import ast
import base64
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent


def run(cell: dict[str, Any], names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a cell's code with these names, and yield its outputs: what it prints, and the value of its last expression."""
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    if text := printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "png", optimize=True)
        shown = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": [f"a picture of {value.size}"]}
    else:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
    if value is not None:
        yield {"data": shown, "execution_count": cell["execution_count"], "metadata": {}, "output_type": "execute_result"}


def execute(path: Path) -> dict[str, Any]:
    """Return a notebook with the outputs of its cells, which share their names."""
    notebook, names = json.loads(path.read_text(encoding="utf-8")), {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(cells, start=1):
        cell["execution_count"] = count
        cell["outputs"] = list(run(cell, names))
    return notebook


def main() -> None:
    """Write notebooks with their outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    parser.add_argument("--output", type=Path, help="folder (default: that of each file)")
    given = parser.parse_args()
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
    for path in given.files:
        text = json.dumps(execute(path), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        ((given.output or path.parent) / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
