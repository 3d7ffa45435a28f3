"""Every command of the tutorial, as it stands there, on a small folder of DICOM."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from padis_lightning.cli import main
from padis_lightning.data.phantoms import ChestPhantoms
from padis_lightning.diffusion import PatchModel
from padis_lightning.operators.ct import ParallelBeam
from tests.making import lps, write_stack

TEXT = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
SHORT = {  # what makes a minute of a quarter of an hour
    "fit": ["--trainer.max_steps", "2", "--samples.count", "0", "--trainer.enable_progress_bar", "false"],
    "predict": [
        "--model.steps", "8", "--results.baselines.tv.init_args.iterations", "2", "--trainer.enable_progress_bar", "false",
    ],
}  # fmt: skip


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch):
    """Five patients of three slices; what each step promises is there, and right."""
    monkeypatch.chdir(tmp_path)
    phantoms = ChestPhantoms(15, seed=9)
    hounsfield = np.stack([phantoms.image(k, 128) for k in range(15)])
    stored = np.round((hounsfield + 1024) / 2).astype(np.int16)  # HU = 2 stored - 1024
    affine = lps(np.eye(3), (3.0, 3.0, 5.0), (-190.0, -190.0, 40.0))
    for k in range(5):
        tags = {"PatientID": f"patient {k}", "SeriesInstanceUID": f"1.2.3.{k}", "StudyInstanceUID": f"1.2.{k}"}
        write_stack(tmp_path / "scans" / f"{k}", stored[3 * k : 3 * k + 3], affine, **tags)
    truth = torch.from_numpy((2.0 * stored[:1] - 1024 + 1000) / 2000).clamp(0, 1).float()[:, None]
    operator = ParallelBeam(128, 20, pixels="means")
    scan = {"angles": np.array(operator.geometry.angles), "size": 128, "pixel_spacing": 1.0, "bin_spacing": 1.0}
    scan |= {"bin_spacing": operator.geometry.bin_spacing, "pixel_spacing": operator.geometry.pixel_spacing}
    np.savez(tmp_path / "sinogram.npz", y=0.04 * operator(truth)[:, 0].numpy(), range=[0.0, 0.04], **scan)
    others = torch.from_numpy((hounsfield[3:6] + 1000) / 2000).clamp(0, 1).float()[:, None]
    np.savez(tmp_path / "sinograms.npz", y=0.04 * operator(others)[:, 0].numpy(), range=[0.0, 0.04], **scan)
    assert len(COMMANDS) == 11
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "padis_lightning"]
        main([*words[3:], *SHORT.get(words[3], [])])
    rows = {name: list(csv.DictReader((tmp_path / "results" / name / "metrics.csv").open())) for name in ("twenty", "eight")}
    assert len(rows["twenty"]) == len(rows["eight"]) == 3  # the slices of one patient
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "twenty" in page and "eight" in page
    volumes = sorted((tmp_path / "results" / "series" / "volumes").glob("*.nii.gz"))
    assert len(volumes) == 5 and nibabel.load(volumes[0]).shape == (128, 128, 3)
    assert np.allclose(np.abs(np.diag(nibabel.load(volumes[0]).affine)[:3]), [3, 3, 5])
    series = [pydicom.dcmread(path) for path in (tmp_path / "results" / "series").rglob("*.dcm")]
    assert {str(one.PatientID) for one in series} == {f"patient {k}" for k in range(5)} and len(series) == 15
    measured = list(csv.DictReader((tmp_path / "results" / "measured" / "metrics.csv").open()))
    assert measured[0]["psnr"] == "" and float(measured[0]["residual"]) < 0.2
    estimate = np.load(tmp_path / "results" / "measured" / "arrays" / "0000.npy")
    assert np.abs(estimate / 0.04 - truth[0, 0].numpy()).mean() < 0.06
    prior = PatchModel.load(tmp_path / "results" / "own" / "prior.safetensors")
    assert prior.normalisation.upper == 0.04 and prior.training["initial"]["prior"] == "ct_phantoms"
    assert prior.training["data"] == "3 slices of found"
    found = np.load(tmp_path / "results" / "by_own" / "arrays" / "0000.npy")
    assert np.abs(found / 0.04 - truth[0, 0].numpy()).mean() < 0.06
