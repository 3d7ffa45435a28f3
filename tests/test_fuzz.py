"""Configs and command lines that somebody got wrong in every way: exit code 0, 1 or 2, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from padis_lightning.cli import main

from .test_bad_inputs import small_model

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
UNET = {"base": 8, "multipliers": [1, 2], "blocks": 1}
CONFIGS = {
    "predict": {
        "seed_everything": 0,
        "trainer": {**QUIET, "precision": "32-true", "callbacks": None},
        "model": {"class_path": "DDS", "init_args": {"steps": 2, "sigma_max": 1.0, "noise_std": 0.01, "samples": 1}},
        "data": {"class_path": "ImageData", "init_args": {"builtin": "phantoms", "size": 20, "count": 1, "batch_size": 1}},
        "operator": {"class_path": "ParallelBeam", "init_args": {"size": 20, "views": 5}},
        "prior": {"class_path": "PatchPrior", "init_args": {"checkpoint": "p.safetensors", "chunk_size": 64}},
        "results": {"baselines": {"tv": "PseudoInverse"}, "window": [0.0, 1.0], "error_scale": 0.1, "report_images": 1},
    },
    "fit": {
        "seed_everything": 0,
        "trainer": {**QUIET, "max_steps": 1, "val_check_interval": 1, "gradient_clip_val": 1.0, "log_every_n_steps": 1},
        "model": {
            "class_path": "PatchDiffusion",
            "init_args": {
                "network": {"class_path": "UNet", "init_args": UNET}, "patch_sizes": [4, 8], "patches": 2, "lr": 0.001, "pad": 1,
                "sigma_range": [0.01, 10.0], "patch_odds": [0.5, 0.5],
            },
        },
        "data": {"class_path": "ImageData", "init_args": {"builtin": "phantoms", "size": 16, "generated": 4, "batch_size": 2}},
        "ema": {"half_life": 100, "ramp_up": 0.05},
        "samples": {"count": 1, "steps": 2},
        "checkpoint": {"every_n_train_steps": 1, "save_top_k": 1},
    },
}  # fmt: skip
NUMBERS = [0, 1, -1, 3, 0.5, -0.5, 10**12, -(10**12), 10**30, 1e308, -1e308, 1e-308, float("nan"), float("inf")]
FOREIGN = [
    None, True, False, "", " ", "x", "null", "ünïcödé ☃", "a" * 300, "\t", "1,2", "1e400", "DDS", "UNet",
    "ImageData", "os.system",
    "p.safetensors", "..", "/", [], {}, [1, 2], ["a"], [[1]], {"a": 1}, {"class_path": "DDS"}, {"class_path": 3},
    {"init_args": {}},
    {"class_path": "os.system", "init_args": {"command": "true"}},
]  # fmt: skip
NAMES = [
    "",
    "x",
    "class_path",
    "init_args",
    "model",
    "steps",
    "help",
    "config",
    "ü",
    "a.b",
    "__class__",
    "0",
    "key with spaces",
    "-",
    "trainer",
]
FLAGS = [
    "--", "-", "---", "--=", "--model", "--model=", "--model.", "--model.steps", "--model.steps=", "--trainer", "--data.size=abc",
    "-c",
    "--config=", "--config", "--c", "--allow", "--allow=", "--allow=x", "--help.x", "extra", "☃", "--☃=1",
    "--model.init_args.steps=3",
    "--results.baselines={", "--operator.size=[1", "--trainer.callbacks+=x", "--trainer.callbacks+=", "--trainer.logger=x",
    "--output=",
    "--model.noise=PoissonNoise", "--model=DPS", "--model=TotalVariation", "--data.path=nope", "--data=", "--seed_everything=x",
    "--print_config=x", "--ckpt_path=x", "--weights_only=false", "fit", "predict", "report",
]  # fmt: skip
COMMANDS = ["", "fit ", "Fit", "predic", "--predict", "import", "prepare", "report", "--version", "☃", "nope"]


class Late(BaseException):
    """The case was taken and works; what it works on is long."""


def paths(values: Any, place: tuple = ()) -> list[tuple]:  # noqa: ANN401 - a config
    """Where something is in a nested config."""
    below = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [p for key, value in below for p in [(*place, key), *paths(value, (*place, key))]]


def change(config: dict, draw: Any) -> None:  # noqa: ANN401 - hypothesis' own
    """Drop, rename, retype, nest or replace something."""
    *above, last = draw(st.sampled_from(paths(config) or [("x",)]))
    holder = config
    for key in above:
        holder = holder[key]
    kind = draw(st.sampled_from(["drop", "rename", "number", "number", "number", "foreign", "nest", "text", "add"]))
    value = holder[last] if last in holder or isinstance(holder, list) else None
    if kind == "drop":
        del holder[last]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from([*NAMES, f"{last}s", str(last).upper(), str(last)[:-1]]))] = holder.pop(last)
    elif kind == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(NAMES))] = draw(st.sampled_from(FOREIGN + NUMBERS))
    elif kind == "nest":
        holder[last] = draw(st.sampled_from([[value], {"a": value}, {str(last): value}, {"init_args": value}, [value, value]]))
    elif kind == "text":
        holder[last] = draw(st.sampled_from([str(value), f"{value} ", f"'{value}", f"{value}0", f"-{value}"]))
    else:
        holder[last] = draw(st.sampled_from(NUMBERS if kind == "number" else FOREIGN))


@st.composite
def cases(draw: Any) -> tuple[list[str], str]:  # noqa: ANN401 - hypothesis' own
    """A command line and the text of the config that it names."""
    command = draw(st.sampled_from(sorted(CONFIGS)))
    config = yaml.safe_load(yaml.safe_dump(CONFIGS[command]))
    for _ in range(draw(st.integers(0, 3))):
        change(config, draw)
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    place = draw(st.integers(0, len(text)))
    broken = draw(st.sampled_from([""] * 12 + ["cut", "twice", "insert", "line"]))
    if broken == "cut":
        text = text[:place]
    elif broken == "twice":
        text += text[place:]
    elif broken == "insert":
        text = (
            text[:place]
            + draw(st.sampled_from([":", "\t", "{", "]", "'", "&a ", "*a", "!!x ", "%", "\x00", "☃", "- ", "\n"]))
            + text[place:]
        )
    elif broken == "line":
        lines = text.splitlines()
        del lines[place % len(lines)]
        text = "\n".join(lines)
    args = [command, "--config", "c.yaml", "--output", "out"]
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2]))):
        args.insert(draw(st.integers(1, len(args))), draw(st.sampled_from(FLAGS)))
    if draw(st.integers(0, 19)) == 0:
        args[0] = draw(st.sampled_from(COMMANDS))
    if draw(st.integers(0, 19)) == 0:
        del args[draw(st.integers(0, len(args) - 1))]
    return args, text


@contextmanager
def bounded(seconds: int, extra: int) -> Iterator[None]:
    """So much time and additional memory."""

    def late(number: int, frame: object) -> None:
        raise Late

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(args: list[str], text: str) -> tuple[int, str]:
    """The exit code of a case in an empty folder, and what it said."""
    said, here = io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            small_model().save(Path("p.safetensors"))
            Path("c.yaml").write_text(text, encoding="utf-8")
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), bounded(5, 3 << 30):
                main(args)
            return 0, said.getvalue()
        except Late:
            return 0, said.getvalue()
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
        finally:
            os.chdir(here)


def check(case: tuple[list[str], str]) -> None:
    """The law."""
    args, text = case
    code, said = outcome(args, text)
    assert code in (0, 1, 2) and "Traceback" not in said, f"{args}\n{text}\n{said}"
    if code:
        assert "padis_lightning: error: " in said.splitlines()[-1] and len(said.splitlines()[-1]) < 2000, said
    if code == 2:
        assert "; wanted " in said.splitlines()[-1], said


STEADY = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_the_configs_are_good_before_they_are_changed(command):
    assert outcome([command, "--config", "c.yaml", "--output", "out"], yaml.safe_dump(CONFIGS[command]))[0] == 0


@settings(max_examples=12, **STEADY)
@given(cases())
def test_a_dozen_wrong_commands_end_with_a_sentence(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=200, **STEADY)
@given(cases())
def test_two_hundred_wrong_commands_end_with_a_sentence(case):
    check(case)
