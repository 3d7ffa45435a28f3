"""Every key that a config can have: a function, a class of another role, an address and a path outside are refused."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from padis_lightning.cli import PadisCLI, main
from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import allowed_names, check_classes, find_class, only
from padis_lightning.messages.parser import LINKED
from padis_lightning.messages.paths import FOLDERS, PARTS, check_paths

# ruff: noqa: ANN401 - annotations and attacks are anything
ADDRESSES = "ftp://127.0.0.1:9/x", "https://example.org/x", "simplecache::/x", "data:x"
OUTSIDE = "/outside", "../outside", "~/outside", "$HOME/outside", "out/../../outside"
BASE = {"fit": ["--model", "PatchDiffusion", "--model.network", "UNet"], "predict": ["--model", "PseudoInverse"]}
DATA = ["--data", "ImageData", "--data.path", "x.npz"]
READ = {"ckpt_path", "output", "trainer.default_root_dir"}  # paths that are read, and those that the command line gives


def attacks(mark: Path) -> list[Any]:
    """Return what no key takes: functions with arguments, by their names, and a class that is on the list nowhere."""
    call = {"class_path": "padis_lightning.files.write_text", "init_args": {"path": str(mark), "text": "x"}}
    other = {"class_path": "padis_lightning.data.names.Names"}
    name = "padis_lightning.files.write_text"
    return [shaped for one in (call, other, name) for shaped in (one, [one], {"a": one})]


def leaves(hint: Any) -> Iterator[Any]:
    """Yield what a hint is made of; a callable counts as one."""
    origin = typing.get_origin(hint)
    parts = () if origin in (Callable, typing.Literal) else typing.get_args(hint)
    yield from (leaf for part in parts for leaf in leaves(part))
    if not parts:
        yield origin or hint


def takes_class(hint: Any) -> bool:
    return any(leaf is Callable or (inspect.isclass(leaf) and leaf.__module__.split(".")[0] in OWNERS) for leaf in leaves(hint))


OWNERS = ("padis_lightning", "lightning", "torch", "wandb")


def takes_text(hint: Any) -> bool:
    return any(leaf in (str, Any) or (inspect.isclass(leaf) and issubclass(leaf, PurePath)) for leaf in leaves(hint))


def arguments(parser: ArgumentParser) -> dict[str, Any]:
    """Return every key of a parser with what it takes."""
    kinds = {action.dest: getattr(action, "_typehint", None) or action.type for action in parser._actions}
    return {key: kind for key, kind in kinds.items() if kind is not None and not key.endswith(".help")}


class Found(Exception):
    """Carries the parsers out of the command line once they are built."""


class Parsers(PadisCLI):
    """Builds the parsers of a command and nothing else."""

    def parse_arguments(self, parser: ArgumentParser, args: list[str]) -> None:
        raise Found(parser, self._subcommand_parsers[self.command])


def parsers(command: str) -> tuple[ArgumentParser, ArgumentParser]:
    with pytest.raises(Found) as found, ExitStack() as held:
        Parsers([command], "x", (), held)
    return found.value.args


@pytest.fixture(scope="module")
def listed() -> dict[type, ArgumentParser]:
    """A parser of the arguments of each class that a config may name."""
    classes = {find_class(name) for name in allowed_names()} - {None}
    out = {}
    for cls in classes:
        if not inspect.isabstract(cls):
            out[cls] = ArgumentParser(exit_on_error=False)
            out[cls].add_class_arguments(cls, "x", skip=set(LINKED) & {*inspect.signature(cls).parameters})
    return out


def test_no_argument_of_a_class_takes_a_function_or_another_role(listed, tmp_path):
    mark, tried = tmp_path / "mark", 0
    with only([]):
        for cls, parser in listed.items():
            for key in (key for key, hint in arguments(parser).items() if takes_class(hint)):
                for attack in attacks(mark):
                    tried += 1
                    try:
                        config = parser.parse_object({"x": {key.removeprefix("x."): attack}}, defaults=False)
                    except ArgumentError:
                        continue
                    if config[key] == attack and isinstance(attack, str):
                        continue  # a key that takes text as well, such as the path of a prior
                    with pytest.raises(InputError):
                        check_classes({"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": config["x"]}, ())
    assert tried > 400 and not mark.exists()


@pytest.mark.parametrize("command", BASE)
def test_no_key_of_a_command_takes_a_function_or_another_role(command, tmp_path):
    mark = tmp_path / "mark"
    parser, own = parsers(command)
    kinds = arguments(own)
    keys = [key for key, hint in kinds.items() if takes_class(hint)]
    parts = {f"trainer.{key}" for key in ("accelerator", "strategy", "logger", "callbacks", "plugins", "profiler")}
    assert {"model", "data", *parts} | ({"results.baselines", "prior", "operator"} if command == "predict" else set()) <= {*keys}
    with only([]):
        check_classes(parser.parse_args([command, *BASE[command], *DATA]), ())
        for key in keys:
            shaped = attacks(mark)[2::3] if key == "results.baselines" else attacks(mark)[::3]
            for attack in shaped:
                with suppress(ArgumentError, InputError):
                    config = parser.parse_args([command, *BASE[command], *DATA, f"--{key}={attack!r}"])
                    check_classes(config, ())
                    assert isinstance(config[f"{command}.{key}"], str) and takes_text(kinds[key])  # the name of no registry
    assert not mark.exists()


@pytest.mark.parametrize("command", BASE)
def test_no_key_takes_an_address_and_none_that_is_written_a_path_outside(command, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [key for key, hint in arguments(parsers(command)[1]).items() if takes_text(hint)]
    assert {"output", "ckpt_path", "trainer.default_root_dir"} <= {*texts}
    for key in texts:
        for address in ADDRESSES:
            with pytest.raises(InputError, match="is '.*'; wanted a path on this machine, not an address"):
                check_paths(Namespace({key: address}), Path("out"))
    for cls, parser in listed.items():
        name = f"{cls.__module__}.{cls.__qualname__}"
        for key in (key.removeprefix("x.") for key, hint in arguments(parser).items() if takes_text(hint)):
            for part in ("init_args", "dict_kwargs"):
                for text in ADDRESSES + (OUTSIDE if key in FOLDERS + PARTS and "lightning." in name[:10] else ()):
                    with pytest.raises(InputError, match=rf"{key} is '.*'; wanted "):
                        check_paths(Namespace(trainer=Namespace(logger=[{"class_path": name, part: {key: text}}])), Path("out"))


def test_every_path_that_something_of_lightnings_writes_is_known(listed):
    """A key of Lightning's that takes a path and is new to us fails here."""
    for cls, parser in listed.items():
        for key, hint in arguments(parser).items():
            if cls.__module__.startswith("lightning.") and any(leaf is Path for leaf in leaves(hint)):
                assert key.removeprefix("x.") in FOLDERS + PARTS, f"{cls.__name__}.{key}"
    for command in BASE:
        for key, hint in arguments(parsers(command)[1]).items():
            assert key in READ or not any(leaf is Path for leaf in leaves(hint)) or key.rpartition(".")[2] in FOLDERS, key


