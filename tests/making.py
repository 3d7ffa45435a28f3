"""Files of every kind, small, as scanners and people write them."""

from __future__ import annotations

import h5py
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
INDEX = ["kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set", "segment"]
HEAD = [  # of an acquisition of ISMRMRD, as the standard lists it
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"), ("acquisition_time_stamp", "<u4"),
    ("physiology_time_stamp", "<u4", 3), ("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2"),
    ("channel_mask", "<u8", 16), ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"),
    ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", 3),
    ("read_dir", "<f4", 3), ("phase_dir", "<f4", 3), ("slice_dir", "<f4", 3), ("patient_table_position", "<f4", 3),
    ("idx", [*[(name, "<u2") for name in INDEX], ("user", "<u2", 8)]), ("user_int", "<i4", 8), ("user_float", "<f4", 8),
]  # fmt: skip


def rotation(a: float, b: float, c: float) -> np.ndarray:
    """A rotation about three axes, (3, 3)."""
    out = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = out @ turn
    return out


def lps(turn: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """The affine from (row, column, slice, 1) of a turned stack, (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = turn @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]]) @ np.diag(spacing)
    out[:3, 3] = origin
    return out


def dicom(pixels: np.ndarray, affine: np.ndarray, k: int = 0, **tags: object) -> FileDataset:
    """Slice ``k`` of a stack: stored integers ``(H, W)``, HU = 2 stored - 1024; tags of None are left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :2] / spacing[:2]
    signed = pixels.dtype.kind == "i"
    described = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PatientID": "patient", "StudyInstanceUID": "1.2.3", "SeriesNumber": 4,
        "SeriesInstanceUID": "1.2.3.4", "InstanceNumber": 100 - k, "Rows": pixels.shape[-2], "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": int(signed),
        "BitsAllocated": 8 * pixels.itemsize, "BitsStored": 8 * pixels.itemsize, "HighBit": 8 * pixels.itemsize - 1,
        "RescaleSlope": 2, "RescaleIntercept": -1024, "SliceThickness": float(spacing[2]),
        "PixelSpacing": [round(float(s), 12) for s in spacing[:2]],
        "ImageOrientationPatient": [round(float(v), 12) for v in np.concatenate([directions[:, 1], directions[:, 0]])],
        "ImagePositionPatient": [round(float(v), 10) for v in affine[:3, 3] + k * affine[:3, 2]],
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
    } | tags  # fmt: skip
    for name, value in described.items():
        if value is not None:
            setattr(out, name, value)
    if "PixelData" in out:
        out["PixelData"].VR = "OW"
    return out


