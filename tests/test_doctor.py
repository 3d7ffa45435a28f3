"""The command ``doctor``: what is broken is found, by the parts that a run takes."""

from __future__ import annotations

import configparser
import json
import math
import os
import re
import subprocess
import sys
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import padis_lightning
from padis_lightning.cli import main
from padis_lightning.commands.doctor import devices, libraries, surroundings, trials
from padis_lightning.commands.doctor.checks import Absent, Check, Finding
from padis_lightning.ct import PROJECTORS
from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.diffusion import model


def requirements():
    """Name of each extra of ``setup.cfg`` and what it installs; under the empty name what is needed."""
    config = configparser.ConfigParser()
    config.read(Path(padis_lightning.__file__).parent.parent / "setup.cfg")
    found = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {name: [line for line in text.splitlines() if line and line[0] != "#"] for name, text in found.items()}


def declare(monkeypatch, wanted):
    """Give the installed package these requirements."""
    message = Message()
    for extra, lines in wanted.items():
        if extra:
            message["Provides-Extra"] = extra
        for line in lines:
            message["Requires-Dist"] = f'{line}; extra == "{extra}"' if extra else line
    monkeypatch.setattr(libraries, "declared", lambda: message)


def findings(checks):
    return {check.name: check.find() for check in checks}


def run(capsys, *args):
    """Findings by name, last line and exit code of ``--json``."""
    code = 0
    try:
        main(["doctor", "--json", *args])
    except SystemExit as stop:
        code = stop.code
    said = json.loads(capsys.readouterr().out)
    return {f["name"]: Finding(**f) for f in said["findings"]}, said["conclusion"], code


@pytest.fixture
def stable(monkeypatch):
    """Findings that do not change from one run to the next."""
    monkeypatch.setattr(trials, "checks", lambda: iter(()))
    monkeypatch.setattr(devices, "checks", lambda: iter(()))
    monkeypatch.setattr(surroundings, "_space", lambda folder: f"space in {folder}")


def test_a_sound_machine_passes_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, last, code = run(capsys)
    assert code == 0 and last == "everything that is needed works"
    assert {"python", "padis_lightning", "torch", "wandb", "processor", "CT sparse (cpu)", "output"} <= set(found)
    assert {f"prior {p.stem} (cpu)" for p in model.BUNDLED.glob("*.safetensors")} <= set(found)
    assert found["torch"].text == metadata.version("torch")
    assert not any(tmp_path.iterdir())


def test_the_text_and_the_json_say_the_same(capsys, tmp_path, stable):
    output = str(tmp_path / "out")
    found, last, _ = run(capsys, "--output", output)
    main(["doctor", "--output", output])
    *lines, gap, said = capsys.readouterr().out.splitlines()
    assert (gap, said) == ("", last) and len(lines) == len(found) > 10
    for line, finding in zip(lines, found.values(), strict=True):
        parts = (finding.text, finding.remedy) if finding.remedy else (finding.text,)
        assert line.startswith(finding.name + " ")
        assert line.removeprefix(finding.name).split(maxsplit=1) == [finding.state, "; ".join(parts)]


class Scaled(SparseMatrix):
    name = "faulty"

    def backproject(self, y):
        return 1.001 * super().backproject(y)


class Mirrored(SparseMatrix):
    """A true pair of another scan."""

    name = "faulty"

    def project(self, x):
        return super().project(x.flip(-1))

    def backproject(self, y):
        return super().backproject(y).flip(-1)


class PixelByPixel(SparseMatrix):
    """Back-projection that interpolates between bins: near to the transpose of Joseph's weights."""

    name, exact_adjoint, shift = "faulty", False, 0.0

    def backproject(self, y):
        g = self.geometry
        rows, columns = (torch.arange(n) - (n - 1) / 2 for n in g.size)
        out = torch.zeros(len(y), *g.size)
        for view, angle in enumerate(g.angles):
            offset = columns[None] * math.cos(angle) - rows[:, None] * math.sin(angle)  # in pixels
            place = offset * g.pixel_spacing / g.bin_spacing + (g.bins - 1) / 2 + self.shift
            left = place.floor().clamp(0, g.bins - 2).long()
            share = place - left
            out += (1 - share) * y[:, view][:, left] + share * y[:, view][:, left + 1]
        return out * g.pixel_spacing**2 / g.bin_spacing


class HalfABinOff(PixelByPixel):
    shift = 0.5


class SaidToBeExact(PixelByPixel):
    exact_adjoint = True


class Silent(SparseMatrix):
    name = "faulty"

    def project(self, x):
        return super().project(x) * torch.nan


class Crashing(SparseMatrix):
    name = "faulty"

    def __init__(self, geometry):
        raise ImportError("libcudart.so.11:\n cannot open shared object file")


def put(monkeypatch, cls):
    """A backend where the others are."""
    monkeypatch.setitem(PROJECTORS, "faulty", cls)
    return f"CT faulty ({devices.usable()[-1]})"


