"""The site of ``make docs``: Sphinx's settings, and its pages, made of README.md, docs/, docstrings and ``__init__.pyi``.

Sphinx reads a folder that :func:`write_pages` fills, so that nothing is written by hand a second time.
"""

from __future__ import annotations

import base64
import importlib.util
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from mdit_py_plugins.anchors.index import slugify
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

import padis_lightning
from padis_lightning.registry import subclasses
from padis_lightning.solvers import Solver

ROOT = Path(__file__).parent.parent
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent

project = "padis_lightning"
author = "The authors of padis_lightning"
release = padis_lightning.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
smartquotes_action = "D"  # dashes alone
highlight_language = "text"
html_theme = "furo"
html_title = f"{project} {release}"
html_css_files = ["site.css"]
html_static_path = ["site.css", str(MATHJAX / "static" / "mathjax" / "tex-svg.js")]  # of MathJax one file, with its glyphs
mathjax_path = "tex-svg.js"
html_copy_source = False
html_show_copyright = False  # which stands in LICENSE and NOTICE

NOTEBOOKS = [f"notebook_{name}" for name in ("ct", "photograph", "own_operator")]
PAGES = {  # in the order of the menu
    "Begin": ["tutorial", *NOTEBOOKS, "coming_from", "gallery"],
    "Use": [
        "data",
        "formats",
        "operators",
        "mri",
        "solvers",
        "running",
        "python",
        "training",
        "volumes",
        "results_folder",
        "cluster",
    ],
    "Look up": ["api", "benchmarks", "results"],
    "Project": ["CONTRIBUTING", "SECURITY", "CHANGELOG"],
}
WRITTEN = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
PUBLIC: dict[str, str] = padis_lightning._listed()
INTEROP = [f"padis_lightning.interop.{path.stem}" for path in sorted((ROOT / "padis_lightning/interop").glob("[!_]*.py"))]
PATHS = {cls.__name__: f"{cls.__module__}.{cls.__name__}" for cls in subclasses(Solver)}
PATHS |= {name: f"padis_lightning.{name}" for name in PUBLIC}
for path, name in {  # what modules of interop subclass, of libraries that may be missing; autodoc's own mocks hide signatures
    "cil.optimisation.functions": "Function",
    "cil.optimisation.operators": "LinearOperator",
    "deepinv.models": "Denoiser",
    "deepinv.physics": "LinearPhysics",
}.items():
    sys.modules[path] = SimpleNamespace(**{name: type(name, (), {"__module__": path})})
LINK = re.compile(r"\]\((?:\.\./)?(?:docs/)?")
NOTEBOOK = re.compile(r"\]\((?:notebooks/)?(\w+)\.ipynb\)")
NAMED_AFTER_FILE = re.compile(r"\[(?:docs/)?\w+\.md\]\((\w+\.md)")  # [data.md](data.md) has the page's title on the site
TABLE = re.compile(r"^(\|.*\n\|[-|]+\n)((?:\|.*\n)+)", re.MULTILINE)  # its head, and its rows
OVERVIEW = "| solver | take it for |"  # begins the table of all solvers
FENCE = r"```\n(?:.+\n)+```\n"
PICTURE = re.compile(rf"((?:^{FENCE}\n)?)^(!\[.*\]\((\S+)\)\n(?:\*(?:.+\n)+)?)((?:\n{FENCE})?)", re.MULTILINE)


def read(path: str) -> str:
    """Return the Markdown of a file below the root, with links as they are on the site, where all pages are in one folder."""
    return on_site((ROOT / path).read_text(encoding="utf-8"))


def on_site(text: str) -> str:
    """Return Markdown whose links lead to pages of the site."""
    return NAMED_AFTER_FILE.sub(r"[](\1", NOTEBOOK.sub(r"](notebook_\1.md)", LINK.sub("](", text)))


def menu(pages: list[str], caption: str = "") -> str:
    """Return what Sphinx makes the menu of."""
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}" if caption else "", "", *pages, "```", ""])


def sections(page: str) -> Iterator[tuple[str, str]]:
    """Yield a link to each section of a page in docs/, and its text up to the next heading."""
    fenced, heading, body = False, "", ""
    for line in [*read(f"docs/{page}.md").splitlines(keepends=True), "# "]:
        fenced ^= line.startswith("```")
        if fenced or not re.match("#+ ", line):
            body += line
            continue
        if body:
            yield f"[{heading}]({page}.md#{slugify(heading)})", body
        heading, body = line.lstrip("#").strip(), ""


def overview() -> dict[str, list[tuple[str, str]]]:
    """Return what the table of all solvers says of each: pairs of the column and the cell."""
    (table,) = (head + rows for head, rows in TABLE.findall(read("docs/solvers.md")) if head.startswith(OVERVIEW))
    head, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines())
    return {name.strip("`"): list(zip(head[1:], cells, strict=True)) for name, *cells in rows}


def measured(solver: str) -> str:
    """Return the rows of all tables whose first cell names a solver, under a link to where they stand."""
    found = ""
    for link, body in (section for page in WRITTEN for section in sections(page)):
        for head, rows in TABLE.findall(body):
            named = [row for row in rows.splitlines() if f"`{solver}`" in row.split("|")[1]]
            if named and not head.startswith(OVERVIEW):
                found += f"{link}:\n\n{head}" + "\n".join(named) + "\n\n"
    return found


def documented(name: str) -> str:
    """Return the directive that writes the docstring of a public name or of a solver."""
    of = getattr(importlib.import_module(PATHS[name].rpartition(".")[0]), name)
    kind = "function" if not inspect.isclass(of) else "exception" if issubclass(of, Exception) else "class"
    options = "" if kind == "function" else "\n   :members:\n   :show-inheritance:"
    return f"```{{eval-rst}}\n.. py:currentmodule:: padis_lightning\n.. auto{kind}:: {PATHS[name]}{options}\n```\n"


