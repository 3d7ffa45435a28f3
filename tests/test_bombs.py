"""Files that are small and claim much, or take content from elsewhere: refused in a sentence, soon, without memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from safetensors.torch import save_file

from padis_lightning.callbacks.checkpoint_io import WholeCheckpoints
from padis_lightning.cli import main
from padis_lightning.commands.prepare.command import verify
from padis_lightning.ct import Geometry
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.readers import open_series
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.inputs import LIMIT, require_size
from padis_lightning.noise import GaussianNoise, PoissonNoise
from padis_lightning.operators.ct import FanBeam
from padis_lightning.operators.files import read_mask, read_matrix
from padis_lightning.results.report.panels import read_panels
from padis_lightning.types import Normalisation
from tests.conftest import small_model
from tests.making import dicom, lps, prepared, saved

UPRIGHT = lps(np.eye(3), (0.5, 0.75, 2.0), (0, 0, 0))
VOLUME = np.zeros((1, 4, 4), np.uint16)
SECRET = b"the content of another file " * 10
MEBI = 2**20


def zeros(count, head=b"", wbits=zlib.MAX_WBITS):
    """``head`` and ``count`` zeros, whole MiB, deflated; without the right checksum."""
    pack = zlib.compressobj(9, wbits=wbits)
    start = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(MEBI)) + pack.flush(zlib.Z_FULL_FLUSH)  # stands for itself wherever it is
    return start + count // MEBI * block + pack.flush()


def npy(shape, dtype="<f8"):
    """The header of an array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def member(path, name, head, count=0, claimed=None, **others):
    """A zip of one part that begins with ``head`` and goes on with zeros, and ``claimed`` as its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in others.items():
            archive.writestr(f"{other}.npy", content)
        with archive.open(name, "w", force_zip64=True) as part:
            part.write(head)
            for _ in range(count // MEBI):
                part.write(bytes(MEBI))
        if claimed:
            archive.getinfo(name).file_size = claimed
    return path


def bare(path, content):
    path.write_bytes(content)
    return path


def nifti(shape, offset=352.0):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = offset, b"n+1"
    return header.binaryblock + bytes(4)


def matlab(claimed, held):
    """A file of MATLAB whose only element is compressed, says that it has ``claimed`` bytes and has ``held``."""
    inner = struct.pack("<II", 14, claimed) + struct.pack("<4I", 6, 8, 6, 0) + struct.pack("<II3i4x", 5, 12, 1000, 1000, 1000)
    packed = zeros(held, inner + struct.pack("<II8s", 1, 6, b"images") + struct.pack("<II", 9, claimed - 64))
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + struct.pack("<II", 15, len(packed)) + packed


def deflated(path, count):
    """A deflated slice whose pixels go on for ``count`` bytes more."""
    plain = dicom(np.zeros((4, 4), np.uint16), UPRIGHT)
    plain.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    plain.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    begin = 144 + read_file_meta_info(path).FileMetaInformationGroupLength
    return bare(path, content[:begin] + zeros(count, zlib.decompress(content[begin:], -15), wbits=-15))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def tiff(side):
    """A TIFF of 32-bit integers, which another library reads."""
    tags = [(256, side), (257, side), (258, 32), (259, 8), (262, 1), (273, 200), (277, 1), (278, side), (279, 12), (339, 2)]
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + listed + bytes(4)).ljust(200, b"\0") + zlib.compress(b"1234")


def hdf5(path, **claimed):
    """An HDF5 file of data sets that nothing was written to."""
    with h5py.File(path, "w") as file:
        for name, shape in claimed.items():
            file.create_dataset(name, shape, "u1", chunks=(1,) * (len(shape) - 2) + (64, 64))
    return path


def rle(path):
    one = dicom(np.zeros((4, 4), np.uint16), UPRIGHT, Rows=65535, Columns=65535)
    one.file_meta.TransferSyntaxUID = RLELossless
    one.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x08\0\0\0notajp2k\xfe\xff\xdd\xe0\0\0\0\0"
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    one.save_as(path)
    return path


def compressed(path, kind):
    """A slice of 4x4 whose compressed picture is of 9000x9000."""
    stream, one = io.BytesIO(), dicom(VOLUME[0].astype(np.uint8), UPRIGHT)
    Image.new("L", (9000, 9000)).save(stream, kind)
    one.file_meta.TransferSyntaxUID = JPEG2000Lossless if kind == "JPEG2000" else JPEGBaseline8Bit
    one.PixelData = encapsulate([stream.getvalue()])
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    one.save_as(path)
    return path


def prior(path, **changes):
    """A small prior that says other things of itself."""
    model = small_model()
    described = model.describe()
    described |= {key: value for key, value in changes.items() if key in described}
    described["network_config"] |= {
        key: value for key, value in changes.items() if key in described["network_config"].keys() - described.keys()
    }
    if path.suffix == ".ckpt":
        state = {f"denoiser.{key}": value for key, value in model.denoiser.state_dict().items()}
        torch.save({"patch_model": described, "state_dict": changes.get("state", state)}, path)
    else:
        save_file(model.weights(), path, {"format": "padis_lightning prior 1", "model": json.dumps(described)})
    return path


def wide(path):
    """A checkpoint of a large network whose tensors are one number each, said again and again."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in type(small_model().denoiser.network)(base=4000).state_dict().items()}
    state = {f"denoiser.network.{key}": torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    return prior(path, base=4000, network_config={**type(small_model().denoiser.network)(base=8).plain_config, "base": 4000},
                 state=state)  # fmt: skip


def packed_checkpoint(path):
    prior(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def doubling(levels):
    """A pickle with a key that is a tuple of twice the same tuple, and so on."""
    return b"\x80\x02}(K\x00" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(levels)) + b"K\x00u."


def nested_checkpoint(path, doubled=False, deep=False):
    """A checkpoint whose keys take 2^60 steps to hash, whose lists hold 2^60 values, or whose lists are deep."""
    shape = 1
    for _ in range(200 if deep else 60):
        shape = [shape] if deep else [shape, shape]
    prior(path, **({"image_shape": shape} if deep or doubled else {}))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content if deep or doubled or not name.endswith("data.pkl") else doubling(60))
    return path


