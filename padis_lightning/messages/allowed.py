"""What a config may name: classes of this package and of Lightning's parts, and of modules that the command line permits.

Importing a module runs it, and a config may come from anybody; so a name is held against this list before it is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import set_parsing_settings

from padis_lightning.errors import InputError

FLAG, VARIABLE = "--allow", "PADIS_LIGHTNING_ALLOW"
PARTS = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
NAMED = ("padis_lightning", *(f"lightning.pytorch.{part}" for part in PARTS), "lightning.fabric.plugins")

BASES = ("lightning.LightningModule", "lightning.LightningDataModule")  # what the parser takes where no class is named


def split_allowed(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without each ``--allow MODULE``, and these modules with those of the environment.

    Raises:
        InputError: what is to be allowed is missing or no module's name.
    """
    rest: list[str] = []
    modules = os.environ.get(VARIABLE, "").replace(",", " ").split()
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == FLAG:
            modules.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    for module in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module) or module.partition(".")[0] == "jsonargparse":
            raise InputError(f"{FLAG} names {module!r}; wanted a module such as my_solvers")
    return rest, modules


@contextmanager
def only(modules: Sequence[str]) -> Iterator[None]:
    """Within the block a config may name what is under :data:`NAMED` or ``modules``, after it nothing of ``modules``."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*NAMED, *modules],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,
    )
    try:
        yield
    finally:
        own = {module for module in modules if module not in NAMED}
        set_parsing_settings(import_path_denylist=sorted(own))


def refused(message: str) -> str | None:
    """One sentence if the parser's message says that a name is not on the list, else None."""
    found = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if found is None or found[1] in BASES:
        return None
    path = found[1]
    module = path.rpartition(".")[0] or path
    return (
        f"the config names {path}; wanted a class of padis_lightning or of Lightning's {', '.join(PARTS)}, "
        f"or {FLAG} {module} on the command line to permit it"
    )