def write_stack(folder, volume: np.ndarray, affine: np.ndarray, seed: int = 0, **tags: object) -> list:
    """A slice a file, ``volume`` ``(n, H, W)``, under names in another order than the slices; paths by slice."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = np.random.default_rng(seed).permutation(len(volume))
    paths = [folder / f"IM{place:03d}" for place in shuffled]
    for k, path in enumerate(paths):
        dicom(volume[k], affine, k, **tags).save_as(path)
    return paths


def enhanced(volume: np.ndarray, affine: np.ndarray, order: list[int]) -> FileDataset:
    """All slices in one file, in an order of its own, with what they share said once."""
    out = dicom(volume[order], affine, NumberOfFrames=len(order), SOPClassUID=EnhancedCTImageStorage)
    shared, frames = Dataset(), []

    def said(group: Dataset, sequence: str, **values: object) -> None:
        inner = Dataset()
        for name, value in values.items():
            setattr(inner, name, value)
        setattr(group, sequence, [inner])

    said(shared, "PixelMeasuresSequence", PixelSpacing=out.PixelSpacing, SliceThickness=out.SliceThickness)
    said(shared, "PlaneOrientationSequence", ImageOrientationPatient=out.ImageOrientationPatient)
    for k in order:
        group = Dataset()
        said(group, "PlanePositionSequence", ImagePositionPatient=dicom(volume[k], affine, k).ImagePositionPatient)
        said(group, "PixelValueTransformationSequence", RescaleSlope=k + 1, RescaleIntercept=-1000, RescaleType="HU")
        frames.append(group)
    for name in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope"):
        delattr(out, name)
    out.SharedFunctionalGroupsSequence, out.PerFrameFunctionalGroupsSequence = [shared], frames
    return out


def prepared(path, images: np.ndarray, parts: list[str], groups: list[str], **changes: object):
    """A file as ``prepare`` writes it; attributes or arrays of None are left out."""
    count = len(images)
    attributes = {"format": "padis_lightning", "version": 1, "slope": 0.5, "intercept": -1000.0, "units": "HU",
                  "range": [-1000.0, 1000.0], "window": [-1000.0, 1000.0], "manifest": "{}"}  # fmt: skip
    affine = np.full((count, 4, 4), np.nan)
    affine[0] = lps(np.eye(3), (0.5, 0.75, 2), (1, 2, 3))
    arrays = {"images": images, "name": [f"slice {k}" for k in range(count)], "group": groups, "part": parts, "affine": affine}
    with h5py.File(path, "w") as file:
        for key, value in (attributes | {k: v for k, v in changes.items() if k in attributes}).items():
            if value is not None:
                file.attrs[key] = value
        for key, value in (arrays | {k: v for k, v in changes.items() if k in arrays}).items():
            if value is not None:
                file.create_dataset(key, data=value, chunks=changes.get("chunks") if key == "images" else None)
    return path


def saved(path, *args, made=None, **tags):
    """One DICOM file of pixels, or of what was made of them; its path."""
    (made or dicom(*args, **tags)).save_as(path)
    return path


def write(path, attributes=(), **arrays):
    """A ``.npz``, or an HDF5 file with some of the keys as attributes, but for arrays of None; its path."""
    arrays = {key: value for key, value in arrays.items() if value is not None}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            (file.attrs if key in attributes else file)[key] = value
    return path


def scan_xml(matrix: tuple, field: tuple, centre: int | None = None, trajectory: str = "cartesian", more: str = "") -> str:
    """What is read of ISMRMRD's description of a scan, in a name space as its writers have it."""
    sizes, lengths = (f"<x>{x}</x><y>{y}</y><z>1</z>" for x, y in (matrix, field))
    space = f"<matrixSize>{sizes}</matrixSize><fieldOfView_mm>{lengths}</fieldOfView_mm>"
    line = f"<minimum>0</minimum><center>{matrix[1] // 2 if centre is None else centre}</center>"
    limits = f"<encodingLimits><kspace_encoding_step_1>{line}</kspace_encoding_step_1></encodingLimits>"
    encoding = f"<encodedSpace>{space}</encodedSpace>{limits}<trajectory>{trajectory}</trajectory>{more}"
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>{encoding}</encoding></ismrmrdHeader>'


def acquisition(line: np.ndarray, flag: int = 0, index: dict | None = None, **head: int) -> tuple[np.void, np.ndarray]:
    """One line ``(coils, samples)`` of ISMRMRD: the number of its flag, or 0; its indices, and what else its head has."""
    made = np.zeros((), HEAD)
    made["active_channels"], made["number_of_samples"] = line.shape
    made["flags"], made["center_sample"] = flag and 1 << flag - 1, line.shape[1] // 2
    for name, value in head.items():
        made[name] = value
    for name, value in (index or {}).items():
        made["idx"][name] = value
    return made[()], np.ascontiguousarray(line, np.complex64).view(np.float32).ravel()


def write_acquisitions(path, acquired: list, text: str) -> None:
    """A file of ISMRMRD with these lines and this description."""
    numbers = h5py.vlen_dtype(np.dtype("<f4"))
    table = np.empty(len(acquired), [("head", HEAD), ("traj", numbers), ("data", numbers)])
    for i, (head, values) in enumerate(acquired):
        table[i] = head, np.zeros(0, np.float32), values
    with h5py.File(path, "w") as file:
        file["dataset/data"] = table
        file.create_dataset("dataset/xml", data=[text.encode()], dtype=h5py.string_dtype())
