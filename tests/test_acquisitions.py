"""K-space of ISMRMRD: where its lines lie, what is noise, and what is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from padis_lightning.data.brains import brain
from padis_lightning.data.readers import open_series
from padis_lightning.data.readers.npz import open_arrays
from padis_lightning.data.sources.kspace import find_kspace
from padis_lightning.data.sources.open import open_source
from padis_lightning.errors import InputError
from padis_lightning.mri import fourier, to_complex
from padis_lightning.mri.coils import ring_of_coils, whitening
from tests.making import acquisition, scan_xml, write_acquisitions

NOISE, REVERSE, NAVIGATOR = 19, 22, 23


@pytest.fixture
def kspace(rng):
    return torch.randn(3, 4, 10, 12, dtype=torch.complex64, generator=rng).numpy()


def test_lines_lie_where_their_heads_say_and_noise_whitens_them(kspace, tmp_path, rng):
    """Every second line of three slices of 10x12, in any order, with two errors that cancel; a fifth of the echo is missing."""
    noise = np.tri(4) @ torch.randn(4, 500, dtype=torch.complex64, generator=rng).numpy()
    error = torch.randn(kspace.shape, dtype=torch.complex64, generator=rng).numpy()
    lines = [
        acquisition(
            (kspace + (-1) ** average * error)[k, :, 2:, column],
            index={"kspace_encode_step_1": column - 1, "slice": k, "average": average},
            center_sample=3,
        )
        for k in range(3)
        for column in range(1, 12, 2)
        for average in range(2)
    ]
    lines = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    others = [(noise[:, :300], NOISE), (kspace[0, :, :, 0], NAVIGATOR), (noise[:, 300:], NOISE)]
    lines[3:3] = [acquisition(*one) for one in others]
    write_acquisitions(tmp_path / "a.h5", lines, scan_xml((10, 12), (20.0, 36.0), centre=5))
    found = find_kspace(tmp_path / "a.h5")
    assert found.shape == (3, 4, 10, 12) and found.spacing() == (2.0, 3.0)
    expected = np.zeros_like(kspace)
    expected[:, :, 2:, 1::2] = kspace[:, :, 2:, 1::2]
    for k in range(3):
        np.testing.assert_allclose(found.read(k), expected[k], atol=1e-5)
    source = open_source(tmp_path / "a.h5", data_range=(0, 2.0))
    seen = to_complex(torch.stack([source[k].measurement for k in range(3)]))
    np.testing.assert_allclose(seen, np.einsum("ab,kbhw->kahw", whitening(noise), expected) / 2, atol=1e-5)


def test_samples_to_discard_are_left_out_and_repetitions_are_images(kspace, tmp_path):
    lines = [
        acquisition(
            np.pad(kspace[k, :, :, column], ((0, 0), (2, 1)), constant_values=9),
            index={"kspace_encode_step_1": column, "repetition": k},
            center_sample=7,
            discard_pre=2,
            discard_post=1,
        )
        for k in range(3)
        for column in range(12)
    ]
    write_acquisitions(tmp_path / "a.h5", lines, scan_xml((10, 12), (20, 24)))
    found = find_kspace(tmp_path / "a.h5")
    np.testing.assert_array_equal(np.stack([found.read(k) for k in range(3)]), kspace)


def test_calibration_of_another_scan_is_left_out(kspace, tmp_path):
    lines = [acquisition(kspace[0, :, :, k], index={"kspace_encode_step_1": k}) for k in range(0, 12, 2)]
    lines += [acquisition(kspace[1, :, :, k], 20, {"kspace_encode_step_1": k}) for k in range(12)]
    for mode, times in (("separate", 0), ("embedded", 1)):
        more = f"<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging>"
        write_acquisitions(tmp_path / "a.h5", lines, scan_xml((10, 12), (20, 24), more=more))
        found = find_kspace(tmp_path / "a.h5").read(0)
        np.testing.assert_array_equal(found[..., 1::2], times * kspace[1][..., 1::2])
        np.testing.assert_allclose(found[..., ::2], (kspace[0] + times * kspace[1])[..., ::2] / (1 + times), rtol=1e-6)


def test_full_lines_are_images_as_those_of_an_array(tmp_path):
    kspace = fourier(ring_of_coils(5, (40, 40)) * torch.from_numpy(brain(40, 0, 0))).to(torch.complex64).numpy()
    lines = [acquisition(kspace[:, :, k], index={"kspace_encode_step_1": k}) for k in range(40)]
    write_acquisitions(tmp_path / "a.h5", lines, scan_xml((40, 40), (80, 60)))
    np.savez(tmp_path / "b.npz", kspace=kspace)
    (found,), (expected,) = open_series(tmp_path / "a.h5"), open_arrays(tmp_path / "b.npz")
    np.testing.assert_array_equal(found.read(0), expected.read(0))
    assert found.spacing == (2.0, 1.5) and found.unit == expected.unit and found.group == "a"


def test_a_file_of_the_package_is_read(kspace, tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset") as file:
        file.write_xml_header(scan_xml((10, 12), (80, 72)).encode())
        for k in range(36):
            line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[k // 12, :, :, k % 12]))
            line.idx.slice, line.idx.kspace_encode_step_1, line.center_sample = k // 12, k % 12, 5
            file.append_acquisition(line)
        noise = ismrmrd.Acquisition.from_array(kspace[0, :, 0].copy())
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        file.append_acquisition(noise)
    found = find_kspace(tmp_path / "a.h5")
    np.testing.assert_array_equal(np.stack([found.read(k) for k in range(3)]), kspace)
    np.testing.assert_array_equal(found.about()["noise"], kspace[0, :, 0])


def test_tables_of_other_programs_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dataset/data"], file["dataset/xml"] = np.zeros(3), np.array([b"<a/>"])
    with pytest.raises(InputError, match="a.h5 cannot be read .*; wanted acquisitions of ISMRMRD"):
        open_source(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("head", "text", "said"),
    [
        ({}, {"trajectory": "radial"}, "has a trajectory that is radial; wanted Cartesian slices"),
        ({"index": {"kspace_encode_step_2": 1}}, {}, "has lines of three dimensions"),
        ({"flag": REVERSE}, {}, "has lines read backwards"),
        ({"flag": NAVIGATOR}, {}, "has no lines of an image"),
        ({"index": {"kspace_encode_step_1": 12}}, {}, "outside of the encoded 10x12 points; wanted lines of one kind inside"),
        ({"center_sample": 7}, {}, "outside of the encoded 10x12 points"),
        ({"active_channels": 7}, {}, "cannot be read .*; wanted acquisitions of ISMRMRD"),
        ({"active_channels": 5, "number_of_samples": 7, "center_sample": 3}, {}, "cannot be read .*; wanted acquisitions"),
        ({"active_channels": 60000}, {}, "says that it takes .* of memory"),
        ({}, {"more": "<!DOCTYPE a>"}, "has XML with a document type; wanted plain elements"),
        ({}, {"more": "<b>"}, "cannot be read .*; wanted XML as ISMRMRD has it"),
    ],
)
def test_lines_that_make_no_slices_are_refused(kspace, tmp_path, head, text, said):
    lines = [acquisition(kspace[0, :, :, 0], **head)]
    write_acquisitions(tmp_path / "a.h5", lines, scan_xml((10, 12), (20, 24), **text))
    with pytest.raises(InputError, match=said):
        open_source(tmp_path / "a.h5", data_range=(0, 1.0))[0]
