"""Volumes from data to files: what is stacked, trained on, scored and written."""

from __future__ import annotations

import csv
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from padis_lightning import metrics
from padis_lightning.cli import main
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.generators import PhantomSource
from padis_lightning.data.phantoms import GRAIN, SmoothStream, chest_volume
from padis_lightning.data.readers import PreparedSource, open_series
from padis_lightning.data.sources.arrays import read_arrays
from padis_lightning.data.sources.series import SeriesSource
from padis_lightning.data.sources.volumes import VolumeSource
from padis_lightning.diffusion import FourierFeatures, PatchModel
from padis_lightning.errors import InputError
from padis_lightning.networks.unet import UNet
from padis_lightning.priors import GroupPrior, PatchPrior
from padis_lightning.random import Generators, seeded
from padis_lightning.results.pictures import CAPTION, GAP, planes
from padis_lightning.results.report.panels import read_panels
from padis_lightning.training import PatchDiffusion
from padis_lightning.training.slice_groups import GroupPatchDiffusion
from padis_lightning.types import Normalisation

from .making import lps, prepared, rotation, write_stack


@pytest.fixture
def scans(tmp_path):
    """Ten slices of one patient and seven of another in any order, and one that is alone; each holds its height."""
    heights = [*range(30, 50, 2), *range(-3, 4), 5]
    order = np.random.default_rng(0).permutation(18)
    patients = np.array(["a"] * 10 + ["b/1"] * 7 + ["c"])[order]
    z = np.array(heights, dtype=np.float32)[order]
    images = z[:, None, None] + np.zeros((18, 16, 16), np.float32)
    np.savez(tmp_path / "scans.npz", images=images, patient=patients, z=z, range=[-100.0, 100.0])
    return tmp_path / "scans.npz"


def heights(item, source):
    return source.normalisation.restore(item.image[0, :, 0, 0]).round().int().tolist()


def test_slices_of_a_patient_are_stacked_by_their_heights_and_cut(scans):
    source = VolumeSource(read_arrays(scans), 4)
    found = [(item.name, item.group, heights(item, source)) for item in (source[k] for k in range(len(source)))]
    assert sorted(found) == [
        ("a_from0001", "a", [32, 34, 36, 38]),
        ("a_from0005", "a", [40, 42, 44, 46]),
        ("b_1", "b/1", [-2, -1, 0, 1]),
    ]
    assert source.image_shape == (1, 4, 16, 16) and source.groups == [group for _, group, _ in found]
    data = ImageData(str(scans), volumes=True, depth=4)
    data.setup("predict")
    assert data.image_shape == (1, 4, 16, 16) and len(data.item_labels) == 3


def test_volumes_that_cannot_be_are_refused(scans, tmp_path):
    with pytest.raises(InputError, match=r"stacks of 1, 7, 10 slices; wanted one number, or --data.depth"):
        VolumeSource(read_arrays(scans))
    with pytest.raises(InputError, match="has 10 slices; wanted at least 11"):
        VolumeSource(read_arrays(scans), 11)
    kept = dict(np.load(scans))
    np.savez(tmp_path / "plain.npz", images=kept["images"], patient=kept["patient"], range=kept["range"])
    with pytest.raises(InputError, match="have no heights; wanted series .* or 'patient' and 'z'"):
        VolumeSource(read_arrays(tmp_path / "plain.npz"))
    kept["patient"][kept["patient"] == "a"] = "b_1"  # which is a name for a file of b/1
    np.savez(tmp_path / "alike.npz", **kept)
    assert len({stack.name for stack in VolumeSource(read_arrays(tmp_path / "alike.npz"), 7).stacks}) == 2
    kept["patient"][kept["patient"] == "b_1"] = "a"
    kept["z"][kept["patient"] == "c"] = kept["z"][kept["patient"] == "a"][0]
    kept["patient"][kept["patient"] == "c"] = "a"
    np.savez(tmp_path / "double.npz", **kept)
    source = VolumeSource(read_arrays(tmp_path / "double.npz"), 3)
    assert all(np.diff(kept["z"][stack.items]).tolist() in ([2.0, 2.0], [1.0, 1.0]) for stack in source.stacks)
    for options, sentence in (
        ({"depth": 4}, "depth is 4 and volumes false; wanted at least 1 slice, and --data.volumes true"),
        ({"volumes": True, "builtin": "leaves"}, "builtin is 'leaves' and volumes true; wanted phantoms, or a path"),
    ):
        with pytest.raises(InputError, match=sentence):
            ImageData(**options)