def test_a_faulty_backend_ends_the_command_with_exit_code_1(capsys, tmp_path, monkeypatch):
    name = put(monkeypatch, Scaled)
    found, last, code = run(capsys, "--output", str(tmp_path))
    assert [f.name for f in found.values() if f.state == "broken"] == [name]
    assert code == 1 and last == f"broken: {name}: {found[name].remedy}" and "faulty" in found[name].remedy


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Scaled, "<Ax, y> and <x, A'y> differ by .*; wanted below 1e-05"),
        (SaidToBeExact, "<Ax, y> and <x, A'y> differ by .*; wanted below 1e-05"),
        (HalfABinOff, "<Ax, y> and <x, A'y> differ by .*; wanted below 1e-02"),
        (Silent, "<Ax, y> and <x, A'y> differ by nan"),
        (Mirrored, "its sinogram is .* from the sparse matrix's; wanted below 0.1"),
        (Crashing, "^ImportError: libcudart.so.11: cannot open shared object file$"),
        (PixelByPixel, None),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the faults are written for the processor")
def test_what_is_wrong_with_a_backend_is_seen(cls, text, monkeypatch):
    name = put(monkeypatch, cls)
    found = findings(check for check in trials.checks() if check.name in (name, "CT sparse (cpu)"))
    assert found["CT sparse (cpu)"].state == "ok"
    assert found[name].state == ("broken" if text else "ok") and re.search(text or "within", found[name].text)


def test_a_scan_that_a_backend_cannot_do_is_absent(monkeypatch):
    class Picky(SparseMatrix):
        @classmethod
        def obstacle(cls, geometry):
            return "it needs a full moon"

    monkeypatch.setattr(trials, "PROJECTORS", {"picky": Picky})
    finding = findings(trials.checks())["CT picky (cpu)"]
    assert finding.state == "absent" and finding.text.endswith("it needs a full moon")


def test_a_backend_that_is_not_installed_comes_with_its_extra(monkeypatch):
    declare(monkeypatch, {"astra": ["astra-toolbox>=2"]})
    for cls in PROJECTORS.values():
        monkeypatch.setattr(cls, "version", classmethod(lambda cls: None))
    found = findings(check for check in trials.checks() if check.name.startswith("CT"))
    assert {f.state for f in found.values()} == {"absent"}
    assert found["CT astra (cpu)"].remedy == "pip install 'padis_lightning[astra]'"
    assert "carterbox-torch-radon" in found["CT torch_radon (cpu)"].remedy


@pytest.mark.parametrize("fault", ["truncated", "zero", "nan"])
def test_a_bundled_prior_that_was_damaged_is_broken(fault, tmp_path, monkeypatch):
    sound, damaged = model.BUNDLED / "ct_phantoms.safetensors", tmp_path / "ct_phantoms.safetensors"
    if fault == "truncated":
        damaged.write_bytes(sound.read_bytes()[:100_000])
    else:
        with safe_open(sound, "pt") as handle:
            metadata_of_file = handle.metadata()
        weights = {k: v * (0 if fault == "zero" else torch.nan) for k, v in load_file(sound).items()}
        save_file(weights, damaged, metadata_of_file)
    monkeypatch.setattr(model, "BUNDLED", tmp_path)
    monkeypatch.setattr(trials, "BUNDLED", tmp_path)
    (finding,) = (f for name, f in findings(trials.checks()).items() if name.startswith("prior"))
    assert finding.name == "prior ct_phantoms (cpu)" and finding.state == "broken" and "git checkout" in finding.remedy


def test_every_extra_and_every_requirement_is_covered(monkeypatch):
    """Of ``setup.cfg``, whatever the installed copy was declared with."""
    wanted = requirements()
    declare(monkeypatch, wanted)
    found = findings(libraries.checks())
    for line in wanted.pop(""):
        name = re.match(r"[\w-]+", line).group()
        assert found[name].state == "ok" and found[name].text == metadata.version(name), found[name]
    assert len(wanted) > 5
    for extra, lines in wanted.items():
        finding = found[f"[{extra}]"]
        for line in lines:
            name = re.match(r"[\w-]+", line).group()
            assert name in finding.text
            if finding.state == "ok":
                assert f"{name} {metadata.version(name)}" in finding.text
        assert finding.state != "broken" and (finding.state == "ok") != (
            finding.remedy == f"pip install 'padis_lightning[{extra}]'"
        )


