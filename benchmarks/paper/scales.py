"""Define what stands for the names in the sweep files at each scale, and what each task measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padis_lightning.machine import fast_precision

FILES = {"CT_TRAIN": "ct_train.npz", "TEST": "ct_test.npz", "FACES_TRAIN": "faces_train.zip", "FACES_TEST": "faces_test.zip"}


def _class(name: str, **settings: Any) -> str:  # noqa: ANN401 - whatever a class takes
    inner = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"{{class_path: {name}, init_args: {{{inner}}}}}"


def _small(base: int, widths: list[int], blocks: int) -> dict[str, str]:
    unet = _class("UNet", channels=1, base=base, multipliers=[1, 2, 2][: len(widths)], blocks=blocks, fold=2)
    drunet = _class("DRUNet", channels=3, widths=widths, blocks=blocks, fold=2, positions=2)
    return {"NETWORK": unet, "WHOLE_NETWORK": unet, "FACES_NETWORK": drunet, "FACES_WHOLE_NETWORK": drunet}


def _ddpmpp(channels: int, multipliers: list[int]) -> str:
    return _class("DDPMpp", channels=channels, base=128, multipliers=multipliers, blocks=4, dropout=0.05)


PAPER = {
    "NETWORK": _ddpmpp(1, [1, 2, 2, 2]), "WHOLE_NETWORK": _ddpmpp(1, [1, 2, 2, 4]),
    "FACES_NETWORK": _ddpmpp(3, [1, 2, 2, 2]), "FACES_WHOLE_NETWORK": _ddpmpp(3, [1, 2, 2, 4]),
    "SIZE": 256, "LARGE": 512, "PHOTO": 256, "COUNT": 25, "BATCH": 5, "TUNING_COUNT": 8, "GENERATED": 2304,
    "CT_FIT": "ct256.yaml", "FACES_FIT": "faces256.yaml", "PRECISION": "32-true",
    "PATCH_SIZES": "[16, 32, 56]", "PATCH_ODDS": "[0.2, 0.3, 0.5]", "PATCHES": 64, "TRAIN_BATCH": 32,
    "FACES_SIZES": "[16, 32, 56]", "FACES_ODDS": "[0.2, 0.3, 0.5]", "FACES_PATCHES": 64,
    "SMALL_SIZES": "[8, 16, 32]", "SMALL_ODDS": "[0.2, 0.3, 0.5]", "SMALL_PATCHES": 196,
    "BIG_SIZES": "[32, 64, 96]", "BIG_ODDS": "[0.2, 0.3, 0.5]", "BIG_PATCHES": 22,
    "LARGE_SIZES": "[16, 32, 64]", "LARGE_ODDS": "[0.2, 0.3, 0.5]", "LARGE_PATCHES": 49,
    "STEPS": 200000, "SHORT_STEPS": 200000, "FACES_STEPS": 200000, "HALF_LIFE": 500000,
    "WHOLE_STEPS": 400000, "WHOLE_SHORT_STEPS": 400000, "FACES_WHOLE_STEPS": 400000,
    "WHOLE_BATCH": 4, "FACES_WHOLE_BATCH": 4, "WHOLE_HALF_LIFE": 50000,
    "LEVELS": 100, "INNER": 10, "PC_LEVELS": 500, "OVERLAP": 8, "SOME": 3, "FEW": 1,
    "BLUR": 9, "HEAVY": 17, "FAN": 180, "STROKE": 9, "SMALL_STROKE": 9,
    "SCORE_STEPS": 50, "CT_MAX": 10, "CT20_MIN": 0.002, "CT8_MIN": 0.003, "FACES_MAX": 40, "BLUR_MIN": 0.005, "SR_MIN": 0.01,
}  # fmt: skip
#: two processor cores, 128x128, networks of two million weights, trained as long as ct.yaml and faces128.yaml say
CPU = PAPER | _small(64, [64, 96, 160], 2) | {
    "SIZE": 128, "LARGE": 256, "COUNT": 12, "BATCH": 6, "TUNING_COUNT": 6, "GENERATED": 1000,
    "CT_FIT": "ct.yaml", "FACES_FIT": "faces128.yaml", "PRECISION": None,
    "PATCH_SIZES": "[24, 48]", "PATCH_ODDS": "[0.3, 0.7]", "PATCHES": 8, "TRAIN_BATCH": 8,
    "FACES_SIZES": "[48]", "FACES_ODDS": "[1.0]", "FACES_PATCHES": 14,
    "SMALL_SIZES": "[16, 24]", "SMALL_ODDS": "[0.3, 0.7]", "SMALL_PATCHES": 32,
    "BIG_SIZES": "[32, 72]", "BIG_ODDS": "[0.3, 0.7]", "BIG_PATCHES": 4,
    "LARGE_SIZES": "[32, 64]", "LARGE_ODDS": "[0.3, 0.7]", "LARGE_PATCHES": 4,
    "STEPS": 9000, "SHORT_STEPS": 2000, "FACES_STEPS": 9000, "HALF_LIFE": 20000,
    "WHOLE_STEPS": 9000, "WHOLE_SHORT_STEPS": 2000, "FACES_WHOLE_STEPS": 9000,
    "WHOLE_BATCH": 1, "FACES_WHOLE_BATCH": 2, "WHOLE_HALF_LIFE": 2500,
    "LEVELS": 50, "INNER": 3, "PC_LEVELS": 75, "FAN": 90, "SOME": 10, "FEW": 3, "SMALL_STROKE": 5,
    "SCORE_STEPS": 20, "CT_MAX": 1, "FACES_MAX": 1,
}  # fmt: skip
#: one GPU, the same with more images and longer training
GPU = CPU | {
    "COUNT": 19, "BATCH": 19, "PATCHES": 32, "TRAIN_BATCH": 32, "FACES_PATCHES": 56, "SMALL_PATCHES": 128, "BIG_PATCHES": 14,
    "LARGE_PATCHES": 18, "WHOLE_BATCH": 4, "FACES_WHOLE_BATCH": 8, "STEPS": 20000, "SHORT_STEPS": 5000,
    "WHOLE_STEPS": 20000, "WHOLE_SHORT_STEPS": 5000, "LEVELS": 100, "INNER": 10, "PC_LEVELS": 500,
}  # fmt: skip
#: seconds: figures mean nothing
TEST = CPU | _small(8, [8, 8], 1) | {
    "SIZE": 40, "LARGE": 64, "PHOTO": 48, "COUNT": 2, "BATCH": 2, "TUNING_COUNT": 1, "GENERATED": 10, "PRECISION": "32-true",
    "PATCH_SIZES": "[8, 12]", "FACES_SIZES": "[12]", "SMALL_SIZES": "[4, 8]", "BIG_SIZES": "[8, 16]", "LARGE_SIZES": "[8, 24]",
    "PATCHES": 4, "TRAIN_BATCH": 2, "FACES_PATCHES": 4, "SMALL_PATCHES": 4, "BIG_PATCHES": 2, "LARGE_PATCHES": 2,
    "STEPS": 3, "SHORT_STEPS": 3, "FACES_STEPS": 3, "WHOLE_STEPS": 3, "WHOLE_SHORT_STEPS": 3, "FACES_WHOLE_STEPS": 3,
    "SCORE_STEPS": 2, "LEVELS": 3, "INNER": 2, "PC_LEVELS": 3, "OVERLAP": 4, "SOME": 3, "FEW": 2, "STROKE": 5, "SMALL_STROKE": 3,
    "BLUR": 5, "HEAVY": 9, "FAN": 20,
}  # fmt: skip
SCALES: dict[str, dict[str, Any]] = {"paper": PAPER, "gpu": GPU, "cpu": CPU, "test": TEST}

#: seconds that a plan counts with: starting a row, a training step, an evaluation of one image
COSTS = {
    "paper": (20, 0.35, 0.03),
    "gpu": (15, 0.04, 0.002),
    "cpu": (12, 0.18, 0.06),
    "test": (8, 0.05, 0.005),
}

#: configs, views or blur, levels, and the weight of total variation that the shipped config has
CT_TASKS = {
    "ct20": ("ct20.yaml", 20, "CT20_MIN", 2e-5),
    "ct8": ("ct8.yaml", 8, "CT8_MIN", 8e-5),
    "ct60": ("ct60.yaml", 60, "CT20_MIN", 2e-6),
}
TITLES = {
    "ct20": "CT, 20 views",
    "ct8": "CT, 8 views",
    "deblur": "deblurring",
    "sr4x": "super-resolution, 4 times",
    "ct60": "CT, 60 views",
    "ct_fan": "CT, fan beam",
    "deblur_heavy": "heavy deblurring",
}


def variables(scale: str, data: Path | None, output: Path) -> dict[str, str]:
    """Return what stands for each name of a scale.

    Args:
        scale: one of :data:`SCALES`.
        data: the folder of images, or None for generated ones.
        output: the folder of results.
    """
    values = SCALES[scale] | {"PRECISION": SCALES[scale]["PRECISION"] or fast_precision("auto")}
    files = {name: str(data / file) if data else "null" for name, file in FILES.items()}
    places = {"PRIORS": str(output / "priors"), "FOLDERS": str(output / "folders")}
    strokes = {"STROKES": ("PHOTO", "STROKE"), "SMALL_STROKES": ("SIZE", "SMALL_STROKE")}
    operators = {
        name: _class("IrregularInpainting", image_shape=[3, values[size], values[size]], width=values[width])
        for name, (size, width) in strokes.items()
    }
    return {name: str(value) for name, value in (values | files | places | operators).items()}


def task(name: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return what stands for the names that differ from task to task.

    Args:
        name: one of :data:`TITLES`, or ``large`` for 60 views of the larger images.
        values: those of :func:`variables`.
    """
    if name in ("deblur", "deblur_heavy", "sr4x"):
        return _faces(name, values)
    size = values["LARGE" if name == "large" else "SIZE"]
    config, views, lowest, weight = CT_TASKS.get("ct60" if name == "large" else name, ("ct_fan.yaml", 0, "CT20_MIN", 4e-6))
    operator = _class("ParallelBeam", size=size, views=views)
    if name == "ct_fan":
        operator = _class("FanBeam", size=size, views=values["FAN"])
    own = {"CONFIG": config, "OPERATOR": operator, "PRIOR": "ct", "BUILTIN": "phantoms", "NOISE": "0.0"}
    own |= {"SIGMA_MAX": values["CT_MAX"], "SIGMA_MIN": values[lowest], "TRAIN": values["CT_TRAIN"]}
    own["OVERSAMPLING"] = "2" if name == "ct_fan" else "1"  # the paper's: the operator that reconstructs also simulates
    return own | _weights(weight)


