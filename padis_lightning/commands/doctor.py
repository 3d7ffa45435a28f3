"""The command ``doctor``: find out what of this machine works by trying it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import one_line
from padis_lightning.files import write_text

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "padis_lightning"
LONGEST = 300  # characters of another library's message
PROBE = 1 << 20  # bytes that the output folder must take


class Broken(Exception):  # noqa: N818 - raised to leave a check with what it saw
    """Say in a line that something does not do what it should, and what to do about it (default: the check's own remedy)."""

    state = "broken"

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


class Absent(Broken):
    """Say that something optional is not there."""

    state = "absent"


class Check(NamedTuple):
    """Name what is tried, a function that tries it and returns what it saw in a line, and what to do where it is broken."""

    name: str
    look: Callable[[], str]
    remedy: str = ""


class Finding(NamedTuple):
    """Hold what a check found; ``state`` is ok, absent or broken; ``remedy`` is empty where there is nothing to do."""

    name: str
    state: str
    text: str
    remedy: str = ""


def find(check: Check) -> Finding:
    """Try one thing; whatever it raises becomes a finding."""
    try:
        return Finding(check.name, "ok", check.look())
    except Broken as seen:
        remedy = seen.remedy or (check.remedy if seen.state == "broken" else "")
        return Finding(check.name, seen.state, str(seen), remedy)
    except Exception as error:
        return Finding(check.name, "broken", one_line(f"{type(error).__name__}: {error}")[:LONGEST], check.remedy)


def run(args: Sequence[str]) -> None:
    """Report what works; a line starts before its check, so that a library that ends the process is named.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument is unknown.
        SystemExit: with 1, something is broken.
    """
    about = "Try what of this machine works, without a network. Exit code 1 where something is broken."
    parser = Parser(prog="python -m padis_lightning doctor", description=about, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="where results will go")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse_args(list(args))
    todo, findings = list(checks(options.output)), []
    width = max(len(check.name) for check in todo)
    for check in todo:
        if not options.json:
            print(f"{check.name:<{width}}  ", end="", flush=True)
        with redirect_stdout(sys.stderr):  # libraries that greet
            finding = find(check)
        findings.append(finding)
        if not options.json:
            print(f"{finding.state:<6}  {finding.text}" + (f"; {finding.remedy}" if finding.remedy else ""))
    broken = [f"{f.name}: {f.remedy}" if f.remedy else f.name for f in findings if f.state == "broken"]
    last = f"broken: {'; '.join(broken)}" if broken else "everything that is needed works"
    print(
        json.dumps({"findings": [f._asdict() for f in findings], "conclusion": last}, indent=2) if options.json else f"\n{last}"
    )
    if broken:
        raise SystemExit(1)


def checks(output: Path) -> Iterator[Check]:
    """Yield all checks in the order of the report."""
    from padis_lightning.commands import trials

    place = Path(__file__).parent.parent
    yield Check(PACKAGE, lambda: f"{metadata.version(PACKAGE)} in {place}", "install it, in a checkout by pip install -e .")
    for extra, wanted in requirements().items():
        again = " ".join(["pip install --force-reinstall", *(f"'{one.name}{one.specifier}'" for one in wanted)])
        yield Check(f"[{extra}]" if extra else "libraries", partial(_libraries, extra, wanted), again)
    yield from trials.machine()
    yield from trials.projectors()
    yield from trials.priors()
    yield Check("output", partial(_writable, output), "name a folder that can be written with --output")


def requirements() -> dict[str, list[Requirement]]:
    """Return what each extra of the installed package wants, and under the empty name what is always needed."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        return {}
    wanted = [Requirement(text) for text in declared.get_all("Requires-Dist", [])]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    others = [one for one in wanted if one not in needed]
    names = declared.get_all("Provides-Extra", [])
    return {"": needed} | {name: [one for one in others if one.marker.evaluate({"extra": name})] for name in names}


def _libraries(extra: str, wanted: Sequence[Requirement]) -> str:
    """Return the versions of libraries; those that fit are imported."""
    seen, unmet = [], []
    for one in wanted:
        try:
            found = metadata.distribution(one.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"no {one.name}")
            continue
        if one.specifier.contains(found.version, prereleases=True):
            seen.append(f"{one.name} {found.version}")
            _import(found)
        else:
            unmet.append(f"{one.name} {found.version}, wanted {one.specifier}")
    if unmet and extra:
        raise Absent(", ".join(seen + unmet), f"pip install '{PACKAGE}[{extra}]'")
    if unmet:
        raise Broken(", ".join(unmet))
    return ", ".join(seen)


def _import(found: metadata.Distribution) -> None:
    """Import the package of a distribution's own name, or the first that it holds."""
    tops = {file.parts[0] for file in found.files or () if len(file.parts) == 2 and file.name == "__init__.py"}
    public = sorted(top for top in tops if top.isidentifier() and not top.startswith("_"))
    own = found.metadata["Name"].lower().replace("-", "_")
    if public:
        import_module(own if own in public else public[0])


def _writable(output: Path) -> str:
    """Write a file as a run would, beside which nothing is left."""
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as folder:
            write_text(Path(folder) / "probe", PROBE * "0")
    except OSError as error:
        raise Broken(f"{output} cannot be written: {error.strerror or error}") from None
    usage = shutil.disk_usage(there)
    return f"{output} can be written; {usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free in {there}"