def test_a_library_is_held_against_what_is_declared(monkeypatch):
    """Missing or of another version: broken where it is needed, absent in an extra; one that cannot be imported: broken."""
    declare(monkeypatch, {
        "": ["numpy>=1", "nosuchlibrary>=2", "einops>=99", "never; python_version < '3'"],
        "nifti": ["numpy>=1", "nosuchlibrary"], "dicom": ["einops>=99"], "jpeg": ["einops"],
    })  # fmt: skip
    found = findings(libraries.checks())
    assert set(found) - {"python", "padis_lightning"} == {"numpy", "nosuchlibrary", "einops", "[nifti]", "[dicom]", "[jpeg]"}
    assert found["numpy"] == Finding("numpy", "ok", metadata.version("numpy"))
    assert found["nosuchlibrary"] == Finding(
        "nosuchlibrary", "broken", "not installed; wanted >=2", "pip install 'nosuchlibrary>=2'"
    )
    old = metadata.version("einops")
    assert found["einops"] == Finding("einops", "broken", f"{old}; wanted >=99", "pip install 'einops>=99'")
    assert found["[nifti]"] == Finding(
        "[nifti]", "absent", f"numpy {metadata.version('numpy')}, no nosuchlibrary", "pip install 'padis_lightning[nifti]'"
    )
    assert found["[dicom]"].text == f"einops {old}, wanted >=99" and found["[dicom]"].state == "absent"
    assert found["[jpeg]"].state == "ok"

    monkeypatch.setitem(sys.modules, "einops", None)  # which makes importing it fail
    finding = findings(libraries.checks())["[jpeg]"]
    assert finding.state == "broken" and "ModuleNotFoundError" in finding.text
    assert finding.remedy == "pip install --force-reinstall --no-deps 'einops'"


def test_a_copy_that_is_not_installed_is_broken(monkeypatch):
    monkeypatch.setattr(libraries, "PACKAGE", "padis_lightning_of_nobody")
    (finding,) = (f for f in findings(libraries.checks()).values() if f.state == "broken")
    assert "is not installed" in finding.text and "pip install -e ." in finding.remedy


def test_a_folder_that_cannot_be_written_is_broken(capsys, tmp_path, stable):
    (tmp_path / "file").write_text("kept")
    found, last, code = run(capsys, "--output", str(tmp_path / "file" / "below"))
    assert code == 1 and found["output"].state == "broken" and last.startswith("broken: output: name a folder")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser writes anywhere")
def test_a_folder_without_permission_is_broken(tmp_path):
    tmp_path.chmod(0o500)
    finding = findings(surroundings.checks(tmp_path / "out"))["output"]
    assert finding.state == "broken" and "Permission denied" in finding.text


def test_a_full_disk_is_broken_and_left_as_it_was(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    finding = findings(surroundings.checks(tmp_path))["output"]
    assert finding.state == "broken" and "No space left on device" in finding.text
    assert not any(tmp_path.iterdir())


def test_whatever_a_check_raises_is_one_finding_and_the_others_go_on(capsys, tmp_path, stable, monkeypatch):
    def crash():
        raise RuntimeError("first\n   second " + 1000 * "x")

    def greet():
        print("Hello from a library")
        return "well"

    odd = [Check("crash", crash, "mend it"), Check("greet", greet, ""), Check("gap", _raiser(Absent("none", "buy")), "")]
    monkeypatch.setattr(trials, "checks", lambda: iter(odd))
    found, last, code = run(capsys, "--output", str(tmp_path))
    assert found["crash"].text.startswith("RuntimeError: first second x") and len(found["crash"].text) == 300
    assert found["greet"].text == "well" and found["gap"] == Finding("gap", "absent", "none", "buy")
    assert found["output"].state == "ok" and code == 1 and last == "broken: crash: mend it"


def _raiser(error):
    def look():
        raise error

    return look


GPU = ["550.54, NVIDIA H100"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("seen", "cuda", "state", "text"),
    [([], None, "absent", "none"), (GPU, None, "absent", "without CUDA"), (GPU, "12.8", "broken", "cannot use it")],
)
def test_a_gpu_that_torch_does_not_see_is_told_from_none(seen, cuda, state, text, monkeypatch):
    monkeypatch.setattr(devices, "_nvidia_smi", lambda: seen)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    finding = findings(devices.checks())["GPU"]
    assert finding.state == state and text in finding.text and bool(finding.remedy) == bool(seen)


def test_a_driver_that_hangs_or_fails_is_no_driver(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '550.54, NVIDIA H100'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert devices._nvidia_smi() == GPU
    program.write_text("#!/bin/sh\nexit 9\n")
    assert devices._nvidia_smi() == []
    monkeypatch.setattr(subprocess, "run", _timing_out)
    assert devices._nvidia_smi() == []


def _timing_out(*_, **__):
    raise subprocess.TimeoutExpired("nvidia-smi", 5)


def test_the_compiler_is_the_one_that_torch_takes(tmp_path, monkeypatch):
    from torch._inductor import config

    assert config.cpp.cxx[1] == (os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    assert findings(surroundings.checks(tmp_path))["C++ compiler"].state == "absent"
    (tmp_path / "c++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "c++").chmod(0o755)
    found = findings(surroundings.checks(tmp_path))["C++ compiler"]
    assert found.state == "absent" and "cannot compile" in found.text and "python3-dev" in found.remedy


def test_an_account_of_wandb_is_told_without_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert findings(surroundings.checks(tmp_path))["W&B"].state == "absent"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    found = findings(surroundings.checks(tmp_path))["W&B"]
    assert found.state == "ok" and "secret" not in found.text


def test_an_unknown_argument_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--jsn"])
    assert stop.value.code == 2 and "--jsn; wanted what doctor --help lists" in capsys.readouterr().err
