"""Priors of the Hugging Face Hub by name: downloaded once, held against their SHA-256, and read from the cache afterwards."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from padis_lightning.errors import InputError

log = logging.getLogger(__name__)

SCHEME = "hf://"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
REVISION = re.compile(r"(?:refs/(?:pr|convert)/)?[A-Za-z0-9][\w.-]*", re.ASCII)
FILE = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*\.safetensors", re.ASCII)
FORM = "hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/file.safetensors"


class Address(NamedTuple):
    """Holds where a file of the Hub is.

    Attributes:
        repository: ``owner/name``.
        revision: a branch, a tag or a commit.
        file: its path in the repository.
    """

    repository: str
    revision: str = "main"
    file: str = "prior.safetensors"

    @classmethod
    def read(cls, text: str) -> Address:
        """Read ``hf://owner/name[@revision][/file]``, by default ``prior.safetensors`` of ``main``.

        Raises:
            InputError: the text has another form.
        """
        form = rf"({REPOSITORY.pattern})(?:@({REVISION.pattern}))?(?:/({FILE.pattern}))?"
        found = re.fullmatch(SCHEME + form, text, re.ASCII)
        if found is None:
            raise InputError(f"there is no prior {text!r}; wanted {FORM}")
        return cls(**{name: part for name, part in zip(cls._fields, found.groups(), strict=True) if part})


def is_address(text: object) -> bool:
    """Return whether a name is that of something on the Hub."""
    return str(text).startswith(SCHEME)


def library() -> ModuleType:
    """Return huggingface_hub, which from then on logs errors alone: its warnings quote addresses that are signed.

    Raises:
        InputError: it is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils.logging
    except ImportError:
        wanted = "pip install 'padis_lightning[hub]'"
        raise InputError(f"{SCHEME} needs the package huggingface_hub, which is not installed; wanted {wanted}") from None
    huggingface_hub.utils.logging.set_verbosity_error()
    return huggingface_hub


def fetch(text: str) -> Path:
    """Return the file of a prior of the Hub, from the cache (``HF_HOME``) where it is there and nothing newer can be had.

    What was downloaded stands in the cache under the SHA-256 that the Hub states, and is held against it in every use.

    Raises:
        InputError: there is no such file or no way to it, or it is not what the Hub states.
    """
    address, hub = Address.read(text), library()
    with reaching(text, address):
        path = Path(hub.hf_hub_download(address.repository, address.file, revision=address.revision))
    _check(text, path, path.parents[len(Path(address.file).parts) - 1])
    return path


def fetch_folder(text: str, names: Sequence[str]) -> Path:
    """Return the folder of a repository, with those of its files that have these names; as :func:`fetch` does a file.

    Settings, which are small, are held against the SHA-1 by which git knows them.

    Raises:
        InputError: a file is named, there is no such repository or no way to it, or a file is not what the Hub states.
    """
    address, hub = Address.read(text), library()
    if address.file != Address._field_defaults["file"]:
        raise InputError(f"{text} is a file; wanted hf://owner/name or hf://owner/name@revision, a folder of a model")
    with reaching(text, address):
        folder = Path(hub.snapshot_download(address.repository, revision=address.revision, allow_patterns=list(names)))
    for path in (folder / name for name in names):
        if path.is_file():
            _check(text, path, folder)
    return folder


def _check(text: str, path: Path, folder: Path) -> None:
    """Hold a file in the cache against what the Hub states, by which it is named there, and say which weights are used."""
    stated = path.readlink().name if path.is_symlink() else ""
    small = path.suffix == ".json" and re.fullmatch("[0-9a-f]{40}", stated)
    if not small and not re.fullmatch("[0-9a-f]{64}", stated):
        raise InputError(f"{path} comes without a SHA-256; wanted a file of Git LFS, and a cache (HF_HOME) that can hold links")
    with path.open("rb") as file:
        if small:
            content = file.read()
            found = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
        else:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    name, kind = path.relative_to(folder), "SHA-1" if small else "SHA-256"
    if found != stated:
        wanted = f"{stated}, which the Hub states: remove {path.resolve()} and try again"
        raise InputError(f"{name} of {text} has the {kind} {found}; wanted {wanted}")
    if not small:
        log.warning("padis_lightning: %s is %s of commit %s, SHA-256 %s", text, name, folder.name, found)


@contextmanager
def reaching(text: str, address: Address) -> Iterator[None]:
    """Turn what goes wrong between here and the Hub into one sentence; none quotes the library, which may quote a token.

    Raises:
        InputError: in place of the library's error.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the libraries below raise anything
        if isinstance(error, OSError) and error.errno is not None:  # a disk's
            raise
        raise InputError(_sentence(text, address, error)) from None


def _sentence(text: str, address: Address, error: Exception) -> str:
    hub = library()
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"HTTP {status}" if status else type(error.__cause__ or error).__name__
    if isinstance(error, hub.errors.RevisionNotFoundError):
        return f"{address.repository} has no revision {address.revision!r}; wanted a branch, a tag or a commit of it"
    if isinstance(error, hub.errors.LocalEntryNotFoundError):
        return f"{text} is not in {hub.constants.HF_HUB_CACHE} and the Hub does not answer ({reason}); wanted a network, once"
    if isinstance(error, hub.errors.EntryNotFoundError):
        other = ", or --prior DenoiserPrior for a diffusion model of diffusers"
        return f"{address.repository} has no file {address.file!r} in {address.revision}; wanted {FORM}{other}"
    if isinstance(error, hub.errors.RepositoryNotFoundError) or status in (401, 403):
        wanted = "one that is there and open to you, with a token in HF_TOKEN or by 'hf auth login' where it is not public"
        return f"the Hub does not open {address.repository} ({reason}); wanted {wanted}"
    return f"{text} does not get through to or from the Hub ({reason}); wanted a network that holds, then the same command again"
