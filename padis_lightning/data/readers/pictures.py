"""Pictures: one, a folder or a zip of them, with the bits that they have."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from padis_lightning.data.archives import fetch, members
from padis_lightning.data.carried import Carried, carried_by, without_alpha
from padis_lightning.data.deep import GREY_ALPHA, deep_type, is_deep_tiff, read_deep
from padis_lightning.data.names import common_depth, files_below, natural
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import implied_range
from padis_lightning.data.sources.series import Reader, Series, odd_series
from padis_lightning.errors import InputError, first_few
from padis_lightning.inputs import open_picture, reading, require_pixels, require_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
GREY8, COLOUR8 = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK")
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
WHITE_IS_0, SEPARATED = 0, 5  # photometric interpretations of TIFF: 0 is white, and inks


Header = tuple[tuple[int, ...], tuple[float, float] | None]  # shape and range


class Picture(NamedTuple):
    """Names a picture of a file, or of a zip where ``member`` names one; ``place`` is its path below the folder.

    ``page`` counts the pages of a TIFF that is a volume.
    """

    path: Path
    member: str | None
    place: PurePosixPath
    page: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"


def read(path: Path, *, volumes: bool = False) -> list[Series]:
    """Return the pictures of a file, a folder or a zip.

    Each is a series of its own, named and grouped after itself, where all lie in one folder. Of pictures in sub-folders (below
    the last one that all share) each sub-folder is a series if they are alike, and the first folder below is the group.

    8 bits have the range 0 to 255 and 16 bits 0 to 65535; other numbers have none. Palettes and CMYK become RGB.

    Of ``volumes`` every folder is a series, and so is every TIFF of several pages; else pictures of a folder that cannot be read
    are odd series.
    """
    if path.is_dir():
        found = [Picture(p, None, PurePosixPath(p.relative_to(path).as_posix())) for p in files_below(path)]
    elif path.suffix.lower() == ".zip":
        found = [Picture(path, name, PurePosixPath(name)) for name in sorted(members(path), key=natural)]
    else:
        one = Picture(path, None, PurePosixPath(path.name))
        return [_series(_pages(one) if volumes else [one], path.stem, path.stem)]
    found = [p for p in found if not p.place.name.startswith(".")]
    others = [p.place.name for p in found if p.place.suffix.lower() not in SUFFIXES]
    found = [p for p in found if p.place.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{path} holds no pictures; wanted {', '.join(SUFFIXES)}")
    if others:
        note(f"{path} holds {first_few(others)} beside pictures; left out, as only {', '.join(SUFFIXES)} are read")
    headers, odd = dict[Picture, Header](), list[Series]()
    for picture in [] if volumes else found:
        try:
            headers[picture] = _header(picture)
        except InputError as error:
            odd.append(odd_series(picture.place.stem, error, picture.path))
    found = found if volumes else list(headers)
    folders: dict[tuple[str, ...], list[Picture]] = defaultdict(list)
    for picture in found:
        folders[picture.place.parts[:-1]].append(picture)
    shared = common_depth(list(folders))
    series = odd
    for folder, inside in folders.items():
        below = folder[shared:]
        if volumes:
            series += _volumes(inside, below, path.stem)
        elif below and len({headers[p] for p in inside}) == 1:
            series.append(_series(inside, "_".join(below), below[0], headers[inside[0]]))
        else:
            names = ["_".join([*below, p.place.stem]) for p in inside]
            pairs = zip(inside, names, strict=True)
            series += [_series([p], name, below[0] if below else name, headers[p]) for p, name in pairs]
    return series


def _volumes(pictures: list[Picture], below: tuple[str, ...], whole: str) -> list[Series]:
    """Return the TIFFs of several pages of one folder as a series each, and its other pictures as one."""
    paged = {p: pages for p in pictures if len(pages := _pages(p)) > 1}
    group = below[0] if below else None
    series = [_series(pages, name := "_".join([*below, p.place.stem]), group or name) for p, pages in paged.items()]
    single = [p for p in pictures if p not in paged]
    seen = list(dict.fromkeys(_header(p)[0] for p in single))
    if len(seen) > 1:
        shapes = " and ".join("x".join(map(str, shape)) for shape in seen[:2])
        raise InputError(f"{'/'.join(below) or whole} has slices of {shapes}; wanted one size for a volume")
    return series + ([_series(single, "_".join(below) or whole, group or whole)] if single else [])


def _pages(picture: Picture) -> list[Picture]:
    """Return the pages of a TIFF that has several, or the picture itself."""
    if picture.place.suffix.lower() not in (".tif", ".tiff"):
        return [picture]
    import tifffile

    with _opened(picture) as stream, tifffile.TiffFile(stream) as file:
        count, series = len(file.pages), file.series
        if count == 1 and series[0].size == file.pages[0].size:
            return [picture]
        if len(series) > 1 or count < len(series[0].pages):
            seen = f"{len(series)} kinds of pages" if len(series) > 1 else f"{count} pages of {len(series[0].pages)}"
            raise InputError(f"{picture} has {seen}; wanted a page for each slice, all alike")
        return [picture._replace(page=page) for page in range(count)]


def _series(pictures: list[Picture], name: str, group: str, header: Header | None = None) -> Series:
    shape, bounds = header or _header(pictures[0])
    files = tuple(dict.fromkeys(p.path for p in pictures))
    return Series(name, group, len(pictures), shape, partial(_values, pictures), range=bounds, files=files,
                  see_through=partial(_values, pictures, transparent=True), carried=partial(_carried, pictures))  # fmt: skip


@contextmanager
def _opened(picture: Picture) -> Iterator[BinaryIO]:
    """Open the bytes of a picture; whatever goes wrong with them becomes one sentence."""
    with (
        reading(picture, "a picture that is whole"),
        open(picture.path, "rb") if picture.member is None else io.BytesIO(fetch(picture.path, picture.member)) as stream,
    ):
        yield stream


def _header(picture: Picture) -> Header:
    """Return shape and range of a picture, without its pixels."""
    with _opened(picture) as stream:
        if picture.page is not None or _needs_tifffile(stream):
            values, _ = _tiff(stream, picture)
            return values.shape, implied_range(values.dtype, picture=True)
        kind = deep_type(stream)
        image: Image.Image = _image(stream, picture)
        deep = kind or is_deep_tiff(image)
        described = image.format != "PNG" or "exif" in image.info  # else PIL reads the whole file for it
        if described and image.getexif().get(ORIENTATION, 1) > 4:  # on its side
            image = _upright(image)
        coloured = image.mode in COLOUR8 and kind != GREY_ALPHA
        shape = (image.height, image.width, 3) if coloured else (image.height, image.width)
        dtype = "u2" if deep else "u1" if image.mode in GREY8 + COLOUR8 else "f4" if image.mode == "F" else "u2"
        return shape, implied_range(np.dtype(dtype), picture=True)


def _needs_tifffile(stream: BinaryIO) -> bool:
    """Return whether a stream is a TIFF of numbers that PIL does not know or would shorten."""
    start = stream.read(4)
    stream.seek(0)
    if start not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return False
    try:
        image = open_picture(stream, ("TIFF",))
        tags = getattr(image, "tag_v2", {})
        turned_over = tags.get(PHOTOMETRIC) == WHITE_IS_0  # which PIL leaves so where there are more than 8 bits
        known = is_deep_tiff(image) or (image.mode in (*GREY16, "F") and not turned_over)
        return image.mode == "I" or (max(tags.get(BITS, (1,))) > 8 and not known)
    except (OSError, SyntaxError, ValueError):
        return True
    finally:
        stream.seek(0)


def _tiff(stream: BinaryIO, picture: Picture) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the numbers of a TIFF as they are, (H, W) or (H, W, 3), and its alpha (H, W) where it has one."""
    import tifffile

    with tifffile.TiffFile(stream) as file:
        page = file.pages[picture.page or 0].aspage()
        if picture.page is None and len(file.pages) != 1:
            seen = f"{len(file.pages)} pages"
            raise InputError(f"{picture} has {seen}; wanted one picture a file, or --data.volumes true for a volume of them")
        require_pixels(picture, page.imagelength * page.imagewidth)
        require_size(picture, page.nbytes, 0)
        values = page.asarray()
    values = np.moveaxis(values, 0, -1) if page.planarconfig == 2 and values.ndim == 3 else values
    values = _turned(values, page.tags.valueof(ORIENTATION, 1))
    if page.photometric == WHITE_IS_0 and values.dtype.kind == "u" and values.ndim == 2:
        values = np.iinfo(values.dtype).max - values
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4) and values.dtype.kind == "u" and page.photometric != SEPARATED:
        values, alpha = without_alpha(values, premultiplied=1 in page.extrasamples)
    if values.dtype.kind not in "uif" or (values.ndim, values.shape[2:]) not in ((2, ()), (3, (3,))):
        raise InputError(f"{picture} has {values.dtype} of shape {values.shape}; wanted grey or colours of real numbers")
    return values, alpha