def test_a_gap_ends_a_stack(scans, tmp_path):
    kept = dict(np.load(scans))
    kept["z"][kept["z"] >= 44] += 50
    kept["images"][:] = kept["z"][:, None, None]
    np.savez(tmp_path / "gap.npz", **kept)
    source = VolumeSource(read_arrays(tmp_path / "gap.npz"), 3)
    assert sorted(heights(source[k], source) for k in range(len(source)))[2:] == [[30, 32, 34], [36, 38, 40], [94, 96, 98]]


def test_series_of_dicom_are_volumes_in_their_order_and_place(tmp_path):
    values = np.random.default_rng(1).integers(0, 1000, (6, 8, 8)).astype(np.int16)
    affine = lps(np.eye(3), (0.5, 0.5, 2.5), (1.0, 2.0, 3.0))
    write_stack(tmp_path / "scan", values, affine)
    slices = SeriesSource(open_series(tmp_path / "scan"), None, None, "slices")
    source = VolumeSource(slices, 4)
    assert len(source) == 1 and torch.equal(source[0].image, torch.stack([slices[k].image for k in range(1, 5)], 1))
    series, first = source.place(0)
    assert series is slices.series[0] and first == 1


def test_slices_of_a_prepared_file_are_volumes_by_series_and_number(tmp_path):
    images = np.arange(7, dtype=np.uint16)[:, None, None] + np.zeros((7, 8, 8), np.uint16)
    names = ["scan_0004", "scan_0003", "scan_0005", "other_0000", "other_0001", "other_0002", "scan_0009"]
    groups = ["a"] * 3 + ["b"] * 3 + ["a"]
    source = VolumeSource(PreparedSource(prepared(tmp_path / "data.h5", images, ["train"] * 7, groups, name=names)), 3)
    assert [(stack.group, stack.items) for stack in source.stacks] == [("a", [1, 0, 2]), ("b", [3, 4, 5])]


