"""Write the folder of a prior that others can use by name, and upload it to the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from padis_lightning.commands.arguments import Parser
from padis_lightning.errors import InputError
from padis_lightning.files import whole
from padis_lightning.hub import REPOSITORY, SCHEME, Address, library, reaching


def _parser() -> Parser:
    parser = Parser(
        "publish",
        description="Write prior.safetensors, config.json and a model card into a folder, and upload it to the Hugging Face Hub.",
    )
    parser.add_argument("prior", type=Path, metavar="PRIOR", help="prior.safetensors, or the name of a bundled prior")
    parser.add_argument("--to", metavar="OWNER/NAME", help="the repository; the token is that of HF_TOKEN or 'hf auth login'")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the files stay; a README.md that is there is kept")
    parser.add_argument("--private", choices=("true", "false"), default="false", help="of a new repository (default: false)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="what predict wrote with this prior, for the model card")
    parser.add_argument("--licence", metavar="ID", help="of the weights, as the Hub names it, such as apache-2.0")
    return parser


def run(args: Sequence[str]) -> None:
    """Run the command ``publish``.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: the prior, the results or the repository cannot be used, or the folder holds another prior.
    """
    options = _parser().parse_args(list(args))
    if not (options.to or options.folder):
        raise InputError("publish comes without a place; wanted --to owner/name, --folder DIR or both")
    for name, form, wanted in (("to", REPOSITORY, "owner/name"), ("licence", re.compile(r"[a-z0-9.+-]+"), "one such as mit")):
        value = getattr(options, name)
        if value is not None and not form.fullmatch(value):
            raise InputError(f"--{name} is {value!r}; wanted {wanted}")
    if options.to:
        library()  # says now that it is missing
    with ExitStack() as held:
        folder = options.folder or Path(held.enter_context(TemporaryDirectory()))
        files = _files(options.prior, options.to, options.results, options.licence)
        _write(folder, files)
        if options.folder:
            print(f"wrote {folder}: {', '.join(files)}")
        if options.to:
            commit = _upload(folder, list(files), options.to, options.private == "true")
            print(f"published {options.to}; use it by --prior.checkpoint {SCHEME}{options.to}@{commit}")


def _files(prior: Path, to: str | None, results: Path | None, licence: str | None) -> dict[str, bytes]:
    """Return what is published, by names."""
    from padis_lightning.commands.model_card import CARD, RUN, model_card, read_measured, repeated, settings_of
    from padis_lightning.diffusion import PatchModel

    path = PatchModel.find(prior)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no safetensors file; wanted the prior.safetensors that fit writes")
    content, model = path.read_bytes(), PatchModel.load(path)
    measured = None if results is None else read_measured(results, model)
    address, title = (f"{SCHEME}{to}", to.partition("/")[2]) if to else ("prior.safetensors", path.stem)
    card = model_card(model, title, address, hashlib.sha256(content).hexdigest(), licence, measured)
    texts = {"config.json": settings_of(model), CARD: card} | ({RUN: repeated(measured.config, address)} if measured else {})
    return {"prior.safetensors": content, **{name: text.encode() for name, text in texts.items()}}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files that are not there; keep a card, which its owner may have edited, and refuse anything else."""
    there = {name for name in files if (folder / name).exists()}
    other = [name for name in there if (folder / name).read_bytes() != files[name]]
    for name in other:
        if name != "README.md":
            raise InputError(f"{folder} has another {name}; wanted a new --folder, or that of the same prior and results")
        print(f"{folder / name} is kept as it is")
    for name in files.keys() - there:
        with whole(folder / name) as part:
            part.write_bytes(files[name])


def _upload(folder: Path, names: list[str], to: str, private: bool) -> str:
    """Upload the files in one commit; return its hash."""
    api = library().HfApi()
    with reaching(to, Address(to, "main", "")):
        api.create_repo(to, private=private or None, exist_ok=True)
        said = f"Publish {names[0]}"
        return api.upload_folder(repo_id=to, folder_path=folder, allow_patterns=names, commit_message=said).oid