def _image(stream: BinaryIO, picture: Picture) -> ImageFile.ImageFile:
    """Return the picture of a stream, if it is of a kind that PIL reads unharmed."""
    stream.seek(0)
    image = open_picture(stream, FORMATS)
    if image.format in ("PNG", "TIFF", "WEBP") and (pages := getattr(image, "n_frames", 1)) > 1:
        wish = ", or --data.volumes true for a volume of them" if image.format == "TIFF" else ""
        raise InputError(f"{picture} has {pages} pages; wanted one picture a file{wish}")
    if image.mode not in (*GREY8, *COLOUR8, *GREY16, "I", "F"):
        raise InputError(f"{picture} is in the mode {image.mode}; wanted grey or RGB")
    return image


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # turns a TIFF by itself
    return ImageOps.exif_transpose(image)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return ``(H, W, ...)`` upright, by the tag of EXIF and TIFF that says where the first row and the first column lie."""
    values = values.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else values
    values = values[::-1] if orientation in (3, 4, 7, 8) else values
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _pixels(stream: BinaryIO, picture: Picture) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a picture, upright, with the bits that it has: its grey or colours, and its alpha (H, W) where it has one."""
    if picture.page is not None or _needs_tifffile(stream):
        return _tiff(stream, picture)
    deep, opened = deep_type(stream), _image(stream, picture)
    if deep or is_deep_tiff(opened):
        values = read_deep(partial(_image, stream, picture), _upright)
        if values.shape[2] != 3:
            return without_alpha(values)
        clear = _image(stream, picture).info.get("transparency")  # one colour, or none
        return values, None if clear is None else np.where((values == clear).all(-1), 0, 65535).astype(np.uint16)
    image = _upright(opened)
    clear = image.info.get("transparency")
    if image.mode not in GREY8 + COLOUR8:
        values = np.asarray(image)
        return values, None if clear is None else np.where(values == clear, 0, 65535).astype(np.uint16)
    kind, alpha = "L" if image.mode in GREY8 else "RGB", None
    if clear is not None or image.mode in ("LA", "RGBA", "PA"):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    return np.asarray(image.convert(kind)), alpha


def _values(pictures: list[Picture], k: int, transparent: bool = False) -> np.ndarray:
    """Read picture k, upright and, unless it may be transparent, opaque, float32."""
    picture = pictures[k]
    with _opened(picture) as stream:
        values, alpha = _pixels(stream, picture)
    if alpha is not None and not transparent and (clearest := alpha.min()) < np.iinfo(alpha.dtype).max:
        whole = np.iinfo(alpha.dtype).max
        raise InputError(f"{picture} is transparent in places (alpha {clearest} of {whole}); wanted an opaque picture")
    return values.astype(np.float32)


def _carried(pictures: list[Picture], k: int) -> Carried:
    """Return what picture k has besides its colours."""
    with _opened(pictures[k]) as stream:
        _, alpha = _pixels(stream, pictures[k])
        return carried_by(stream, alpha, pictures[k])


READER = Reader(
    "pictures (PNG, JPEG, TIFF, BMP, WebP, or a .zip of them)",
    (*SUFFIXES, ".zip"),
    read,
    folder="whole",
    volumes=partial(read, volumes=True),
)