def _faces(name: str, values: Mapping[str, str]) -> dict[str, str]:
    shape = [3, int(values["SIZE"]), int(values["SIZE"])]
    operator, weight, lowest = _class("AveragePooling", image_shape=shape, factor=4), 5e-3, "SR_MIN"
    if name != "sr4x":
        side = values["HEAVY" if name == "deblur_heavy" else "BLUR"]
        operator, lowest = _class("UniformBlur", image_shape=shape, size=side), "BLUR_MIN"
        weight = 7e-4 if name == "deblur_heavy" else 1e-3
    own = {"CONFIG": f"{name}.yaml", "OPERATOR": operator, "PRIOR": "faces", "BUILTIN": "leaves", "NOISE": "0.01"}
    own |= {"OVERSAMPLING": "1", "SIGMA_MAX": values["FACES_MAX"], "SIGMA_MIN": values[lowest]}
    return own | {"TRAIN": values["FACES_TRAIN"], "TEST": values["FACES_TEST"]} | _weights(weight)


def _weights(weight: float) -> dict[str, str]:
    """Return the weights of total variation that are tried; the shipped one is the second."""
    return {f"TV_{k}": f"{weight * factor:.3g}" for k, factor in ((1, 0.3), (2, 1), (3, 3), (4, 10))}