def images(path):
    data = ImageData(str(path), range=(0, 1))
    data.setup("predict")
    return [data._parts["predict"][0]]


def described(path):
    return [one.read(0) for one in open_series(path)]


def kernel(path):
    return read_matrix(str(path), "kernel")


def mask(path):
    return read_mask(str(path))


def arrays(folder, *content, **claimed):
    return member(folder / "a.npz", "images.npy", *content, **claimed)


load, resume, PRIOR, CHECKPOINT = PatchModel.load, WholeCheckpoints().load_checkpoint, "a.safetensors", "a.ckpt"
PANEL = npy((), "<U60") + json.dumps([["a", "truth", 0, 1, [], []]]).ljust(60).encode("utf-32-le")
MEMORY, WHOLE = "says that it takes .* of memory; wanted at most", "wanted .* whole"
NETWORK = {"positions": "LearnedMap", "positions_config": {"features": 2, "nodes": 10**6}}
NOISE = np.random.default_rng(0).bytes(10**6)
ARRAY = npy((10**6, 1000, 1000))
# fmt: off
BOMBS = {  # the reader, the sentence, what makes the file in an empty folder
    "npz of 10^12 values": (images, r"of \d+ bytes says that images has 8000000000128; wanted at most",
                            lambda f: arrays(f, ARRAY, claimed=8 * 10**12 + 128)),
    "npz of 10^12 values, its sizes cut": (images, "cannot be read .*bytes where shape", lambda f: arrays(f, ARRAY)),
    "npz for prepare": (described, "cannot be read .*bytes where", lambda f: arrays(f, ARRAY)),
    "npz of many pictures": (described, MEMORY, lambda f: arrays(f, npy((10 * MEBI, 1, 1), "|u1"), 10 * MEBI)),
    "npz of zeros": (images, r"a.npz.*; wanted at most", lambda f: arrays(f, npy((6000, 1000, 1000), "|u1"),
                                                       64 * MEBI, claimed=6 * 10**9 + 128)),
    "npy cut in its values": (images, "cannot be read .*bytes where shape", lambda f: bare(f / "a.npy", ARRAY + bytes(9))),
    "npy cut in its header": (images, "cannot be read", lambda f: bare(f / "a.npy", ARRAY[:70])),
    "npy of a negative side": (images, "cannot be read", lambda f: bare(f / "a.npy", npy((-1, 4, 4)) + bytes(128))),
    "npy of nothing, often": (images, "cannot be read|wanted real", lambda f: bare(f / "a.npy", npy((10**12, 4, 4), "|V0"))),
    "npy for prepare": (described, "cannot be read .*bytes where", lambda f: bare(f / "a.npy", ARRAY)),
    "kernel": (kernel, "kernel cannot be read", lambda f: bare(f / "a.npy", npy((10**6, 10**6)))),
    "kernel cut": (kernel, "kernel cannot be read", lambda f: bare(f / "a.npy", ARRAY[:70])),
    "mask": (mask, "cannot be read .*exceeds", lambda f: bare(f / "a.png", png(60000))),
    "nii": (images, f"bytes where the header names .*{WHOLE}", lambda f: bare(f / "a.nii", nifti((30000, 30000, 3000)))),
    "nii.gz": (images, MEMORY, lambda f: bare(f / "a.nii.gz", gzip.compress(nifti((3000, 3000, 3000)) + bytes(MEBI)))),
    "nii.gz with a long preface": (images, "the first 1073741824 of them for itself",
                                   lambda f: bare(f / "a.nii.gz", gzip.compress(nifti((4, 4, 4), 2.0**30) + bytes(MEBI)))),
    "nii.gz of a negative side": (images, f"cannot be read .*{WHOLE}",
                                  lambda f: bare(f / "a.nii.gz", zeros(400 * MEBI, nifti((-400, 4, 4)), 31))),
    "mat": (images, MEMORY, lambda f: bare(f / "a.mat", matlab(2**32 - 80, MEBI))),
    "mat that holds more": (images, "unpacks to more than the", lambda f: bare(f / "a.mat", matlab(10**6, 600 * MEBI))),
    "deflated DICOM": (described, "unpacks to more than the .*; wanted", lambda f: deflated(f / "a.dcm", 600 * MEBI)),
    "a wide slice": (described, "4294836225 pixels; wanted at most", lambda f: rle(f / "a.dcm")),
    "a wide picture, packed": (described, "9000x9000x1; wanted 16 values", lambda f: compressed(f / "a.dcm", "JPEG2000")),
    "the same in JPEG": (described, "9000x9000x1; wanted 16 values", lambda f: compressed(f / "a.dcm", "JPEG")),
    "png": (images, "cannot be read .*exceeds", lambda f: bare(f / "a.png", png(60000))),
    "png, less": (images, "cannot be read .*exceeds", lambda f: bare(f / "a.png", png(10000))),
    "tiff": (images, "3600000000 pixels; wanted at most|cannot be read .*exceeds", lambda f: bare(f / "a.tif", tiff(60000))),
    "zip of a picture": (images, r"holds 'a.png' of 8\d+ bytes; wanted at most 715827880",
                         lambda f: member(f / "a.zip", "a.png", NOISE, claimed=8 * 10**8)),
    "hdf5": (images, "pixels; wanted at most|of memory", lambda f: hdf5(f / "a.h5", images=(2, 10**6, 10**6))),
    "hdf5 of many": (images, MEMORY, lambda f: hdf5(f / "a.h5", images=(10**9, 64, 64))),
    "hdf5 measured": (images, MEMORY, lambda f: hdf5(f / "a.h5", y=(10**6, 1000, 1000))),
    "mat 7.3": (images, MEMORY, lambda f: hdf5(f / "a.mat", images=(10**9, 64, 64))),
    "panels": (read_panels, "says that codes0 has .*; wanted at most",
               lambda f: member(f / "a.npz", "codes0.npy", npy((10**6, 10**6), "<u2"), claimed=2 * 10**12 + 128,
                                described=PANEL)),
    "wide prior": (load, "does not fit together .*size mismatch", lambda f: prior(f / PRIOR, base=4000)),
    "endless prior": (load, "blocks is 1e[+]07; wanted a value between", lambda f: prior(f / PRIOR, blocks=10**7)),
    "endless levels": (load, "levels is 1e[+]06; wanted", lambda f: prior(f / PRIOR, multipliers=[1] * 10**6)),
    "wide beyond numbers": (load, "arguments that UNet does not take .*; wanted", lambda f: prior(f / PRIOR, base=10**30)),
    "blocks of text": (load, "blocks is 2; wanted", lambda f: prior(f / PRIOR, blocks="2")),
    "padded prior": (load, "pad .20000, 20000.; wanted", lambda f: prior(f / PRIOR, pad=[20000, 20000])),
    "cut prior": (load, "pad .-8, -8.; wanted", lambda f: prior(f / PRIOR, pad=[-8, -8])),
    "large patches": (load, "patch_sizes .1000000000.; wanted", lambda f: prior(f / PRIOR, patch_sizes=[10**9])),
    "large images": (load, "image_shape .1, 100000", lambda f: prior(f / PRIOR, image_shape=[1, 10**5, 10**5])),
    "large volumes": (load, "a canvas of \\d+ pixels; wanted at most",
                      lambda f: prior(f / PRIOR, image_shape=[1, 9000, 9000, 9000], pad=[0, 0, 0])),
    "learned map": (load, "does not fit together|size mismatch", lambda f: prior(f / PRIOR, **NETWORK)),
    "prior of any range": (load, "upper is 1e[+]300; wanted",
                           lambda f: prior(f / PRIOR, normalisation={"lower": 0, "upper": 1e300})),
    "wide checkpoint": (load, "does not fit together .*size mismatch", lambda f: prior(f / CHECKPOINT, base=4000)),
    "endless checkpoint": (load, "blocks is 1e[+]07; wanted a value between", lambda f: prior(f / CHECKPOINT, blocks=10**7)),
    "checkpoint of few numbers": (load, "has tensors of more numbers than its \\d+ bytes", lambda f: wide(f / "a.ckpt")),
    "packed checkpoint": (load, "compressed; wanted a checkpoint", lambda f: packed_checkpoint(f / "a.ckpt")),
    "checkpoint of keys": (load, "a key that is neither text nor", lambda f: nested_checkpoint(f / "a.ckpt")),
    "checkpoint of keys, resumed": (resume, "a key that is neither text nor", lambda f: nested_checkpoint(f / "a.ckpt")),
    "checkpoint of lists": (load, "more than \\d+ values", lambda f: nested_checkpoint(f / "a.ckpt", doubled=True)),
    "checkpoint of levels": (load, "more than \\d+ levels", lambda f: nested_checkpoint(f / "a.ckpt", deep=True)),
}
# fmt: on


