"""Files and configs with code in them: refused with exit code 2, and none of it is run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from padis_lightning.cli import main

from .test_bad_inputs import small_model
from .test_cli import SMALL_NETWORK

PREDICT = [
    "predict", "--config", "ct20.yaml", "--operator.size", "20", "--operator.views", "6", "--data.size", "20",
    "--data.count", "1",
]  # fmt: skip
FIT = [
    "fit", "--config", "ct.yaml", "--data.size", "32", "--data.generated", "4", "--data.batch_size", "2",
    "--model.patch_sizes", "[4,8]",
    "--trainer.max_steps", "1", *SMALL_NETWORK,
]  # fmt: skip


class Evil:
    """An object whose pickle makes a file when it is read."""

    def __reduce__(self):
        return os.mkdir, (os.path.abspath("mark"),)


def write(name: str, content: bytes) -> str:
    """A file of bytes."""
    Path(name).write_bytes(content)
    return name


def saved(name: str, value: object, **options: object) -> str:
    """A file of torch's."""
    torch.save(value, name, **options)
    return name


def checkpoint(**changes: object) -> dict:
    """What fit writes, with something else in it."""
    model = small_model()
    state = {f"denoiser.{k}": v for k, v in model.denoiser.state_dict().items()}
    return {
        "patch_model": model.describe(), "state_dict": state, "global_step": 1, "epoch": 0, "loops": {}, "callbacks": {},
        "optimizer_states": [], "lr_schedulers": [], "patches_seen": 1, "pytorch-lightning_version": "2.6.6",
    } | changes  # fmt: skip


def member(name: str, where: str) -> str:
    """A zip or a tar with a picture whose name climbs out of the folder."""
    content = io.BytesIO()
    from PIL import Image

    Image.new("L", (20, 20)).save(content, "png")
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr(where, content.getvalue())
    else:
        with tarfile.open(name, "w") as archive:
            info = tarfile.TarInfo(where)
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))
    return name


def objects(name: str) -> str:
    """An array file with an object in it."""
    array = np.array([Evil()], dtype=object)
    np.savez(name, images=array) if name.endswith(".npz") else np.save(name, array, allow_pickle=True)
    return name


def configured(text: str, *args: str) -> list[str]:
    """A command with a config of this text."""
    write("c.yaml", text.encode())
    return ["predict", "--config", "ct20.yaml", "--config", "c.yaml", *args]


def stolen(name: str) -> list[str]:
    """A command with a config that wants a module imported."""
    write("evil_module.py", b"import os\nos.mkdir('mark')\nfrom padis_lightning.solvers.dds import DDS as Evil\n")
    return configured(f"model: {{class_path: {name}}}\n")


