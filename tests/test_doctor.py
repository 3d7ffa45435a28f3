"""The command ``doctor``: what is broken is found, by the parts that a run takes."""

from __future__ import annotations

import configparser
import math
import os
import re
import sys
from email.message import Message
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils import collect_env

import padis_lightning
from padis_lightning.commands import doctor, trials
from padis_lightning.commands.doctor import Absent, Check, Finding, find
from padis_lightning.ct import PROJECTORS
from padis_lightning.ct.sparse import SparseMatrix
from padis_lightning.diffusion import model
from padis_lightning.errors import InputError


def extras():
    """Return the requirements of each extra of ``setup.cfg``; those under the empty name are always needed."""
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
    monkeypatch.setattr(metadata, "metadata", lambda name: message)


def findings(checks):
    return {check.name: find(check) for check in checks}


def run(capsys, *args):
    """Return the lines of the report, the conclusion and the exit code."""
    code = 0
    try:
        doctor.run(args)
    except SystemExit as stop:
        code = stop.code
    *lines, gap, last = capsys.readouterr().out.splitlines()
    assert gap == ""
    return lines, last, code


def raiser(error):
    def look(*_):
        raise error

    return look


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes time."""
    for name in ("machine", "projectors", "priors"):
        monkeypatch.setattr(trials, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "requirements", dict)


def test_a_sound_machine_passes_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    def locate(name):  # in place of importing, which takes seconds for some
        assert find_spec(name), name

    monkeypatch.setattr(doctor, "import_module", locate)
    monkeypatch.chdir(tmp_path)
    lines, last, code = run(capsys)
    assert (code, last) == (0, "everything that is needed works") and not any(tmp_path.iterdir())
    names = {re.split(r"  +", line)[0] for line in lines}
    assert {"padis_lightning", "libraries", "processor", "CT sparse (cpu)", "output"} <= names
    assert {f"prior {path.stem} (cpu)" for path in model.BUNDLED.glob("*.safetensors")} <= names
    assert any(line.startswith("libraries ") and f"torch {metadata.version('torch')}," in line for line in lines)


def test_whatever_a_check_raises_is_one_line_and_the_others_go_on(capsys, tmp_path, quick, monkeypatch):
    odd = [
        Check("greet", lambda: print("Hello from a library") or "works"),
        Check("gap", raiser(Absent("none", "buy"))),
        Check("crash", raiser(RuntimeError("first\n   second " + 1000 * "x")), "mend it"),
    ]
    monkeypatch.setattr(trials, "machine", lambda: iter(odd))
    monkeypatch.setattr(doctor, "_writable", lambda folder: f"room in {folder}")
    (_, *lines), last, code = run(capsys, "--output", str(tmp_path))
    crash = ("RuntimeError: first second " + 1000 * "x")[:300]
    wanted = [
        "greet            ok      works",
        "gap              absent  none; buy",
        f"crash            broken  {crash}; mend it",
        f"output           ok      room in {tmp_path}",
    ]
    assert lines == wanted and (last, code) == ("broken: crash: mend it", 1)


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
    """Put a backend beside the matrix."""
    monkeypatch.setattr(trials, "PROJECTORS", {"sparse": SparseMatrix, "faulty": cls})
    return f"CT faulty ({trials._devices()[-1]})"


@pytest.fixture
def small(monkeypatch):
    """Try backends on a small scan."""
    monkeypatch.setattr(trials, "SIDE", 64)


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
    found = findings(trials.projectors())
    assert found["CT sparse (cpu)"].state == "ok"
    assert found[name].state == ("broken" if text else "ok") and re.search(text or "within", found[name].text)


def test_a_scan_that_a_backend_cannot_do_is_absent(monkeypatch, small):
    put(monkeypatch, type("Picky", (SparseMatrix,), {"obstacle": classmethod(lambda cls, geometry: "it needs a full moon")}))
    (finding,) = (f for name, f in findings(trials.projectors()).items() if "faulty" in name)
    assert finding.state == "absent" and finding.text.endswith("it needs a full moon")


def test_a_backend_that_is_not_installed_comes_with_the_command_that_installs_it(monkeypatch):
    for cls in PROJECTORS.values():
        monkeypatch.setattr(cls, "version", classmethod(lambda cls: None))
    found = findings(trials.projectors())
    assert {f.state for f in found.values()} == {"absent"}
    remedies = {name.split()[1]: f.remedy for name, f in found.items()}
    assert remedies["astra"] == "pip install 'padis_lightning[astra]'" and "astra" in extras()
    assert "carterbox-torch-radon" in remedies["torch_radon"]


@pytest.mark.parametrize("fault", ["truncated", "zero", "nan"])
def test_a_bundled_prior_that_was_damaged_is_broken(fault, tmp_path, monkeypatch):
    sound, damaged = model.BUNDLED / "ct_phantoms.safetensors", tmp_path / "ct_phantoms.safetensors"
    if fault == "truncated":
        damaged.write_bytes(sound.read_bytes()[:100_000])
    else:
        with safe_open(sound, "pt") as handle:
            kept = handle.metadata()
        weights = {k: v * (0 if fault == "zero" else torch.nan) for k, v in load_file(sound).items()}
        save_file(weights, damaged, kept)
    monkeypatch.setattr(model, "BUNDLED", tmp_path)
    monkeypatch.setattr(trials, "BUNDLED", tmp_path)
    ((name, finding),) = findings(trials.priors()).items()
    assert name == "prior ct_phantoms (cpu)" and finding.state == "broken" and "git checkout" in finding.remedy


def test_every_requirement_is_looked_for(monkeypatch):
    """Whatever the installed copy was declared with, what ``setup.cfg`` wants is looked for."""
    wanted, imported = extras(), []
    declare(monkeypatch, wanted)
    monkeypatch.setattr(doctor, "import_module", imported.append)
    found = {name: find(Check(name, partial(doctor._libraries, name, group))) for name, group in doctor.requirements().items()}
    assert list(found) == list(wanted) and found[""].state == "ok" and len(wanted) > 5
    for name, lines in wanted.items():
        assert all(re.match(r"[\w-]+", line).group() in found[name].text for line in lines)
        assert found[name].state == "ok" or found[name].remedy == f"pip install 'padis_lightning[{name}]'"
    assert {"yaml", "PIL", "skimage", "torch"} <= set(imported)
    assert "gdcm" in imported or find_spec("gdcm") is None  # a module, and no package


def test_a_library_is_held_against_what_is_declared(monkeypatch):
    """Missing or of another version: broken where it is needed, absent in an extra; one that cannot be imported: broken."""
    for name in ("machine", "projectors", "priors"):
        monkeypatch.setattr(trials, name, lambda: iter(()))
    old, numpy = metadata.version("einops"), metadata.version("numpy")
    declare(monkeypatch, {
        "": ["numpy>=1", "nosuchlibrary>=2", "einops>=99", "never; python_version < '3'"],
        "nifti": ["numpy>=1", "nosuchlibrary"], "dicom": ["einops>=99"], "jpeg": ["einops"],
    })  # fmt: skip
    found = findings(doctor.checks(Path()))
    again = "pip install --force-reinstall 'numpy>=1' 'nosuchlibrary>=2' 'einops>=99'"
    assert found["libraries"] == Finding("broken", f"no nosuchlibrary, einops {old}, wanted >=99", again)
    assert found["[nifti]"] == Finding("absent", f"numpy {numpy}, no nosuchlibrary", "pip install 'padis_lightning[nifti]'")
    assert (found["[dicom]"].text, found["[dicom]"].state) == (f"einops {old}, wanted >=99", "absent")
    assert found["[jpeg]"] == Finding("ok", f"einops {old}")
    monkeypatch.setitem(sys.modules, "einops", None)  # which makes importing it fail
    jpeg = findings(doctor.checks(Path()))["[jpeg]"]
    assert jpeg.state == "broken" and "ModuleNotFoundError" in jpeg.text
    assert jpeg.remedy == "pip install --force-reinstall 'einops'"


def test_a_copy_that_is_not_installed_is_broken(capsys, tmp_path, monkeypatch):
    for name in ("machine", "projectors", "priors"):
        monkeypatch.setattr(trials, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "PACKAGE", "padis_lightning_of_nobody")
    lines, last, code = run(capsys, "--output", str(tmp_path))
    assert code == 1 and "pip install -e ." in last and len(lines) == 2


def test_a_folder_that_cannot_be_written_is_broken(capsys, tmp_path, quick):
    (tmp_path / "file").write_text("kept")
    _, last, code = run(capsys, "--output", str(tmp_path / "file" / "below"))
    assert code == 1 and last.startswith("broken: output: name a folder")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser writes anywhere")
def test_a_folder_without_permission_is_broken(capsys, tmp_path, quick):
    tmp_path.chmod(0o500)
    assert "Permission denied" in run(capsys, "--output", str(tmp_path / "out"))[0][-1]


def test_a_full_disk_is_broken_and_left_as_it_was(capsys, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(OSError(28, "No space left on device")))
    lines, _, code = run(capsys, "--output", str(tmp_path))
    assert code == 1 and "No space left on device" in lines[-1] and not any(tmp_path.iterdir())


GPU = "GPU 0: NVIDIA H100\nGPU 1: NVIDIA H100"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("seen", "cuda", "state", "text"),
    [(None, None, "absent", "none"), (GPU, None, "absent", "without CUDA"), (GPU, "12.8", "broken", "cannot use it")],
)
def test_a_gpu_that_torch_does_not_see_is_told_from_none(seen, cuda, state, text, monkeypatch):
    monkeypatch.setattr(collect_env, "get_gpu_info", lambda run: seen)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    finding = findings(trials.machine())["GPU"]
    assert finding.state == state and text in finding.text and bool(finding.remedy) == bool(seen)


def test_an_unknown_argument_is_one_sentence():
    with pytest.raises(InputError, match="--jsn; wanted what doctor --help lists"):
        doctor.run(["--jsn"])