def memory(kind):
    """MiB that this process takes now (VmRSS) or took at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind))) / 1024


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_neither_memory_nor_time(name, tmp_path):
    read, sentence, make = BOMBS[name]
    path = make(tmp_path)
    assert path.stat().st_size < 5 * MEBI
    Path("/proc/self/clear_refs").write_text("5")  # begins to count the peak again
    before, start = memory("VmRSS"), time.perf_counter()
    with pytest.raises(InputError, match=sentence) as error:
        read(path)
    assert time.perf_counter() - start < 5 and memory("VmHWM") - before < 300, memory("VmHWM") - before
    assert "; wanted " in str(error.value) and "\n" not in str(error.value)


def elsewhere(folder, kind, name="images", below=""):
    """An HDF5 file, or one of MATLAB, whose content lies in the file ``secret``, by one of HDF5's means."""
    path, secret = folder / "a.h5", bare(folder / "secret", SECRET)
    with h5py.File(path, "w") as file:
        place = file.require_group(below) if below else file
        if kind == "storage":
            place.create_dataset(name, (2, 4, 4), "u1", external=[(str(secret), 0, 32)])
        elif kind == "link":
            place[name] = h5py.ExternalLink(str(secret), "/images")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 4, 4), "u1")
            layout[:] = h5py.VirtualSource(str(secret), "images", (2, 4, 4))
            place.create_virtual_dataset(name, layout)
        if below:
            file["images"] = h5py.SoftLink(f"/{below}/{name}")
    return path


