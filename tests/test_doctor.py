"""The command ``doctor``: what is broken is found, by the parts that a run takes."""

from __future__ import annotations

import configparser
import json
import math
import os
import re
import subprocess
import sys
import sysconfig
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

PROJECTOR_CHECKS, REQUIREMENTS = trials.projectors, doctor.requirements


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


def findings(checks, *names):
    return {check.name: find(check) for check in checks if not names or check.name in names}


def run(capsys, *args):
    """Return the findings by name, the last line and the exit code of ``--json``."""
    code = 0
    try:
        doctor.run(["--json", *args])
    except SystemExit as stop:
        code = stop.code
    said = json.loads(capsys.readouterr().out)
    return {f["name"]: Finding(**f) for f in said["findings"]}, said["conclusion"], code


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes time."""
    for name in ("machine", "projectors", "priors"):
        monkeypatch.setattr(trials, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "requirements", dict)


@pytest.fixture
def located(monkeypatch):
    """Locate modules in place of importing them, which takes seconds for some."""

    def locate(name):
        assert find_spec(name), name

    monkeypatch.setattr(doctor, "import_module", locate)


def test_a_sound_machine_passes_and_leaves_nothing(capsys, tmp_path, located, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, last, code = run(capsys)
    assert code == 0 and last == "everything that is needed works"
    assert {"padis_lightning", "libraries", "python", "processor", "CT sparse (cpu)", "output"} <= set(found)
    assert {f"prior {path.stem} (cpu)" for path in model.BUNDLED.glob("*.safetensors")} <= set(found)
    assert f"torch {metadata.version('torch')}" in found["libraries"].text
    assert not any(tmp_path.iterdir())


def test_the_text_and_the_json_say_the_same(capsys, tmp_path, quick, monkeypatch):
    odd = [
        Check("well", lambda: "works"),
        Check("gap", raiser(Absent("none", "buy"))),
        Check("crash", raiser(OSError("x")), "mend"),
    ]
    monkeypatch.setattr(trials, "machine", lambda: iter(odd))
    monkeypatch.setattr(doctor, "_writable", lambda folder: f"room in {folder}")
    found, last, code = run(capsys, "--output", str(tmp_path))
    with pytest.raises(SystemExit):
        doctor.run(["--output", str(tmp_path)])
    *lines, gap, said = capsys.readouterr().out.splitlines()
    assert (gap, said, code) == ("", last, 1) and len(lines) == len(found) == 5
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
    """Put a backend beside the matrix."""
    monkeypatch.setattr(trials, "PROJECTORS", {"sparse": SparseMatrix, "faulty": cls})
    return f"CT faulty ({trials._devices()[-1]})"


@pytest.fixture
def small(monkeypatch):
    """Try backends on a small scan."""
    monkeypatch.setattr(trials, "SIDE", 64)


def test_a_faulty_backend_ends_the_command_with_exit_code_1(capsys, tmp_path, quick, small, monkeypatch):
    name = put(monkeypatch, Scaled)
    monkeypatch.setattr(trials, "projectors", PROJECTOR_CHECKS)
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
    (finding,) = findings(trials.priors()).values()
    assert finding.name == "prior ct_phantoms (cpu)" and finding.state == "broken" and "git checkout" in finding.remedy


def test_every_extra_and_every_requirement_is_covered(located, monkeypatch):
    """Whatever the installed copy was declared with, what ``setup.cfg`` wants is looked for."""
    wanted = extras()
    declare(monkeypatch, wanted)
    checks = [Check(f"[{name}]", partial(doctor._libraries, name, group)) for name, group in doctor.requirements().items()]
    for (name, lines), finding in zip(wanted.items(), map(find, checks), strict=True):
        for line in lines:
            library = re.match(r"[\w-]+", line).group()
            assert library in finding.text
            assert finding.state != "ok" or f"{library} {metadata.version(library)}" in finding.text
        assert finding.state == "ok" or finding.state == "absent" and finding.remedy == f"pip install 'padis_lightning[{name}]'"
    assert len(wanted) > 5 and find(checks[0]).state == "ok"


def test_a_library_is_held_against_what_is_declared(capsys, tmp_path, quick, monkeypatch):
    """Missing or of another version: broken where it is needed, absent in an extra; one that cannot be imported: broken."""
    monkeypatch.setattr(doctor, "requirements", REQUIREMENTS)
    old, numpy = metadata.version("einops"), metadata.version("numpy")
    declare(monkeypatch, {
        "": ["numpy>=1", "nosuchlibrary>=2", "einops>=99", "never; python_version < '3'"],
        "nifti": ["numpy>=1", "nosuchlibrary"], "dicom": ["einops>=99"], "jpeg": ["einops"],
    })  # fmt: skip
    found, last, code = run(capsys, "--output", str(tmp_path))
    again = "pip install --force-reinstall 'numpy>=1' 'nosuchlibrary>=2' 'einops>=99'"
    assert found["libraries"] == Finding("libraries", "broken", f"no nosuchlibrary, einops {old}, wanted >=99", again)
    assert (last, code) == (f"broken: libraries: {again}", 1)
    install = "pip install 'padis_lightning[nifti]'"
    assert found["[nifti]"] == Finding("[nifti]", "absent", f"numpy {numpy}, no nosuchlibrary", install)
    assert found["[dicom]"].text == f"einops {old}, wanted >=99" and found["[dicom]"].state == "absent"
    assert found["[jpeg]"] == Finding("[jpeg]", "ok", f"einops {old}")

    monkeypatch.setitem(sys.modules, "einops", None)  # which makes importing it fail
    found, _, _ = run(capsys, "--output", str(tmp_path))
    assert found["[jpeg]"].state == "broken" and "ModuleNotFoundError" in found["[jpeg]"].text
    assert found["[jpeg]"].remedy == "pip install --force-reinstall 'einops'"


def test_a_copy_that_is_not_installed_is_broken(capsys, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGE", "padis_lightning_of_nobody")
    _, last, code = run(capsys, "--output", str(tmp_path))
    assert code == 1 and "pip install -e ." in last and REQUIREMENTS() == {}


def test_a_folder_that_cannot_be_written_is_broken(capsys, tmp_path, quick):
    (tmp_path / "file").write_text("kept")
    found, last, code = run(capsys, "--output", str(tmp_path / "file" / "below"))
    assert code == 1 and found["output"].state == "broken" and last.startswith("broken: output: name a folder")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser writes anywhere")
def test_a_folder_without_permission_is_broken(capsys, tmp_path, quick):
    tmp_path.chmod(0o500)
    assert "Permission denied" in run(capsys, "--output", str(tmp_path / "out"))[0]["output"].text


def test_a_full_disk_is_broken_and_left_as_it_was(capsys, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(OSError(28, "No space left on device")))
    found, _, code = run(capsys, "--output", str(tmp_path))
    assert code == 1 and "No space left on device" in found["output"].text
    assert not any(tmp_path.iterdir())


def test_whatever_a_check_raises_is_one_finding_and_the_others_go_on(capsys, tmp_path, quick, monkeypatch):
    crash = raiser(RuntimeError("first\n   second " + 1000 * "x"))
    odd = [Check("crash", crash, "mend it"), Check("greet", lambda: print("Hello from a library") or "well")]
    monkeypatch.setattr(trials, "machine", lambda: iter(odd))
    found, last, code = run(capsys, "--output", str(tmp_path))
    assert found["crash"].text.startswith("RuntimeError: first second x") and len(found["crash"].text) == 300
    assert found["greet"].text == "well" and found["output"].state == "ok"
    assert code == 1 and last == "broken: crash: mend it"


def raiser(error):
    def look(*_):
        raise error

    return look


GPU = "GPU 0: NVIDIA H100\nGPU 1: NVIDIA H100"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("seen", "cuda", "state", "text"),
    [(None, None, "absent", "none"), (GPU, None, "absent", "without CUDA"), (GPU, "12.8", "broken", "cannot use it")],
)
def test_a_gpu_that_torch_does_not_see_is_told_from_none(seen, cuda, state, text, monkeypatch):
    monkeypatch.setattr(collect_env, "get_gpu_info", lambda run: seen)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    finding = findings(trials.machine(), "GPU")["GPU"]
    assert finding.state == state and text in finding.text and bool(finding.remedy) == bool(seen)


def test_a_compiler_is_of_use_with_pythons_headers_only(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert findings(trials.machine(), "C++ compiler")["C++ compiler"].state == "absent"
    (tmp_path / "Python.h").touch()
    for found, state in (("12.2.0", "ok"), (None, "absent")):
        monkeypatch.setattr(collect_env, "get_gcc_version", lambda run, found=found: found)
        monkeypatch.setattr(collect_env, "get_clang_version", lambda run: None)
        finding = findings(trials.machine(), "C++ compiler")["C++ compiler"]
        assert finding.state == state and (state == "ok") != ("python3-dev" in finding.remedy)


def test_an_unknown_argument_is_one_sentence():
    with pytest.raises(InputError, match="--jsn; wanted what doctor --help lists"):
        doctor.run(["--jsn"])


def test_help_does_not_wait_for_torch():
    code = "import sys; from padis_lightning.commands import doctor, prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