def test_paths_below_the_output_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "out/logs", "name": "a/b"}}
    checkpoint = Namespace(dirpath=str(tmp_path / "out" / "kept"), filename="{epoch}-{val/loss:.3f}")
    check_paths(Namespace(trainer=Namespace(logger=logger), checkpoint=checkpoint), Path("out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    for bad in ({"dirpath": "out/link/kept"}, {"filename": "{epoch:/>3}x"}, {"filename": "{epoch.x}"}, {"filename": "/x"}):
        with pytest.raises(InputError, match="checkpoint"):
            check_paths(Namespace(checkpoint=Namespace(bad)), Path("out"))


WHOLE = {
    "an upload": ("fit", "checkpoint: {dirpath: 'ftp://127.0.0.1:9/x'}"),
    "checkpoints outside": ("fit", "checkpoint: {dirpath: elsewhere}"),
    "a log outside": ("fit", "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: elsewhere}}}"),
    "a log above": ("fit", "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: out, name: ../elsewhere}}}"),
    "a profile outside": ("predict", "trainer: {profiler: {class_path: SimpleProfiler, init_args: {dirpath: elsewhere}}}"),
    "another server": ("predict", "trainer: {logger: {class_path: WandbLogger, init_args: {settings: {base_url: x}}}}"),
    "another server again": ("fit", "trainer: {logger: {class_path: WandbLogger, dict_kwargs: {settings: {base_url: x}}}}"),
    "another account": ("predict", "trainer: {logger: {class_path: WandbLogger, dict_kwargs: {entity: other}}}"),
    "a hub": ("fit", "trainer: {model_registry: somebody/model}"),
    "data from a server": ("fit", "data: {class_path: ImageData, init_args: {path: 'http://127.0.0.1:9/x.npz'}}"),
    "a prior from a server": ("predict", "prior: {class_path: PatchPrior, init_args: {checkpoint: 'http://127.0.0.1:9/x'}}"),
    "a folder elsewhere": ("predict", "output: ../elsewhere"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_config_neither_sends_nor_writes_elsewhere(name, tmp_path, monkeypatch, capsys):
    command, text = WHOLE[name]
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    Path("c.yaml").write_text(text)
    output = [] if text.startswith("output") else ["--output", "out"]
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", "ct.yaml" if command == "fit" else "ct20.yaml", "--config", "c.yaml", *output])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and "; wanted " in said[0]
    assert {*tmp_path.rglob("*")} == {home, home / "c.yaml"}


def test_the_other_commands_take_no_address(capsys):
    for words in (["prepare", "ftp://x/y", "--output", "x.h5"], ["report", "http://x"], ["gather", "http://x"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2 and "is an address and no path on this machine; wanted " in capsys.readouterr().err
