"""Lines that say what was assumed of a file, or left out."""

from __future__ import annotations

import logging
from functools import lru_cache

log = logging.getLogger("padis_lightning")


@lru_cache(maxsize=4096)
def note(line: str) -> None:
    """Say a line once; a file is read for its scan and again for its values."""
    log.warning("padis_lightning: %s", line)