def test_phantoms_change_slowly_from_slice_to_slice_and_are_of_one_seed():
    first, again, other = (chest_volume(64, 12, 5, index) for index in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    steps = np.abs(np.diff(first, axis=0)).mean((1, 2))
    assert steps.min() > 1 and steps.max() < 0.4 * np.abs(first - other).mean((1, 2)).min()
    assert np.abs(first[-1] - first[0]).mean() > 1.5 * steps.mean()  # it does change
    assert first.min() >= -1000 and first.max() <= 1000
    values = torch.from_numpy(chest_volume(32, 3, 5, 0))
    torch.testing.assert_close(PhantomSource(1, 32, 5, depth=3)[0].image[0], values / 2000 + 0.5)


def test_smooth_streams_have_the_distributions_of_independent_ones():
    def draw(key, height):
        stream = SmoothStream((key,), height)
        return (
            stream.standard_normal(3)[1],
            stream.uniform((2.0, 0.0), (3.0, 1.0))[0],
            stream.normal((1.0, 2.0), 0.5)[1],
            stream.random(),
        )

    drawn = np.array([draw(key, 2.3) for key in range(3000)])
    expected = [(0, 1), (2.5, 12**-0.5), (2, 0.5), (0.5, 12**-0.5)]
    for values, (mean, std) in zip(drawn.T, expected, strict=True):
        assert abs(values.mean() - mean) < 4 * std / 3000**0.5 and abs(values.std() / std - 1) < 0.06
    near, far = (np.corrcoef(drawn[:500, 0], [draw(key, 2.3 + gap)[0] for key in range(500)])[0, 1] for gap in (1.0, 5 * GRAIN))
    assert near > 0.95 and abs(far) < 0.2
    assert draw(0, 0.0)[3] == draw(0, 40.0)[3]  # single numbers do not change
    below, above = draw(0, GRAIN - 1e-6)[0], draw(0, GRAIN)[0]
    assert abs(below - above) < 1e-4  # nor jump where a knot is passed


def test_scores_of_volumes_are_those_of_their_planes(rng):
    truth = torch.rand(2, 1, 13, 16, 18, generator=rng)
    estimate = truth + 0.1 * torch.randn(truth.shape, generator=rng)
    found = metrics.psnr(estimate, truth)
    error = (estimate.clamp(0, 1) - truth).square().flatten(1).mean(1)
    torch.testing.assert_close(found, -10 * error.log10(), rtol=1e-5, atol=1e-4)
    for plane, axis in (("axial", 2), ("coronal", 3), ("sagittal", 4)):
        each = [metrics.ssim(estimate.select(axis, k), truth.select(axis, k)) for k in range(truth.shape[axis])]
        torch.testing.assert_close(metrics.plane_ssim(estimate, truth, plane), torch.stack(each).mean(0))
    assert metrics.plane_ssim(estimate[:, :, :5], truth[:, :, :5], "coronal").isnan().all()
    torch.testing.assert_close(metrics.consistency(0.5 * truth + 0.2, truth), torch.full((2,), 0.5))
    assert (metrics.consistency(estimate, truth) > 1).all()


def test_the_picture_of_a_volume_is_its_middle_planes():
    volume = torch.arange(2 * 4 * 5 * 6.0).reshape(2, 4, 5, 6)
    picture = planes(volume)
    assert picture.shape == (2, 5 + 4, 6 + 4)
    assert torch.equal(picture[:, :5, :6], volume[:, 2])
    for z in range(4):  # the last slice on top and on the left
        assert torch.equal(picture[:, 5 + 3 - z, :6], volume[:, z, 2])
        assert torch.equal(picture[:, :5, 6 + 3 - z], volume[:, z, :, 3])
    assert torch.equal(planes(volume[:, 0]), volume[:, 0])


class Data:
    normalisation, source = Normalisation(0.0, 1.0), ""

    def __init__(self, *shape):
        self.image_shape = shape


def numbered(*shape):
    """Volumes whose voxels say where they are."""
    count, _, *size = shape
    return torch.arange(count * torch.tensor(size).prod()).reshape(shape).double() + 1


def test_cubes_are_the_volumes_at_their_positions():
    task = PatchDiffusion(UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=3), patch_sizes=[4, 8], patches=5)
    task.adapt(Data(1, 12, 16, 20))
    volumes = numbered(2, 1, 12, 16, 20)
    padded = torch.nn.functional.pad(volumes, [m for m in reversed(task.pad) for _ in range(2)])
    patches, positions = task.cut(volumes, task.draw_patches(4, 30, seeded(0)).corners, 4)
    assert patches.shape == (30, 1, 4, 4, 4) and positions.shape == (30, 3, 4, 4, 4) and task.patch_count(4) == 40
    x, y, z = ((positions[:, k] + 1).mul((n - 1) / 2).round().long() for k, n in enumerate(reversed(padded.shape[2:])))
    assert torch.equal(patches[:, 0], torch.stack([padded[k % 2, 0][z[k], y[k], x[k]] for k in range(30)]))
    assert (z[:, 1:] - z[:, :-1] == 1).all() and (x[..., 1:] - x[..., :-1] == 1).all()
    flat = PatchDiffusion(UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=3), patch_sizes=[4, 8])
    flat.adapt(Data(1, 4, 16, 20))
    patches, _ = flat.cut(volumes[:, :, :4], flat.draw_patches(8, 3, seeded(0)).corners, 8)
    assert patches.shape == (3, 1, 4, 8, 8) and flat.pad == (0, 8, 4) and flat.patch_count(4) == 4 * 64
    with pytest.raises(InputError, match="the volumes have 6 slices; wanted a multiple of 4 or at least 8"):
        flat.adapt(Data(1, 6, 16, 20))
    with pytest.raises(InputError, match="the network takes patches of 3 axes; wanted 2, those of the data"):
        flat.adapt(Data(1, 16, 20))


def test_positions_of_another_number_of_axes_are_refused():
    network = UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=16)
    task = PatchDiffusion(network, positions=FourierFeatures(4), patch_sizes=[8])
    with pytest.raises(InputError, match="FourierFeatures takes 2 coordinates; wanted 3: axes: 3"):
        task.adapt(Data(1, 8, 16, 16))
    network = UNet(base=8, multipliers=[1, 2], blocks=1, axes=3, positions=24)
    task = PatchDiffusion(network, positions=FourierFeatures(4, axes=3), patch_sizes=[8])
    task.adapt(Data(1, 8, 16, 16))
    draws = task.draw_patches(8, 2, seeded(0))
    assert task.losses(torch.rand(2, 1, 8, 16, 16), 8, draws).isfinite().all()


def group_task(**options):
    network = UNet(channels=3, positions=3, base=8, multipliers=[1, 2], blocks=1)
    return GroupPatchDiffusion(network, patch_sizes=[8], patches=5, sigma_data=0.3, **options)


