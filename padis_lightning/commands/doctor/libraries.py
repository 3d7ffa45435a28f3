"""Python and the libraries that the installed package declares, imported and held against the versions it wants."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from email.message import Message
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement

import padis_lightning
from padis_lightning.commands.doctor.checks import Absent, Broken, Check

PACKAGE = "padis_lightning"
REINSTALL = "pip install --force-reinstall --no-deps"


def declared() -> Message:
    """The metadata of the installed package; empty where it was never installed."""
    try:
        return metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        return Message()


def extras() -> dict[str, list[Requirement]]:
    """What each extra installs, and under the empty name what is always needed, as far as it holds for this platform."""
    found = declared()
    wanted = [Requirement(text) for text in found.get_all("Requires-Dist", [])]
    needed = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    others = [r for r in wanted if r not in needed]
    names = found.get_all("Provides-Extra", [])
    return {"": needed} | {name: [r for r in others if r.marker.evaluate({"extra": name})] for name in names}


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"


def checks() -> Iterator[Check]:
    """Python, this package, each library that is needed, each extra."""
    yield Check("python", lambda: f"{platform.python_version()} on {platform.platform()}", "")
    yield Check(PACKAGE, _own_version, "install the package, in a checkout by pip install -e .")
    for extra, wanted in extras().items():
        if extra:
            again = " ".join(f"'{one.name}{one.specifier}'" for one in wanted)
            yield Check(f"[{extra}]", partial(_extra, extra, wanted), f"{REINSTALL} {again}")
            continue
        for one in wanted:
            yield Check(one.name, partial(_needed, one), f"{REINSTALL} '{one.name}{one.specifier}'")


def _own_version() -> str:
    if not declared():
        raise Broken("it runs from a folder and is not installed, so that its results cannot name its version")
    return f"{padis_lightning.__version__} in {Path(padis_lightning.__file__).parent}"


def _needed(wanted: Requirement) -> str:
    version = _version(wanted)
    if version is None or not wanted.specifier.contains(version, prereleases=True):
        seen = "not installed" if version is None else version
        raise Broken(f"{seen}; wanted {wanted.specifier or 'any version'}", f"pip install '{wanted.name}{wanted.specifier}'")
    return version


def _extra(extra: str, wanted: list[Requirement]) -> str:
    there, missing = [], []
    for one in wanted:
        version = _version(one)
        if version is not None and one.specifier.contains(version, prereleases=True):
            there.append(f"{one.name} {version}")
        else:
            missing.append(f"{one.name} {version}, wanted {one.specifier}" if version else f"no {one.name}")
    if missing:
        raise Absent(", ".join([*there, *missing]), install(extra))
    return ", ".join(there)


def _version(wanted: Requirement) -> str | None:
    """The version of a library that is installed and can be imported; None where it is not installed."""
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return None
    module = _module(found)
    if module:
        import_module(module)
    return found.version


def _module(found: metadata.Distribution) -> str | None:
    """What a distribution is imported as: the package of its own name, or the first that it holds."""
    tops = {file.parts[0] for file in found.files or () if len(file.parts) == 2 and file.name == "__init__.py"}
    public = sorted(top for top in tops if top.isidentifier() and not top.startswith("_"))
    own = found.metadata["Name"].lower().replace("-", "_")
    return own if own in public else next(iter(public), None)
