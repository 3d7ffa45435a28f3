"""The command ``doctor``: find out what of this machine works by trying it."""

from __future__ import annotations

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


class Absent(Exception):  # noqa: N818 - raised to leave a check with what it saw
    """Say in a line that something optional is not there, and how to get it."""

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


class Broken(Exception):  # noqa: N818 - as above
    """Say in a line that something does not do what it should."""


class Check(NamedTuple):
    """Name what is tried, a function that tries it and returns what it saw in a line, and what to do where it is broken."""

    name: str
    look: Callable[[], str]
    remedy: str = ""


class Finding(NamedTuple):
    """Hold what a check found; ``state`` is ok, absent or broken; ``remedy`` is empty where there is nothing to do."""

    state: str
    text: str
    remedy: str = ""


def find(check: Check) -> Finding:
    """Try one thing; whatever it raises becomes a finding."""
    try:
        with redirect_stdout(sys.stderr):  # libraries that greet
            return Finding("ok", check.look())
    except Absent as seen:
        return Finding("absent", str(seen), seen.remedy)
    except Broken as seen:
        return Finding("broken", str(seen), check.remedy)
    except Exception as error:
        return Finding("broken", one_line(f"{type(error).__name__}: {error}")[:LONGEST], check.remedy)


def run(args: Sequence[str]) -> None:
    """Report what works; a line starts before its check, so that a library that ends the process is named.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument is unknown.
        SystemExit: with 1, something is broken.
    """
    about = "Try what of this machine works, without a network. Exit code 1 where something is broken."
    parser = Parser("doctor", about)
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="where results will go")
    todo, broken = list(checks(parser.parse_args(list(args)).output)), []
    width = max(len(check.name) for check in todo)
    for check in todo:
        print(f"{check.name:<{width}}  ", end="", flush=True)
        found = find(check)
        print("; ".join(filter(None, [f"{found.state:<6}  {found.text}", found.remedy])))
        broken += [": ".join(filter(None, [check.name, found.remedy]))] if found.state == "broken" else []
    print(f"\nbroken: {'; '.join(broken)}" if broken else "\neverything that is needed works")
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
    wanted: dict[str, list[Requirement]] = {extra: [] for extra in ("", *declared.get_all("Provides-Extra", []))}
    for one in map(Requirement, declared.get_all("Requires-Dist", [])):
        extras = [extra for extra in wanted if one.marker is None or one.marker.evaluate({"extra": extra})]
        if extras:
            wanted[extras[0]].append(one)
    return wanted


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
            import_module(_module(found))
        else:
            unmet.append(f"{one.name} {found.version}, wanted {one.specifier}")
    if unmet and extra:
        raise Absent(", ".join(seen + unmet), f"pip install '{PACKAGE}[{extra}]'")
    if unmet:
        raise Broken(", ".join(unmet))
    return ", ".join(seen)


def _module(found: metadata.Distribution) -> str:
    """Return the package of a distribution's own name, or else the first package or module that it holds."""
    own = found.metadata["Name"].lower().replace("-", "_")
    tops = {file.parts[0] for file in found.files or () if len(file.parts) == 2 and file.name == "__init__.py"}
    tops |= {file.stem for file in found.files or () if len(file.parts) == 1 and file.suffix == ".py"}
    return own if own in tops else min((top for top in tops if top[0] != "_"), default=own)


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