@pytest.mark.parametrize("below", ["", "inner/most"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("storage", "stored in the file '.*secret'"), ("link", "a link into the file '.*secret'"),
     ("virtual", r"a virtual data set of \['.*secret'\]")],
)  # fmt: skip
def test_no_reader_of_hdf5_reads_another_file(tmp_path, kind, sentence, below):
    path = elsewhere(tmp_path, kind, below=below)
    matlab_file = path.with_suffix(".mat")
    matlab_file.write_bytes(path.read_bytes())
    for read in (images, described, verify):
        for one in (path, matlab_file)[: 1 + (read is not verify)]:
            with pytest.raises(InputError, match=f"has '.*images', {sentence}; wanted a file that holds all of its content"):
                read(one)


def test_a_prepared_file_and_a_measurement_read_no_other_file(tmp_path, capsys):
    """Of the names and of the scan, too, and on the command line."""
    path = prepared(tmp_path / "a.h5", np.zeros((2, 4, 4), np.uint8), ["test", "test"], ["a", "b"])
    with h5py.File(path, "a") as file:
        del file["group"]
        file.create_dataset("group", (2,), "S8", external=[(str(bare(tmp_path / "secret", SECRET)), 0, 16)])
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--config", "ct20.yaml", "--model", "PseudoInverse", "--data.path", str(path), "--output", str(output)])
    assert stop.value.code == 2 and "has 'group', stored in the file" in capsys.readouterr().err and not output.exists()
    with h5py.File(path, "w") as file:
        file["y"], file["angles"] = np.ones((1, 3, 8)), h5py.ExternalLink(str(tmp_path / "secret"), "/angles")
    with pytest.raises(InputError, match="has 'angles', a link into the file"):
        images(path)