EVIL = {
    "a pickle as prior": lambda: [*PREDICT, "--prior.checkpoint", write("p.pkl", pickle.dumps(Evil()))],
    "a pickle called a prior": lambda: [*PREDICT, "--prior.checkpoint", write("p.safetensors", pickle.dumps(Evil()))],
    "a pickle called a checkpoint": lambda: [*PREDICT, "--prior.checkpoint", write("p.ckpt", pickle.dumps(Evil()))],
    "a pickle of the oldest protocol": lambda: [*PREDICT, "--prior.checkpoint", write("p.ckpt", pickle.dumps(Evil(), 0))],
    "torch's file as prior": lambda: [*PREDICT, "--prior.checkpoint", saved("p.pt", {"state_dict": {"a": Evil()}})],
    "a checkpoint with an object": lambda: [
        *PREDICT, "--prior.checkpoint", saved("p.ckpt", checkpoint(state_dict={"denoiser.a": Evil()})),
    ],
    "a checkpoint of the old format": lambda: [
        *PREDICT, "--prior.checkpoint", saved("p.ckpt", checkpoint(extra=Evil()), _use_new_zipfile_serialization=False),
    ],
    "settings with an object": lambda: [
        *PREDICT, "--prior.checkpoint", saved("p.ckpt", checkpoint(hyper_parameters={"a": Evil()})),
    ],
    "a checkpoint to go on from": lambda: [*FIT, "--ckpt_path", saved("p.ckpt", checkpoint(state_dict={"denoiser.a": Evil()}))],
    "a callback's state": lambda: [*FIT, "--ckpt_path", saved("p.ckpt", checkpoint(callbacks={"EMA": Evil()}))],
    "a pickle to go on from": lambda: [*FIT, "--ckpt_path", write("p.ckpt", pickle.dumps(Evil()))],
    "a checkpoint to predict with": lambda: [*PREDICT, "--ckpt_path", saved("p.ckpt", checkpoint(extra=Evil()))],
    "unsafe loading by a flag": lambda: [
        *FIT, "--ckpt_path", saved("p.ckpt", checkpoint(extra=Evil())), "--weights_only", "false",
    ],
    "unsafe loading by a config": lambda: configured("weights_only: false\nckpt_path: p.ckpt\n"),
    "a checkpoint from elsewhere": lambda: [*FIT, "--ckpt_path", "http://127.0.0.1:9/p.ckpt"],
    "a checkpoint from the registry": lambda: [*FIT, "--ckpt_path", "registry"],
    "objects in .npy": lambda: [*PREDICT, "--data.path", objects("d.npy")],
    "objects in .npz": lambda: [*PREDICT, "--data.path", objects("d.npz")],
    "a pickle called .npy": lambda: [*PREDICT, "--data.path", write("d.npy", pickle.dumps(Evil()))],
    "a pickle called .mat": lambda: [*PREDICT, "--data.path", write("d.mat", pickle.dumps(Evil()))],
    "objects as a mask": lambda: [*PREDICT, "--operator", "Inpainting", "--operator.mask", objects("m.npy")],
    "objects as a kernel": lambda: [*PREDICT, "--operator", "Blur", "--operator.kernel", objects("m.npy")],
    "a zip that climbs": lambda: [*PREDICT, "--data.path", member("d.zip", "../mark")],
    "a zip that climbs to a picture": lambda: [*PREDICT, "--data.path", member("d.zip", "../../mark.png")],
    "a zip of absolute names": lambda: [*PREDICT, "--data.path", member("d.zip", os.path.abspath("mark.png"))],
    "a tar": lambda: [*PREDICT, "--data.path", member("d.tar", "../mark.png")],
    "a tag that calls": lambda: configured("model: !!python/object/apply:os.mkdir [mark]\n"),
    "a tag that builds": lambda: configured("x: !!python/object/new:os.mkdir [mark]\n"),
    "a tag that imports": lambda: configured("x: !!python/name:os.mkdir\n"),
    "a tag as a flag": lambda: configured("{}", "--model", "!!python/object/apply:os.mkdir [mark]"),
    "a tag in another file": lambda: [
        write("m.yaml", b"class_path: !!python/object/apply:os.mkdir [mark]\n") and "predict", "--config", "ct20.yaml",
        "--model", "m.yaml",
    ],
    "a foreign class": lambda: stolen("evil_module.Evil"),
    "a foreign module": lambda: stolen("evil_module"),
    "a function": lambda: configured("model: {class_path: os.mkdir, init_args: {path: mark}}\n"),
    "a class that starts a program": lambda: configured(
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [mkdir, mark]}}]}\n"
    ),
    "a partial": lambda: configured("results: {baselines: {a: {class_path: functools.partial, init_args: {func: os.mkdir}}}}\n"),
    "code for a callback": lambda: configured(
        "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {on_predict_start: os.mkdir}}]}\n"
    ),
    "import of a pickle": lambda: ["import", write("s.pkl", pickle.dumps(Evil())), "--output", "s.safetensors"],
    "import of a network with an object": lambda: [
        "import", write("s.pkl", pickle.dumps({"ema": Evil()})), "--output", "s.safetensors",
    ],
    "import of torch's file": lambda: ["import", saved("s.pkl", {"ema": Evil()}), "--output", "s.safetensors"],
    "prepare of objects": lambda: ["prepare", objects("d.npz"), "--output", "d.h5", "--workers", "1"],
    "report of a folder with a tag": lambda: reported(),
}  # fmt: skip


def reported() -> list[str]:
    """A folder whose config calls."""
    Path("run").mkdir()
    write("run/config.yaml", b"x: !!python/object/apply:os.mkdir [mark]\n")
    return ["report", "run"]


@pytest.mark.parametrize("name", EVIL)
def test_code_in_an_input_is_refused_and_not_run(name, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    args = EVIL[name]()
    if args[0] in ("fit", "predict"):
        args += ["--output", "out", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    with pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said, said
    assert "; wanted " in said.splitlines()[-1]
    assert not list(tmp_path.rglob("mark*"))
    assert not Path("out").exists()


@pytest.mark.parametrize("evil", [Evil()], ids=["mkdir"])
def test_the_pickles_above_do_run_where_they_are_trusted(evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.load(saved("p.ckpt", checkpoint(extra=evil)), weights_only=False)
    assert Path("mark").is_dir()


def test_every_reader_of_pickles_is_told_to_read_weights_only(tmp_path, monkeypatch):
    """On the whole way of ``fit --ckpt_path`` and ``predict --prior.checkpoint``, Lightning's readers included."""
    monkeypatch.chdir(tmp_path)
    load, seen = torch.load, []

    def told(*args: object, **options: object) -> object:
        seen.append(options.get("weights_only"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", told)
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    main([*FIT, "--output", "a", *quiet])
    main([*FIT, "--output", "b", "--ckpt_path", "a/checkpoints/last.ckpt", "--trainer.max_steps", "2", *quiet])
    steps = ["--model.steps", "1", "--results.baselines", "{}"]
    main(["predict", "--config", "ct20.yaml", "--operator.size", "32", "--data.size", "32", "--data.count", "1",
          "--model", "DDS", *steps,
          "--prior.checkpoint", "a/checkpoints/last.ckpt", "--output", "c", *quiet])  # fmt: skip
    assert len(seen) >= 3 and all(one is True for one in seen)
