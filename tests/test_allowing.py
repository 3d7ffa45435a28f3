"""What a config may name, and who may permit more."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import yaml

from padis_lightning.cli import main
from padis_lightning.commands import report
from padis_lightning.errors import InputError
from padis_lightning.messages.allowed import split_allowed

OWN = """
import pathlib
pathlib.Path({mark!r}).touch()
from padis_lightning.solvers.dds import DDS

class Mine(DDS):
    "One of the user's own."
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and the mark."""
    mark = tmp_path / "mark"
    (tmp_path / "own_solvers.py").write_text(OWN.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PADIS_LIGHTNING_ALLOW", raising=False)
    yield mark
    sys.modules.pop("own_solvers", None)


def model_of(*args: str) -> dict:
    """The model of a command's config; the command ends before it runs."""
    text = io.StringIO()
    with pytest.raises(SystemExit) as stop, redirect_stdout(text):
        main(["predict", "--config", "ct20.yaml", *args, "--print_config"])
    assert stop.value.code in (0, None)
    return yaml.safe_load(text.getvalue())["model"]


def refused(capsys, *args: str) -> str:
    """The one sentence that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1, said
    return said[0]


def test_an_allowed_module_serves_for_one_command(own, capsys):
    assert model_of("--model", "own_solvers.Mine", "--allow", "own_solvers", "--model.steps", "7")["init_args"]["steps"] == 7
    assert own.exists()
    own.unlink()
    sys.modules.pop("own_solvers")
    said = refused(capsys, "predict", "--config", "ct20.yaml", "--model", "own_solvers.Mine")
    assert "the config names own_solvers.Mine; wanted" in said and "--allow own_solvers " in said and not own.exists()


def test_the_environment_permits_and_a_config_does_not(own, capsys, tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text("allow: [own_solvers]\nmodel: own_solvers.Mine\ndata: ImageData\n")
    refused(capsys, "predict", "--config", str(config))
    assert not own.exists()
    config.write_text("model: own_solvers.Mine\n")
    refused(capsys, "predict", "--config", "ct20.yaml", "--config", str(config))
    assert not own.exists()
    monkeypatch.setenv("PADIS_LIGHTNING_ALLOW", "something, own_solvers")
    assert model_of("--config", str(config))["class_path"] == "own_solvers.Mine"


@pytest.mark.parametrize(
    ("args", "key", "path"),
    [
        (["--model", "DDS"], "model", "padis_lightning.solvers.dds.DDS"),
        (["--trainer.logger", "WandbLogger"], "logger", "lightning.pytorch.loggers.WandbLogger"),
        (["--trainer.logger", "lightning.pytorch.loggers.WandbLogger"], "logger", "lightning.pytorch.loggers.WandbLogger"),
        (["--trainer.callbacks+=Animation"], "callbacks", "padis_lightning.callbacks.Animation"),
        (["--trainer.profiler", "PyTorchProfiler"], "profiler", "lightning.pytorch.profilers.PyTorchProfiler"),
    ],
)
def test_classes_of_the_package_and_of_lightning_need_no_permission(args, key, path):
    text = io.StringIO()
    with pytest.raises(SystemExit), redirect_stdout(text):
        main(["predict", "--config", "ct20.yaml", *args, "--print_config"])
    config = yaml.safe_load(text.getvalue())
    value = config[key] if key == "model" else config["trainer"][key]
    assert (value[0] if key == "callbacks" else value)["class_path"] == path


FOREIGN = {  # options, and the module that would have to be permitted
    "a function": (["--model", "os.system"], "os"),
    "through a module of the package": (["--model", "padis_lightning.files.os.system"], "padis_lightning.files.os"),
    "torch.load": (["--model", "torch.load"], "torch"),
    "torch.hub": (["--trainer.logger", "torch.hub.load"], "torch.hub"),
    "a checkpoint's class method": (
        ["--model", "padis_lightning.solvers.dds.DDS.load_from_checkpoint"], "lightning.pytorch.core.module.LightningModule",
    ),
    "a callback": (["--trainer.callbacks+=subprocess.Popen"], "subprocess"),
    "a callback's function": (
        ["--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.on_fit_start", "builtins.exec"],
        "lightning.pytorch.callbacks",
    ),
    "a plugin": (["--trainer.plugins", "[{class_path: pickle.Unpickler}]"], "pickle"),
    "a baseline": (["--results.baselines", "{a: os.system}"], "os"),
    "a noise": (["--model.noise", "code.InteractiveConsole"], "code"),
    "an operator": (["--operator", "shutil.rmtree"], "shutil"),
    "a prior": (["--prior", "runpy.run_path"], "runpy"),
    "data": (["--data", "importlib.import_module"], "importlib"),
    "help": (["--model.help", "antigravity.webbrowser"], "antigravity"),
    "lightning's command line": (["--trainer.callbacks+=lightning.pytorch.cli.SaveConfigCallback"], "lightning.pytorch.cli"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_every_other_name_is_refused_before_it_is_imported(name, capsys):
    args, module = FOREIGN[name]
    before = set(sys.modules)
    said = refused(capsys, "predict", "--config", "ct20.yaml", *args)
    assert "error: the config names " in said and f"--allow {module} on the command line" in said
    assert not {"antigravity", "code", "runpy"} & (set(sys.modules) - before)


CALLED = {  # parts of a config that call something when they are built or later; the key that refuses
    "a function that writes": "results: {baselines: {y: {class_path: padis_lightning.files.write_text, init_args: CALL}}}",
    "a function's name": "results: {baselines: {y: padis_lightning.files.write_text}}",
    "the command line itself": (
        "results: {baselines: {y: {class_path: padis_lightning.cli.main, init_args: {args: [predict, --config, ct20.yaml, "
        "--allow, subprocess, --results.baselines, '{y: {class_path: subprocess.getoutput, init_args: {cmd: touch MARK}}}']}}}}"
    ),
    "the commands": "results: {baselines: {y: {class_path: padis_lightning.commands.main, init_args: {args: [--help]}}}}",
    "a method of a class on the list": "results: {baselines: {y: padis_lightning.diffusion.Positions.build}}",
    "a class method": "results: {baselines: {y: {class_path: padis_lightning.solvers.Solver.build, init_args: {}}}}",
    "a class of another role": "results: {baselines: {y: {class_path: PatchPrior, init_args: {checkpoint: ct_phantoms}}}}",
    "its full name": "results: {baselines: {y: {class_path: padis_lightning.priors.PatchPrior}}}",
    "a model of another role": "model: {class_path: padis_lightning.noise.GaussianNoise, init_args: {std: 1.0}}",
    "a callback of functions": (
        "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {setup: padis_lightning.files.write_text}}]}"
    ),
    "averages": (
        "trainer: {callbacks: [{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.1, "
        "avg_fn: padis_lightning.files.write_text}}]}"
    ),
    "a hook": "trainer: {strategy: {class_path: DDPStrategy, init_args: {ddp_comm_hook: padis_lightning.files.write_text}}}",
    "a schedule": (
        "trainer: {profiler: {class_path: PyTorchProfiler, init_args: {schedule: {class_path: padis_lightning.files.write_text, "
        "init_args: CALL}}}}"
    ),
}  # fmt: skip


def test_a_denoiser_of_ones_own_is_a_prior_where_it_is_allowed(tmp_path, monkeypatch, capsys):
    """By the command line, with its arguments: half of a picture, or a third, is as far from it as that."""
    (tmp_path / "own_denoisers.py").write_text(
        "from torch import nn\n\nclass Share(nn.Module):\n"
        "    def __init__(self, share: float = 0.5) -> None:\n        super().__init__()\n        self.share = share\n\n"
        "    def forward(self, x, sigma):\n        return self.share * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    np.save(tmp_path / "one.npy", np.full((16, 16, 3), 0.5, np.float32))
    words = ["predict", "--config", "denoise.yaml", "--data.path", str(tmp_path / "one.npy"), "--data.measured", "true"]
    words += ["--prior", "DenoiserPrior", "--prior.denoiser", "own_denoisers.Share", "--results.baselines", "{}"]
    assert "names own_denoisers.Share; wanted" in refused(capsys, *words, "--output", str(tmp_path / "refused"))
    for share in (0.5, 0.25):
        out = tmp_path / str(share)
        main([*words, "--prior.denoiser.share", str(share), "--allow", "own_denoisers", "--output", str(out)])
        assert np.all(np.load(out / "arrays" / "0000.npy") == 0.5 * share)
        described = yaml.safe_load((out / "config.yaml").read_text())["prior"]
        assert described["class_path"] == "padis_lightning.priors.DenoiserPrior"
    sys.modules.pop("own_denoisers", None)


@pytest.mark.parametrize("command", ["predict", "fit"])
@pytest.mark.parametrize("name", CALLED)
def test_a_config_calls_nothing(name, command, tmp_path, capsys, monkeypatch):
    if command == "fit" and "trainer" not in CALLED[name]:
        pytest.skip("fit has no baselines")
    mark = tmp_path / "mark"
    text = CALLED[name].replace("CALL", f"{{path: {mark}, text: x}}").replace("MARK", str(mark))
    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    first = "ct20.yaml" if command == "predict" else "ct.yaml"
    said = refused(capsys, command, "--config", first, "--config", "c.yaml", "--output", "out")
    assert "; wanted " in said and not mark.exists() and not (tmp_path / "out").exists()


def test_a_permission_within_a_run_counts_nothing(own, capsys, monkeypatch):
    """Even if something called the command line from a config."""
    nested = ["predict", "--config", "ct20.yaml", "--model", "own_solvers.Mine", "--allow", "own_solvers"]
    monkeypatch.setattr(report, "run", lambda args: main(nested))
    said = refused(capsys, "report")
    assert "--allow comes from within a run; wanted it on the command line" in said and not own.exists()


IN_CONFIGS = {key: f"trainer: {{{key}: {{class_path: own_solvers.Mine}}}}" for key in (
    "strategy", "accelerator", "profiler", "logger", "callbacks", "plugins")}  # fmt: skip
IN_CONFIGS["another file"] = "model: more/model.yaml"
IN_CONFIGS["deep in another file"] = "data: ImageData\nmodel: more/deep.yaml"


@pytest.mark.parametrize("name", IN_CONFIGS)
def test_a_config_and_the_files_that_it_names_are_held_against_the_list(name, own, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "model.yaml").write_text("class_path: own_solvers.Mine\n")
    (tmp_path / "more" / "deep.yaml").write_text("class_path: DDS\ninit_args: {noise: {class_path: own_solvers.Mine}}\n")
    config = tmp_path / "c.yaml"
    config.write_text(IN_CONFIGS[name])
    said = refused(capsys, "predict", "--config", "ct20.yaml", "--config", str(config))
    assert "own_solvers.Mine; wanted" in said and not own.exists()


def test_flags_are_taken_out_and_names_are_checked(monkeypatch):
    monkeypatch.setenv("PADIS_LIGHTNING_ALLOW", "a.b c")
    assert split_allowed(["fit", "--allow", "d", "--x", "1", "--allow=e.f"]) == (["fit", "--x", "1"], ["a.b", "c", "d", "e.f"])
    for bad in ([], ["a b"], ["os;x"], ["jsonargparse"], ["jsonargparse.x"], ["*"], ["3a"]):
        with pytest.raises(InputError, match="--allow names '.*'; wanted a module such as my_solvers"):
            split_allowed(["fit", "--allow", *bad])