def test_links_within_a_file_are_followed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["inner/values"] = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
        file["images"], file["inner/up"] = h5py.SoftLink("/inner/values"), file["/"]  # the second is a circle
    np.testing.assert_array_equal(open_series(path)[1].read(0).ravel(), np.arange(16, 32))


def test_a_prepared_file_without_its_pixels_is_refused(tmp_path):
    path = prepared(tmp_path / "a.h5", np.zeros((1, 500, 500), np.uint8), ["test"], ["a"])
    with h5py.File(path, "r+") as file:
        beyond = file["images"].id.get_offset() + 250_000 - 2**20
    assert beyond < 0
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="wanted HDF5 that is whole|lacks"):
        images(path)


def test_the_limit_is_raised_by_the_environment(monkeypatch):
    require_size("a", 2**20, 0)
    monkeypatch.setenv(LIMIT, "0.0001")
    with pytest.raises(InputError, match="0.000977 GiB of memory; wanted at most 0.0001 GiB, or a higher"):
        require_size("a", 2**20, 0)
    require_size("a", 2**20, 2**20)  # as it is in the file
    for wrong, sentence in (("much", "is 'much'; wanted a number"), ("-1", "is -1; wanted a value above 0")):
        monkeypatch.setenv(LIMIT, wrong)
        with pytest.raises(InputError, match=f"{LIMIT} {sentence}"):
            require_size("a", 2**20, 0)