def documented_module(path: str) -> str:
    """Return the directive that writes the docstrings of a module and of what is public in it, under a heading."""
    return f"## {path}\n\n```{{eval-rst}}\n.. automodule:: {path}\n   :members:\n   :show-inheritance:\n```\n"


def solver_page(name: str, says: list[tuple[str, str]]) -> str:
    """Return the page of a solver: when to take it, its equation and options, what was measured, where else it is named."""
    table = "\n".join(f"| {column} | {cell} |" for column, cell in says)
    links = [link for page in WRITTEN for link, body in sections(page) if re.search(rf"\b{name}\b", body)]
    rows = measured(name)
    return (
        f"# {name}\n\n`--model {name}` on the command line. [](solvers.md) compares it with others.\n\n"
        f"| | |\n|---|---|\n{table}\n\n{documented(name)}\n"
        + (f"## Measured\n\n{rows}" if rows else "")
        + f"## Read on\n\nIt is named in {', '.join(links)}.\n"
    )


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for each room with names, and the list of all; solvers have pages of their own, all but what they share.

    Names of ``interop`` are not among those of ``pl``: its modules are described whole.
    """
    rooms: dict[str, list[str]] = {}
    for name, path in PATHS.items():
        rooms.setdefault(PUBLIC.get(name, path).split(".")[1], []).append(name)
    parts = {room: [documented(name) for name in names if name not in overview()] for room, names in rooms.items()}
    parts["interop"] = [documented_module(path) for path in INTEROP]
    shown = {room: [f"~{PATHS[name]}" for name in names] for room, names in rooms.items()} | {"interop": INTEROP}
    lists = ""
    for room in sorted(parts):
        yield f"api_{room}", f"# padis_lightning.{room}\n\n" + "\n".join(parts[room])
        entries = "\n   ".join(shown[room])
        lists += f"## padis_lightning.{room}\n\n```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n   {entries}\n```\n\n"
    head = (
        "# API reference\n\nThe names of `import padis_lightning as pl`, what else solvers share, and the modules for other "
        "libraries, by module.\n\n"
    )
    yield "api", head + lists + menu([f"api_{room}" for room in sorted(parts)])


def gallery() -> str:
    """Return all pictures of README and docs/, each once, with the caption and the command that stand beside it."""
    found = {}
    parts = [("", read("README.md")), *(section for page in WRITTEN for section in sections(page))]
    for link, body in parts:
        for before, shown, file, after in PICTURE.findall(body):
            found.setdefault(file, f"{shown}\n{before}{after}\n\n{f'From {link}.' if link else ''}\n\n---\n\n")
    return "# Gallery\n\nEach picture has the command that made it.\n\n" + "".join(found.values()).removesuffix("---\n\n")


def notebook_page(page: str, folder: Path) -> str:
    """Return the Markdown of a notebook, with what its cells print, and write the pictures that they show into a folder."""
    name = page.removeprefix("notebook_")
    parts = []
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(on_site(source) if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture:
                file = f"{page}-{len(parts)}.png"
                (folder / file).write_bytes(base64.b64decode(picture))
                parts.append(f"![What the code above shows]({file})")
            else:
                parts.append("```\n" + "".join(output.get("text") or output["data"]["text/plain"]) + "\n```")
    parts.append(f"These are the pictures of {{download}}`{name}.ipynb`, which the package has, too: [](python.md).")
    return "\n\n".join(parts) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the Markdown of every page."""
    yield "index", read("README.md") + "".join(menu(names, caption) for caption, names in PAGES.items())
    yield from ((name, read(f"{name}.md")) for name in PAGES["Project"])
    yield from ((name, read(f"docs/{name}.md")) for name in WRITTEN if name != "solvers")
    solvers = overview()
    linked = re.sub(rf"^\| `({'|'.join(solvers)})`", r"| [`\1`](solver_\1.md)", read("docs/solvers.md"), flags=re.MULTILINE)
    yield "solvers", linked + menu([f"solver_{name}" for name in solvers])
    yield from ((f"solver_{name}", solver_page(name, says)) for name, says in solvers.items())
    yield from api_pages()
    yield "gallery", gallery()


def write_pages(app: Sphinx, config: Config) -> None:
    """Fill the folder that Sphinx reads.

    Raises:
        ConfigError: it is docs/ itself, whose pages would be overwritten.
    """
    if app.srcdir == ROOT / "docs":
        raise ConfigError("the source folder is docs; wanted an empty one, as make docs has it")
    for name, text in pages():
        Path(app.srcdir, f"{name}.md").write_text(text, encoding="utf-8")
    for name in NOTEBOOKS:
        Path(app.srcdir, f"{name}.md").write_text(notebook_page(name, Path(app.srcdir)), encoding="utf-8")
        shutil.copy(ROOT / "notebooks" / f"{name.removeprefix('notebook_')}.ipynb", app.srcdir)
    for path in (ROOT / "docs").iterdir():
        if path.suffix in (".png", ".jpg"):
            shutil.copy(path, app.srcdir)


def link_names(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Make names in docstrings links, by whatever module they are called there."""

    def linked(role: re.Match[str]) -> str:
        return f":{role[1]}:`~{PATHS[role[2]]}`" if role[2] in PATHS else role[0]

    lines[:] = [re.sub(r":(class|func):`~?(?:[\w.]+\.)?(\w+)`", linked, line) for line in lines]


def setup(app: Sphinx) -> None:
    """Have Sphinx call what is above."""
    app.connect("config-inited", write_pages)
    app.connect("autodoc-process-docstring", link_names)