def test_groups_are_cut_out_of_volumes_at_all_their_spacings():
    task = group_task(spacings=[1, 2])
    task.adapt(Data(1, 7, 16, 16))
    assert task.image_shape == (3, 16, 16) and task.pad == (8, 8)
    volumes = numbered(2, 1, 7, 16, 16)
    draws = task.draw_patches(8, 400, seeded(0))
    patches, positions = task.cut(volumes, draws.corners, 8)
    padded = torch.nn.functional.pad(volumes, (8, 8, 8, 8))
    x, y = ((positions[:, k] + 1).mul(31 / 2).round().long() for k in range(2))
    spacing = (2 ** positions[:, 2, 0, 0]).round().long()
    assert draws.noise.shape == (400, 3, 8, 8) and (positions[:, 2] == positions[:, 2, :1, :1]).all()
    starts = set()
    for k in range(400):
        first, apart = int(draws.corners[k, 2]), int(spacing[k])
        starts.add((first, apart))
        for j in range(3):
            assert torch.equal(patches[k, j], padded[k % 2, 0, first + j * apart][y[k], x[k]])
    assert starts == {(k, 1) for k in range(5)} | {(k, 2) for k in range(3)}
    with pytest.raises(InputError, match=r"the data's images are \(1, 16, 16\); wanted grey volumes"):
        task.adapt(Data(1, 16, 16))
    with pytest.raises(InputError, match="the volumes have 4 slices; wanted at least 5 for groups 2 apart"):
        task.adapt(Data(1, 4, 16, 16))


def test_groups_that_were_trained_serve_as_a_prior_of_volumes_that_is_told_what_training_told(rng):
    task = group_task()
    for parameter in task.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    task.adapt(Data(1, 9, 16, 16))
    prior = GroupPrior(PatchPrior(task.patch_model()), spacings=[2])
    prior = prior.for_shape((1, 9, 16, 16))
    told = []
    prior.prior.denoiser.register_forward_hook(lambda module, inputs, output: told.append(inputs[2]))
    x = torch.randn(1, *prior.canvas_shape, generator=rng)
    denoised = prior(x, 0.3, Generators.keyed(0, [0]))
    _, trained = task.cut(torch.zeros(1, 1, 9, 16, 16), torch.tensor([[0, 0, 0, 2]]), 8)
    assert denoised.shape == x.shape and all((places[:, 2] == trained[0, 2, 0, 0]).all() for places in told)


def run(*words):
    main([*map(str, words), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])


SMALL = ("--data.size", 32, "--data.depth", 6)


