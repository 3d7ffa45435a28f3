"""What people get wrong, and the one sentence that they get for it; nothing is written."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from padis_lightning.cli import main
from padis_lightning.diffusion import Denoiser, PatchModel, padding
from padis_lightning.messages.configs import CONFIGS
from padis_lightning.types import Normalisation

from .conftest import random_network

P = ["predict", "--config", "ct20.yaml"]
F = ["fit", "--config", "ct.yaml"]
SMALL = [*P, "--operator.size", "20", "--operator.views", "6", "--data.size", "20", "--data.count", "1"]
PLAIN = [*SMALL, "--model", "PseudoInverse", "--results.baselines", "{}"]
ANY = "..."  # stands for anything in a sentence: a list that grows with the package
AMONG = f"wanted one of {ANY}"


def config(text: str | bytes) -> list[str]:
    """A command whose last config holds ``text``."""
    Path("c.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return [*P, "--config", "c.yaml"]


def data(name: str = "d.npz", **arrays: np.ndarray) -> list[str]:
    """The option that names a file of arrays."""
    np.savez(name, **arrays)
    return ["--data.path", name]


def prior(**changes: object) -> list[str]:
    """The option that names a prior whose description is changed."""
    model = small_model()
    described = {k: v for k, v in (model.describe() | changes).items() if v is not None}
    model.describe = lambda: described
    model.save(Path("p.safetensors"))
    return ["--prior.checkpoint", "p.safetensors"]


def small_model() -> PatchModel:
    """A patch model of 20x20 images."""
    return PatchModel(Denoiser(random_network(), 0.3), (1, 20, 20), [4, 8], padding((20, 20), 8), Normalisation(0.0, 1.0))


def saved(name: str, value: object) -> str:
    """What torch wrote."""
    torch.save(value, name)
    return name


def text(name: str, content: str = "text") -> str:
    """A file of text."""
    Path(name).write_text(content)
    return name


def weights(name: str, **metadata: str) -> list[str]:
    """The option that names a safetensors file of other origin."""
    save_file({"a": torch.zeros(2)}, name, metadata)
    return ["--prior.checkpoint", name]


def locked() -> str:
    """A folder that cannot be written in."""
    Path("locked").mkdir()
    Path("locked").chmod(0o500)
    return "locked/out"


BAD = {  # what makes the arguments, in an empty folder; the sentence
    # commands and flags
    "nothing": (lambda: [], f"no command is given; {AMONG}"),
    "a command": (lambda: ["train"], f"there is no command 'train'; {AMONG}"),
    "two commands": (lambda: [*P, "fit"], "there is no option fit; wanted those that --help lists"),
    "no config": (
        lambda: ["predict"], "predict.data and predict.model missing; wanted --config FILE that names them, or options",
    ),
    "a config's name": (lambda: ["fit", "--config", "nope.yaml"], f"there is no config 'nope.yaml'; wanted a file or {ANY}"),
    "a flag without a value": (lambda: ["fit", "--config"], "--config comes without a value; wanted the name of a config"),
    "a flag": (lambda: [*F, "--modle.lr", "3"], "there is no option --modle.lr 3; wanted those that --help lists"),
    "a trainer's flag": (lambda: [*P, "--trainer.x=3"], "there is no option --trainer.x=3; wanted those that --help lists"),
    "a model's key": (lambda: [*F, "--model.speed", "3"], f"'speed' is not a key of PatchDiffusion; {AMONG}"),
    "data's key": (lambda: [*F, "--data.pth", "x"], f"'pth' is not a key of ImageData; wanted one of path, {ANY}"),
    # values
    "a number": (lambda: [*F, "--model.lr", "fast"], "model.lr is 'fast'; wanted a number"),
    "a whole number": (lambda: [*P, "--model.steps", "1.5"], "model.steps is 1.5; wanted a whole number"),
    "not a number": (lambda: [*P, "--model.noise_std", "nan"], "model.noise_std is 'nan'; wanted a number"),
    "a deep number": (lambda: [*F, "--model.network.blocks", "x"], "model.network.blocks is 'x'; wanted a whole number"),
    "a list": (lambda: [*F, "--model.patch_sizes", "x"], "model.patch_sizes is 'x'; wanted a list"),
    "a pair": (lambda: [*P, "--results.window", "[1]"], "results.window is [1]; wanted a list of 2 values"),
    "true": (lambda: [*P, "--results.geometry", "maybe"], "results.geometry is 'maybe'; wanted true or false"),
    "a choice": (
        lambda: [*P, "--operator.filter", "x"], "operator.filter is 'x'; wanted ram-lak, shepp-logan, cosine, hamming, hann",
    ),
    "a format": (lambda: [*P, "--results.formats", "[x]"], "results.formats is 'x'; wanted nifti, dicom, png16, tiff"),
    "a solver": (lambda: [*P, "--model", "Magic"], f"model is 'Magic'; wanted one of {ANY}DAPS, DDNM, DDS, {ANY}"),
    "an operator": (lambda: [*P, "--operator", "Magic"], f"operator is 'Magic'; wanted one of {ANY}ParallelBeam{ANY}"),
    "a prior's class": (lambda: [*P, "--prior", "Magic"], f"prior is 'Magic'; wanted one of {ANY}PatchPrior{ANY}"),
    "a network": (lambda: [*F, "--model.network", "Magic"], "model.network is 'Magic'; wanted one of DDPMpp, DRUNet, UNet"),
    "a noise": (lambda: [*P, "--model.noise", "x"], "model.noise is 'x'; wanted one of GaussianNoise, PoissonNoise"),
    "a logger": (lambda: [*P, "--trainer.logger", "Magic"], f"trainer.logger is 'Magic'; wanted one of CSVLogger, {ANY}"),
    "an accelerator": (
        lambda: [*PLAIN, "--trainer.accelerator", "quantum"],
        f"the settings cannot be used (ValueError: You selected an invalid accelerator {ANY}); wanted other values, see --help",
    ),
    "a negative count": (lambda: [*PLAIN, "--data.count", "-1"], "count is -1; wanted at least 1"),
    "no batch": (lambda: [*PLAIN, "--data.batch_size", "0"], "batch_size is 0; wanted at least 1"),
    "negative noise": (lambda: [*PLAIN, "--model.noise_std", "-1"], "noise_std is -1; wanted at least 0"),
    "no views": (lambda: [*P, "--operator.views", "0"], "views is 0; wanted at least 1"),
    "no patch sizes": (lambda: [*F, "--model.patch_sizes", "[]"], "patch_sizes is empty; wanted at least one size"),
    "a negative rate": (lambda: [*F, "--model.lr", "-1"], "lr is -1; wanted a value above 0"),
    "no steps": (
        lambda: [*F, "--trainer.max_steps", "-1"],
        "trainer.max_steps is -1; wanted at least 1, training is counted in steps",
    ),
    # configs
    "broken YAML": (
        lambda: config("model: {class_path: DDS\n  x: ["),
        f"c.yaml cannot be read (while parsing a flow mapping {ANY}); wanted YAML of keys and values",
    ),
    "a list as config": (lambda: config("- 1\n"), "c.yaml holds '[1]'; wanted keys and values such as 'model: DDS'"),
    "text as config": (lambda: config("hello"), "c.yaml holds 'hello'; wanted keys and values such as 'model: DDS'"),
    "an empty config": (lambda: config(""), "c.yaml holds ''; wanted keys and values such as 'model: DDS'"),
    "a binary config": (
        lambda: config(b"\xff\xfe\x00"),
        f"c.yaml cannot be read ({ANY}); wanted YAML of keys and values",
    ),
    "a config's key": (lambda: config("modle: DDS"), "'modle' is not a key of a config; wanted one of those that --help lists"),
    "a number as key": (lambda: config("5: 7"), "a config has the key 5; wanted keys of text without spaces"),
    "a number as model": (lambda: config("model: 3"), f"model is 3; {AMONG}"),
    "a list as model": (lambda: config("model: [1, 2]"), f"model is [1, 2]; {AMONG}"),
    "a value as a group": (lambda: config("results: 5"), "results is 5; wanted keys and values"),
    "a key beside the class": (
        lambda: ["predict", *config("model: {class_path: DDS, steps: 3}")[3:]],
        "model has the key 'steps' beside class_path; wanted it in init_args",
    ),
    "a key of a class": (lambda: config("model: {class_path: DDS, init_args: {x: 3}}"), f"'x' is not a key of DDS; {AMONG}"),
    "a key with spaces": (
        lambda: config("data: {class_path: ImageData, init_args: {x y: 3}}"),
        "data has the key 'x y'; wanted keys of text without spaces",
    ),
    "a class without what it needs": (
        lambda: [*P, "--model", "PatchDiffusion"], "PatchDiffusion comes without network; wanted a value for it",
    ),
    "infinity": (lambda: config("model: {class_path: DDS, init_args: {noise_std: .inf}}"),
                 "model.noise_std is inf; wanted a finite number, a whole one of at most 64 bits"),
    "a number of many digits": (
        lambda: [*P, "--data.count", "1" + "0" * 30],
        f"data.count is 1{'0' * 30}; wanted a finite number, a whole one of at most 64 bits",
    ),
    "null": (lambda: [*F, "--data.generated", "null"], "data.generated is null; wanted a whole number"),
    "null within": (lambda: [*F, "--model.network.blocks", "null"], "model.network.blocks is null; wanted a whole number"),
    "a key of a baseline": (
        lambda: [*P, "--results.baselines", "{a: {class_path: DDS, init_args: {steps: x}}}"],
        "results.baselines.steps is 'x'; wanted a whole number",
    ),
    "a part": (
        lambda: ["predict", *config("prior: prior/nope.yaml")[3:]],
        f"prior is 'prior/nope.yaml', which is neither in {ANY} nor in {CONFIGS}; wanted a file",
    ),
    "an option's part": (lambda: [*P, "--prior", "no.yaml"], f"prior is 'no.yaml', which is neither in {ANY}; wanted a file"),
    "a config in itself": (lambda: config("prior: &a {x: *a}"), f"a config holds more than {ANY} deep; wanted a plain one"),
    "aliases that multiply": (
        lambda: config("a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"{y}: &{y} [{', '.join([f'*{x}'] * 8)}]\n" for x, y in pairwise("abcdefghijklmnop"))),
        f"a config holds more than {ANY} values {ANY}; wanted a plain one",
    ),
    "a seed": (lambda: [*P, "--seed_everything", "-1"], "seed_everything is -1; wanted 0 to 4294967295"),
    # data
    "no file": (lambda: [*F, "--data.path", "nope.npz"], f"there is no file or folder 'nope.npz'; wanted DICOM, HDF5, {ANY}"),
    "no images": (lambda: [*F, *data(x=np.zeros(3))], "d.npz has the arrays x; wanted 'images' or 'y' or 'counts'"),
    "NaN": (lambda: [*F, *data(images=np.full((3, 16, 16), np.nan))], "d.npz has NaN in images[0]; wanted finite numbers"),
    "axes": (
        lambda: [*F, *data(images=np.zeros((16, 16, 3), np.uint8))],
        "d.npz has images of shape (16, 16, 3), which look like (H, W, n); wanted (n, H, W) or (n, H, W, C)",
    ),
    "objects": (
        lambda: [*F, *data(images=np.array([{}, {}]))],
        f"d.npz cannot be read (Object arrays cannot be loaded when allow_pickle=False); wanted {ANY}",
    ),
    "another kind of file": (lambda: [*F, "--data.path", text("d.docx")], f"d.docx {ANY}; wanted {ANY}"),
    "sizes": (
        lambda: [*PLAIN, *data(images=np.zeros((3, 16, 16), np.uint8)), "--data.size", "16"],
        "the data's images are (1, 16, 16) (channels, height, width); wanted (1, 20, 20), what the operator takes",
    ),
    # priors and checkpoints
    "no prior": (
        lambda: [*SMALL, "--prior.checkpoint", "nope"],
        "there is no prior 'nope'; wanted a file or a bundled prior (brains, ct_phantoms, objects, photographs)",
    ),
    "a prior of another size": (
        lambda: [*P, *prior()],
        "the prior was trained on images of (1, 20, 20) (channels, height, width); wanted (1, 128, 128), what the operator takes"
        ", or a prior of any size, such as those of scan.yaml and denoise.yaml",
    ),
    "text as prior": (
        lambda: [*SMALL, "--prior.checkpoint", text("p.safetensors", "\0\1text")],
        f"p.safetensors is not a safetensors file ({ANY}); wanted a prior written by fit",
    ),
    "other weights": (
        lambda: [*SMALL, *weights("w.safetensors")],
        "w.safetensors has the format None; wanted 'padis_lightning prior 1', written by fit",
    ),
    "a prior that says nothing": (
        lambda: [*SMALL, *weights("w.safetensors", format="padis_lightning prior 1", model="{}")],
        "w.safetensors does not fit together (KeyError: 'network'); wanted a prior written by fit",
    ),
    "a prior of broken text": (
        lambda: [*SMALL, *weights("w.safetensors", format="padis_lightning prior 1", model="{")],
        f"w.safetensors does not fit together (JSONDecodeError: {ANY}); wanted a prior written by fit",
    ),
    "a prior of another network": (
        lambda: [*SMALL, *prior(network="Magic")],
        "the checkpoint names the PatchNetwork 'Magic'; wanted one of DDPMpp, DRUNet, UNet",
    ),
    "a prior of a network with other weights": (
        lambda: [*SMALL, *prior(network_config=small_model().describe()["network_config"] | {"base": 16})],
        f"p.safetensors does not fit together (RuntimeError: Error(s) in loading {ANY}); wanted a prior written by fit",
    ),
    "a prior without its padding": (
        lambda: [*SMALL, *prior(pad=None)],
        "p.safetensors does not fit together (KeyError: 'pad'); wanted a prior written by fit",
    ),
    "text as checkpoint": (
        lambda: [*SMALL, "--prior.checkpoint", text("c.ckpt", "\0\1text")],
        "c.ckpt has another format than torch.save writes; wanted a checkpoint written by fit, nothing was run",
    ),
    "a tensor as checkpoint": (
        lambda: [*SMALL, "--prior.checkpoint", saved("c.ckpt", torch.zeros(3))],
        "c.ckpt holds no patch model; wanted a checkpoint written by fit",
    ),
    "a checkpoint without weights": (
        lambda: [*SMALL, "--prior.checkpoint", saved("c.ckpt", {"patch_model": {}})],
        "c.ckpt does not fit together (KeyError: 'state_dict'); wanted a prior written by fit",
    ),
    "a checkpoint to go on from": (
        lambda: [*F, "--ckpt_path", "nope.ckpt"], "there is no checkpoint 'nope.ckpt'; wanted a .ckpt file written by fit",
    ),
    "a checkpoint to predict with": (
        lambda: [*P, "--ckpt_path", "http://x/y.ckpt"],
        "ckpt_path is 'http://x/y.ckpt'; wanted --prior.checkpoint, which predict takes its weights from",
    ),
    "a checkpoint with objects": (
        lambda: [*P, "--weights_only", "false"],
        "weights_only is false; wanted true, a checkpoint with objects in it can run code",
    ),
    # folders
    "a file as output": (
        lambda: [*PLAIN, "--output", text("taken")], "taken is a file or lies in one; wanted a folder, see --output",
    ),
    "an output below a file": (
        lambda: [*PLAIN, "--output", f"{text('taken')}/out"], "taken/out is a file or lies in one; wanted a folder, see --output",
    ),
    "an output that is locked": (
        lambda: [*PLAIN, "--output", locked()],
        "locked/out cannot be written (permission denied); wanted a folder that can be, see --output",
    ),
    "more processes than a processor serves": (
        lambda: [*PLAIN, "--trainer.devices", "99"],
        f"trainer.devices is 99; wanted at most {max(os.cpu_count(), 4)} on this machine's processor",
    ),
    "an output of a name too long": (
        lambda: [*PLAIN, "--output", "o" * 300], f"{'o' * 300}/run.json: file name too long; wanted a path that can be used",
    ),
    # other commands
    "report of nothing": (
        lambda: ["report", "nope"], f"{ANY}nope{ANY}; wanted {ANY}",
    ),
    "report's flag": (lambda: ["report", "--x"], f"{ANY}; wanted what report --help lists"),
    "prepare's sources": (lambda: ["prepare", "--output", "d.h5"], "sources are missing; wanted files or folders"),
    "prepare's output": (
        lambda: ["prepare", text("a.txt"), "--output", "d.txt"], "output is 'd.txt'; wanted a name that ends in .h5",
    ),
    "import's file": (lambda: ["import", "nope.pkl", "--output", "p.safetensors"], f"{ANY}nope.pkl{ANY}; wanted {ANY}"),
    "import's output": (
        lambda: ["import", text("a.pkl"), "--output", "p.pt"], "output is 'p.pt'; wanted a name that ends in .safetensors",
    ),
}  # fmt: skip


def matches(sentence: str, said: str) -> bool:
    """Whether what was said is the sentence, in which dots stand for anything."""
    place, first, *rest = 0, *sentence.split(ANY)
    if not rest:
        return said == sentence
    if not said.startswith(first) or not said.endswith(rest[-1]):
        return False
    place = len(first)
    for part in rest:
        place = said.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2_and_nothing_is_written(name, tmp_path, monkeypatch, capsys):
    make, sentence = BAD[name]
    if "locked" in sentence and os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    monkeypatch.chdir(tmp_path)
    args = make()
    if args[:1] in (["fit"], ["predict"]) and len(args) > 2:
        args = [*args, *([] if "--trainer.accelerator" in args else ["--trainer.accelerator", "cpu"])]
        args += ["--trainer.enable_progress_bar", "false", *([] if "--output" in args else ["--output", "out"])]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(args)
    streams = capsys.readouterr()
    lines = [line.removeprefix("padis_lightning: error: ") for line in streams.err.splitlines() if "error:" in line]
    assert stop.value.code == 2
    assert len(lines) == 1 and matches(sentence, lines[0]), lines
    assert "Traceback" not in streams.err and streams.out == ""
    assert sorted(tmp_path.rglob("*")) == before
