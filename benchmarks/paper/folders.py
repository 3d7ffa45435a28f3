"""Make folders of photographs laid out as BSD100 and DIV2K: squares of those that are there, or of built-in ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from padis_lightning.data.generators import PHOTOGRAPHS
from padis_lightning.files import whole

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
#: the folder of a data set, and the names and the sides (height, width) that stand in for its pictures
LAYOUTS = {
    "BSD100": ("{:03d}.png", ((321, 481), (481, 321))),
    "DIV2K_valid_HR": ("{:04d}.png", ((339, 510), (408, 510), (510, 339))),
}
FIRST = {"BSD100": 1, "DIV2K_valid_HR": 801}


def pictures(folder: Path) -> list[Path]:
    """Return the pictures of a data set in the order of their names, those of low resolution left out, however deep they lie."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if "LR" not in path.relative_to(folder).as_posix())


def square(picture: Image.Image) -> Image.Image:
    """Cut the centre square out of a picture, in colour."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.convert("RGB").crop((left, top, left + side, top + side))


def stand_in(folder: Path) -> None:
    """Write built-in photographs under the names and in the mixed shapes of a data set."""
    name, sides = LAYOUTS[folder.name]
    for k, picture in enumerate(_built_in()):
        height, width = sides[k % len(sides)]
        scale = max(height / picture.height, width / picture.width)
        larger = picture.resize((round(scale * picture.width) + 1, round(scale * picture.height) + 1), Image.Resampling.LANCZOS)
        _save(larger.crop((0, 0, width, height)), folder / name.format(FIRST[folder.name] + k))


def _built_in() -> Iterator[Image.Image]:
    import skimage.data

    for name in PHOTOGRAPHS:
        values = getattr(skimage.data, name)()
        yield Image.fromarray(np.asarray(values[0] if isinstance(values, tuple) else values))


def _save(picture: Image.Image, path: Path) -> None:
    with whole(path) as temporary:
        picture.save(temporary, format="png")


def prepare(data: Path | None, output: Path, size: int, count: int) -> None:
    """Write squares of ``size`` of the first pictures of each data set into ``output/<its name>``.

    Args:
        data: where the data sets are; those that are not are stood in for.
        output: the folder.
        size: side of the squares.
        count: pictures of each at most.
    """
    for name in LAYOUTS:
        source = data / name if data and (data / name).is_dir() else output / "built-in" / name
        if source.parent == output / "built-in" and not source.is_dir():
            stand_in(source)
        for path in pictures(source)[:count]:
            target = output / name / f"{path.stem}.png"
            if not target.is_file():
                with Image.open(path) as picture:
                    _save(square(picture).resize((size, size), Image.Resampling.LANCZOS), target)
