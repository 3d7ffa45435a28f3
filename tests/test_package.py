"""The house: layers, what importing pulls in, what the wheel carries."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import padis_lightning

ROOT = Path(padis_lightning.__file__).parent
LAYERS = [
    {"errors"},
    {"files", "locks", "machine", "memory", "random", "registry", "signals"},
    {"canvas", "hub", "inputs", "layout", "linalg", "pickles", "types"},
    {"ct", "image_quality", "metrics", "mri", "networks", "noise", "noise_estimation"},
    {"operators"},
    {"diffusion", "problem"},
    {"priors"},
    {"data"},
    {"solvers", "training"},
    {"results", "interop"},
    {"callbacks"},
    {"messages"},
    {"loading"},
    {"api", "commands"},
    {"cli"},
    {"__main__"},
]
RANK = {name: k for k, layer in enumerate(LAYERS) for name in layer}
LIGHTNING = ("solvers/base.py", "training/", "callbacks/", "data/datamodule.py", "data/draws.py", "cli.py")


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_run_one_way():
    for path, tree in sources():
        here = path.parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for name in imports(tree):
            parts = name.split(".")
            if parts[0] == "padis_lightning" and len(parts) > 1 and parts[1] in RANK and parts[1] != here:
                assert RANK[parts[1]] < RANK[here], f"{path} imports {name}"


def test_lightning_stays_in_its_layer():
    for path, tree in sources():
        if not path.as_posix().startswith(LIGHTNING):
            assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imports(tree)), path


def test_randomness_comes_from_a_generator():
    draws = {"rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli"}
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert not called.endswith(("rand_like", "randn_like")), f"{path}: {called}"
            assert "manual_seed" not in called or path.name == "random.py", f"{path}: {called}"
            assert not called.startswith("random."), f"{path}: {called}"
            if called.startswith("torch.") and called.removeprefix("torch.") in draws:
                assert any(keyword.arg == "generator" for keyword in node.keywords), f"{path}: {called}"
            if called.startswith("np.random."):
                allowed = ("default_rng", "SeedSequence", "Generator", "PCG64")
                assert called.removeprefix("np.random.").partition("(")[0] in allowed, f"{path}: {called}"


def test_importing_pulls_in_nothing_heavy():
    code = (
        "import sys, padis_lightning.priors, padis_lightning.operators, padis_lightning.data.generators; "
        "assert 'lightning' not in sys.modules; import padis_lightning.cli; "
        "print([m for m in ('wandb', 'astra', 'torch_radon', 'torchvision', 'skimage') if m in sys.modules], "
        "[m for m in ('h5py', 'pydicom', 'nibabel', 'tifffile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_the_wheel_carries_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(("padis_lightning", *p.parent.relative_to(ROOT).parts)) for p in ROOT.rglob("*.py")}
    assert found | {f"padis_lightning.{name}" for name in ("assets", "configs", "notebooks")} == listed


def test_conda_installs_what_pip_does():
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    lines = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    bounds = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?(>=\S+)$", "\n".join(lines), re.MULTILINE))
    found = re.findall(r"- ([\w-]+)(>=\S+)$", (ROOT.parent / "environment.yml").read_text(), re.MULTILINE)
    own = ("python", "carterbox-torch-radon")  # which pip does not install
    theirs = {name.replace("pytorch-gpu", "torch"): bound for name, bound in found if name not in own}
    assert theirs == {name: bounds[name] for name in theirs}
    assert {*re.findall(r"^([\w-]+)", lines[0], re.MULTILINE)} - {"packaging"} <= theirs.keys()  # which lightning brings


def test_the_wheel_carries_every_asset():
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    patterns = config["options.package_data"]["padis_lightning.assets"].replace(",", " ").split()
    assets = {path for path in (ROOT / "assets").rglob("*") if path.is_file()}
    assert assets == {path for pattern in patterns for path in (ROOT / "assets").glob(pattern)}


@pytest.mark.parametrize(
    ("name", "shape", "data"), [("ct_phantoms", (1, 128, 128), "phantoms"), ("photographs", (3, 128, 128), "squares of 128x128")]
)
def test_the_bundled_priors_are_small_and_say_where_they_come_from(name, shape, data):
    from padis_lightning.diffusion import PatchModel

    assert (ROOT / "assets" / f"{name}.safetensors").stat().st_size < 5e6
    model = PatchModel.load(name)
    assert model.image_shape == shape and data in model.training["data"]
    credit = (ROOT.parent / "NOTICE").read_text().partition("\n\n")[2].rstrip()
    assert name != "photographs" or model.training["credit"] == credit  # whoever took them is named in both places