def test_predict_writes_volumes_with_scores_of_all_planes(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--model.steps", 2, "--data.count", 2, "--operator.depth", 6, "--operator.operator.size", 32, "--output", out)
    main_words = ("--model", "RED", "--prior.checkpoint", _prior(tmp_path), "--results.baselines", '{"fbp": "PseudoInverse"}')
    run("predict", "--config", "ct3d.yaml", *main_words, *words, *SMALL, "--results.measurements", "true")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    truth = PhantomSource(2, 32, 2, depth=6)
    for k, row in enumerate(rows):
        values = np.load(out / "arrays" / f"{row['name']}.npy")
        assert values.shape == (6, 32, 32)
        estimate = torch.from_numpy(values)[None, None] / 2000 + 0.5
        image = truth[k].image[None]
        assert float(row["psnr"]) == pytest.approx(float(metrics.psnr(estimate, image)), abs=1e-3)
        assert float(row["consistency"]) == pytest.approx(float(metrics.consistency(estimate, image)), rel=1e-4)
    page = (out / "report.html").read_text()
    assert f"{fmean(float(row['consistency']) for row in rows):.3f}" in page and "fbp" in capsys.readouterr().out
    # What was measured is read again, slice by slice and as volumes.
    again = tmp_path / "again"
    measured = out / "measurements" / f"{rows[0]['name']}.npz"
    words = ("--model.steps", 2, "--operator.depth", 6, "--data.volumes", "true", "--output", again, "--data.path", measured)
    words += ("--data.depth", 6, "--data.size", "null", "--model.noise_std", 0)  # it was simulated without noise
    run("predict", "--config", "ct3d.yaml", *main_words, *words)  # by RED, which takes a simulated scan as a measured one
    first, second = (np.load(next(iter(sorted((d / "arrays").glob("*.npy"))))) for d in (out, again))
    scan = PhantomSource(1, 32, 2, depth=6).normalisation
    assert np.abs(scan.normalise(torch.from_numpy(first)).numpy() - second).max() < 0.02


def _prior(folder):
    """Of 32x32 slices, with weights that nobody trained."""
    task = PatchDiffusion(UNet(base=8, multipliers=[1, 2], blocks=1), patch_sizes=[16], sigma_data=0.3)
    data = Data(1, 32, 32)
    data.normalisation = Normalisation(-1000.0, 1000.0, (-1000.0, 1000.0))
    task.adapt(data)
    task.patch_model().save(folder / "slices.safetensors")
    return folder / "slices.safetensors"


@pytest.mark.parametrize("config", ["ct_groups.yaml", pytest.param("ct_cubes.yaml", marks=pytest.mark.slow)])
def test_volumes_are_trained_on_and_the_priors_reconstruct(config, tmp_path, capsys):
    out, prior = tmp_path / "fit", tmp_path / "fit" / "prior.safetensors"
    network = ("--model.network.base", 8, "--model.network.multipliers", "[1, 2]", "--model.network.blocks", 1)
    trained = ("--model.patch_sizes", "[8]", "--model.patch_odds", "[1.0]", "--model.patches", 2, "--data.generated", 4)
    steps = ("--trainer.max_steps", 2, "--trainer.val_check_interval", 2, "--samples.count", 1, "--samples.steps", 2)
    run("fit", "--config", config, *network, *trained, *steps, *SMALL, "--data.depth", 8, "--output", out)
    if "cubes" in config:
        half = ("--trainer.precision", "bf16-mixed", "--output", tmp_path / "half")
        with pytest.raises(SystemExit):
            run("fit", "--config", config, *network, *trained, *steps, *SMALL, "--data.depth", 8, *half)
        assert "wanted 32-true to train on cubes on a processor" in capsys.readouterr().err
    model = PatchModel.load(prior)
    assert model.image_shape == ((3, 32, 32) if "groups" in config else (1, 8, 32, 32))
    kind = ("--prior", "GroupPrior", "--prior.checkpoint", prior)
    kind = kind if "groups" in config else ("--prior", "PatchPrior", "--prior.checkpoint", prior)
    rest = ("--model.steps", 2, "--data.count", 1, "--operator.depth", 8, "--operator.operator.size", 32)
    out = tmp_path / "out"
    run("predict", "--config", "ct3d.yaml", *rest, *kind, *SMALL, "--data.depth", 8, "--results.baselines", "{}", "--output", out)
    assert np.load(out / "arrays" / "0000.npy").shape == (8, 32, 32)


def test_a_volume_lies_where_its_slices_lay_in_the_patient(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pydicom = pytest.importorskip("pydicom")
    values = np.random.default_rng(1).integers(0, 1000, (7, 32, 32)).astype(np.int16)
    affine = lps(rotation(0.1, 0.2, 0.3), (0.5, 0.5, 2.5), (1.0, 2.0, 3.0))
    paths = write_stack(tmp_path / "scan", values, affine)
    out, prior = tmp_path / "out", _prior(tmp_path)
    words = ("--data.path", tmp_path / "scan", "--data.depth", 4, "--operator.depth", 4, "--operator.operator.size", 32)
    rest = ("--data.size", 32, "--model.steps", 1, "--results.baselines", "{}", "--results.formats", "[nifti,dicom]")
    run("predict", "--config", "ct3d.yaml", *words, *rest, "--prior.checkpoint", prior, "--output", out)
    (path,) = (out / "volumes").glob("*.nii.gz")
    written, array = nibabel.load(path), np.load(next((out / "arrays").glob("*.npy")))
    np.testing.assert_allclose(written.get_fdata(), array.transpose(2, 1, 0), atol=1e-3)
    for voxel in ((0, 0, 0), (5, 9, 3)):  # column, row, slice above the first, which is the second of seven
        column, row, k = voxel
        place = affine @ [row, column, k + 1, 1]
        np.testing.assert_allclose(written.affine @ [column, row, k, 1], place * [-1, -1, 1, 1], atol=1e-4)
    (shown,) = (out / "panels").glob("*.npz")
    panels = {panel.kind: panel for panel in read_panels(shown)}
    assert panels["estimate"].extent == pytest.approx((4 * 2.5, 16, 16)) and panels["estimate"].voxels == (4, 32, 32)
    assert np.abs(panels["estimate"].values[..., 0] - array.clip(-1000, 1000)).max() <= 2000 / 255 / 2 + 1e-3
    (picture,) = (out / "images").glob("*.png")
    side = 32 + 4 * 5  # slices are five pixels apart
    assert Image.open(picture).size == (3 * (side + GAP) - GAP, side + CAPTION)  # truth, estimate, error
    slices = sorted((out / "dicom").rglob("*.dcm"))
    for k, file in enumerate(slices, 1):
        one, source = pydicom.dcmread(file), pydicom.dcmread(paths[k])
        assert one.ImagePositionPatient == source.ImagePositionPatient
        found = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        np.testing.assert_allclose(found, array[k - 1], atol=0.05)
    assert len(slices) == 4
    with pytest.raises(SystemExit):
        run("predict", "--config", "ct3d.yaml", *words, *rest[:-1], "[tiff]", "--output", tmp_path / "other")