def test_numbers_beyond_sense_are_refused(tmp_path):
    for make, sentence in (
        (lambda: PoissonNoise(1e19), r"photons is 1e\+19; wanted a value between 0 and 1e\+15"),
        (lambda: PoissonNoise(electronic=1e300), r"electronic is 1e\+300; wanted"),
        (lambda: GaussianNoise(1e300), r"std is 1e\+300; wanted"),
        (lambda: Normalisation(0, 1e300), r"upper is 1e\+300; wanted"),
        (lambda: Normalisation(float("nan"), 1), "lower is nan; wanted"),
        (lambda: Normalisation(0, 1e-300), "data range is 0 to 1e-300; wanted ends that are at least 1e-15 apart"),
        (lambda: Normalisation(1e14, 1e14 + 1e6), "wanted ends that are at least 1e[+]08 apart"),
        (lambda: ImageData(range=(0, 5)), "range is .0, 5. without a path; wanted a path"),
        (lambda: ImageData(views=5), "views is 5, which built-in data do not take; wanted sinograms"),
        (lambda: FanBeam(16, views=3, bin_spacing=1e-300), "bin_spacing is 1e-300; wanted a value between 1e-15 and"),
        (lambda: FanBeam(16, views=3, pixel_spacing=1e20), r"pixel_spacing is 1e\+20; wanted"),
        (lambda: FanBeam(16, views=3, source_distance=1e300), r"source_distance is 1e\+300; wanted"),
        (lambda: FanBeam(16, views=3, bin_spacing=1, detector_distance=1e300), r"detector_distance is 1e\+300; wanted"),
        (lambda: saved(tmp_path / "a.dcm", VOLUME[0], UPRIGHT, PixelSpacing=[0, 0]) and described(tmp_path / "a.dcm"),
         "has pixels of 0 x 0 mm; wanted sides from 1e-06 to"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            make()


def test_a_geometry_is_of_the_types_that_it_says(tmp_path):
    whole = Geometry((32, 32), (0.0, 1.0), 40, 0.5, 0.25, 30.0, 30.0)
    for change, sentence in (
        ({"size": "32"}, "size '32'; wanted a number"),
        ({"size": [32, "32"]}, "size '32'; wanted a number"),
        ({"size": [10**7, 10**7]}, r"size 1e\+07; wanted a whole number of at most 1000000"),
        ({"curved": "false"}, "curved 'false'; wanted true or false"),
        ({"angles": "01"}, "angles '01'; wanted numbers"),
        ({"bins": True}, "bins True; wanted a number"),
        ({"bins": 10**400}, "cannot be used"),
        ({"pixel_spacing": 1e300}, r"pixel_spacing 1e\+300; wanted at most 1e15"),
        ({"pixel_spacing": [1]}, r"pixel_spacing \[1\]; wanted a number"),
    ):
        path = bare(tmp_path / "a.json", json.dumps({"format": whole.FORMAT, **whole.describe(), **change}).encode())
        with pytest.raises(InputError, match=sentence):
            Geometry.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Geometry.load(bare(tmp_path / "deep.json", b"[" * 10**5))


def test_the_sentence_of_a_bomb_is_that_of_the_command_line(tmp_path, capsys):
    path = prior(tmp_path / "p.safetensors", pad=[-8, -8])
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--config", "ct20.yaml", "--prior.checkpoint", str(path), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2 and "the prior has pad (-8, -8); wanted whole numbers" in capsys.readouterr().err


def test_a_picture_in_a_folder_is_held_to_the_same(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    bare(tmp_path / "b.png", png(60000))
    with pytest.raises(InputError, match="b.png cannot be read .*exceeds"):
        images(tmp_path)
