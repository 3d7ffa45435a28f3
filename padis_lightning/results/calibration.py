"""How large errors are, counted where the truth is known: intervals and risks that mean what they say."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padis_lightning.errors import InputError
from padis_lightning.files import whole
from padis_lightning.inputs import load_array, reading
from padis_lightning.results.pictures import ImageResult

SPREADS = 2.0 ** np.arange(-12, 0)  # deviations of samples between which pixels are alike
VALUES = np.array([0.005, 0.02, 0.05, *np.linspace(0, 1, 9)[1:-1]])  # of the estimate; air and lung lie near 0
SLOPES = np.array([0.01, 0.03, 0.1])  # gradients of the estimate, a pixel
STEP = 0.25  # of the logarithm of ratios
RATIOS = 2.0 ** np.arange(-20, 12 + STEP, STEP)  # errors over deviations
PARTS = np.array([3 / 8, 5 / 8])  # of the truth: what is dark, in the middle and bright
SHAPE = (len(SPREADS) + 1, len(VALUES) + 1, len(SLOPES) + 1, len(RATIOS) + 1, len(PARTS) + 1)
PSEUDO = 200.0  # pixels of a wider kind that a kind of pixels begins with
MOST, ROUNDS, GAIN = 3.0, 30, 4.0  # how much more or less a part of the truth may count; how its weight is found

log = logging.getLogger(__name__)


def spread_of(estimate: Tensor, samples: Tensor | None) -> Tensor:
    """Return the deviation of samples ``(K, C, ..., H, W)``, its square averaged over 3 pixels along each axis; 1 for None."""
    if samples is None:
        return torch.ones_like(estimate)
    mean = functional.avg_pool3d if estimate.ndim == 4 else functional.avg_pool2d
    variance = mean(samples.float().var(0), 3, stride=1, padding=1, count_include_pad=False)
    return variance.sqrt().clamp_min(float(SPREADS[0]) / 2)


def _kinds(estimate: Tensor, spread: Tensor) -> Tensor:
    """Return the number of the kind of each pixel ``(C, ..., H, W)``: by spread, value and slope."""
    slope = torch.stack([part.float() for part in torch.gradient(estimate.float(), dim=(-2, -1))]).square().sum(0).sqrt()
    kind = torch.zeros_like(estimate, dtype=torch.long)
    for feature, edges in ((spread, SPREADS), (estimate, VALUES), (slope, SLOPES)):
        kind = kind * (len(edges) + 1) + torch.bucketize(feature.double(), torch.from_numpy(edges).to(estimate.device))
    return kind


def count_errors(estimate: Tensor, samples: Tensor | None, truth: Tensor) -> np.ndarray:
    """Count the pixels of an image ``(C, ..., H, W)`` by spread, value and slope of the estimate, error over spread, and truth.

    Args:
        estimate: normalised, as the truth.
        samples: ``(K, C, ..., H, W)``, or None where one was drawn.
        truth: what was to be found.
    """
    spread = spread_of(estimate, samples)
    ratio = (truth - estimate).abs().double() / spread
    flat = _kinds(estimate, spread)
    for feature, edges in ((ratio, RATIOS), (truth.double(), PARTS)):
        flat = flat * (len(edges) + 1) + torch.bucketize(feature, torch.from_numpy(edges).to(feature.device))
    return torch.bincount(flat.flatten(), minlength=int(np.prod(SHAPE))).reshape(SHAPE).cpu().numpy()


@dataclass(frozen=True)
class Calibration:
    r"""Holds how errors were distributed where the truth was known, and says of other images how large theirs are.

    Pixels are of one kind where the spread s of the samples, the value and the slope of the estimate are alike. The interval of
    level l of a pixel of kind k is

    .. math:: \hat x \pm q_k(l) \, s, \quad q_k(l) = \text{the smallest } q \text{ with } |x - \hat x| \le q s
        \text{ for a share of at least } l (n_k + 1) / n_k

    of the :math:`n_k` counted pixels, to which pixels of wider kinds are added as if there were :data:`PSEUDO` of them. So
    intervals hold a share l of the pixels of each kind, on average over images that are drawn like those that were counted; a
    single image or patient may have more or less.

    What is rare, such as bone, is held less often than l by this, since nothing in the estimate tells all of it from what is
    around. So a pixel counts :math:`w_j` times whose truth is dark, in the middle or bright (edges :data:`PARTS`):

    .. math:: w_j \leftarrow w_j \, e^{4 (l - h_j)}, \quad \tfrac{1}{3} \le w_j \le 3

    with :math:`h_j` the share of part j that intervals hold, until each part is held as often as l or has its largest weight.

    Source: Vovk, Lindsay, Nouretdinov and Gammerman, Mondrian confidence machine, 2003; Angelopoulos and Bates, A gentle
    introduction to conformal prediction, Foundations and Trends in Machine Learning 2023.

    Args:
        counts: pixels by kind, by error over spread, and by part of the truth, :data:`SHAPE`.
        settings: those of the run that they were counted in.
    """

    counts: np.ndarray
    settings: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: there is no such file, or it is another one.
        """
        if not path.is_file():
            raise InputError(f"there is no file {str(path)!r}; wanted the calibration.npz of predict --results.calibrate true")
        with reading(path, "the calibration.npz of predict --results.calibrate true"):
            counts, settings = load_array(path, "counts"), json.loads(str(load_array(path, "settings")))
            words = isinstance(settings, dict) and all(isinstance(value, str) for value in settings.values())
            if counts.shape != SHAPE or counts.dtype.kind != "i" or counts.min() < 0 or not counts.any() or not words:
                raise ValueError("its counts have another shape, or its settings are no words")
        return cls(counts, settings)

    def save(self, path: Path) -> None:
        """Write it whole."""
        with whole(path) as temporary, open(temporary, "wb") as handle:
            np.savez_compressed(handle, counts=self.counts, settings=json.dumps(self.settings, sort_keys=True))

    def _shares(self, weights: np.ndarray) -> np.ndarray:
        """Return the share of the errors of every kind below each of :data:`RATIOS`, ``(kinds, ratios)``."""
        counted = self.counts @ weights
        shares = counted.sum((0, 1, 2)) / counted.sum()
        for axes in ((1, 2), (2,), ()):
            counts = counted.sum(axes, keepdims=True) if axes else counted
            shares = (counts + PSEUDO * shares) / (counts.sum(-1, keepdims=True) + PSEUDO)
        return np.broadcast_to(shares, SHAPE[:-1]).reshape(-1, SHAPE[-2]).cumsum(-1)[:, :-1]

    @cached_property
    def _plain_shares(self) -> np.ndarray:
        """Return the shares with every pixel as one."""
        return self._shares(np.ones(SHAPE[-1]))

    @cached_property
    def _widths(self) -> dict[float, np.ndarray]:
        """Return what is known of half the interval of each kind, over the spread, by level."""
        return {}

    def _widths_of(self, level: float) -> np.ndarray:
        """Return half the interval of each kind, over the spread, ``(kinds,)``."""
        errors = self.counts.reshape(-1, *SHAPE[-2:])
        numbers = errors.sum((1, 2)) + PSEUDO
        levels, below = np.minimum(level * (numbers + 1) / numbers, 1), errors.cumsum(1)
        weights, parts, kinds = np.ones(SHAPE[-1]), errors.sum((0, 1)), np.arange(len(errors))
        for _ in range(ROUNDS):
            shares = self._shares(weights)
            places = np.array([np.interp(at, row, np.arange(len(RATIOS))) for at, row in zip(levels, shares, strict=True)])
            lower = places.astype(int).clip(max=len(RATIOS) - 2)
            upper = (places - lower)[:, None]
            held = ((1 - upper) * below[kinds, lower] + upper * below[kinds, lower + 1]).sum(0)
            gap = (level * parts - held) / (parts + PSEUDO)
            weights = (weights * np.exp(GAIN * gap)).clip(1 / MOST, MOST)
        return RATIOS[0] * 2.0 ** (STEP * places)

    def half_width(self, estimate: Tensor, samples: Tensor | None, level: float = 0.9) -> Tensor:
        """Return half the interval of each pixel, normalised, ``(C, ..., H, W)``."""
        if level not in self._widths:
            self._widths[level] = self._widths_of(level)
        spread = spread_of(estimate, samples)
        return torch.from_numpy(self._widths[level]).to(spread)[_kinds(estimate, spread)] * spread

    def risk(self, estimate: Tensor, samples: Tensor | None, size: float) -> Tensor:
        """Return the probability of each pixel that its error is larger than ``size``, normalised: ``(C, ..., H, W)``."""
        spread = spread_of(estimate, samples)
        place = (torch.log2(size / spread.double()) - np.log2(RATIOS[0])) / STEP
        place = place.clamp(0, len(RATIOS) - 1)
        lower = place.floor().long().clamp_max(len(RATIOS) - 2)
        shares, kinds = torch.from_numpy(self._plain_shares).to(spread.device), _kinds(estimate, spread)
        below = torch.lerp(shares[kinds, lower], shares[kinds, lower + 1], place - lower)
        return (1 - below).to(spread)

    def applied(self, result: ImageResult, large: float) -> ImageResult:
        """Return a result with its intervals, and with the risk of errors larger than ``large``, normalised.

        Of complex images they are those of the magnitude.
        """
        seen = result.shown
        estimate, samples = seen.estimate.float(), seen.samples
        return result._replace(interval=self.half_width(estimate, samples), risk=self.risk(estimate, samples, large), large=large)

    def check(self, settings: dict[str, str]) -> None:
        """Refuse a calibration of another prior, solver or number of samples; say what else of the run was different.

        Raises:
            InputError: with the first difference.
        """
        differing = [key for key in dict.fromkeys((*self.settings, *settings)) if self.settings.get(key) != settings.get(key)]
        for key in ("weights", "solver", "model.init_args.samples"):
            if key in differing:
                theirs, ours = (f"{one.get(key, 'not set'):.12}" for one in (self.settings, settings))
                raise InputError(f"the calibration was made with {key} {theirs} and this run has {ours}; wanted the same")
        same = all(self.settings.get(key) == settings.get(key) for key in ("data.init_args.path", "data.init_args.subset"))
        if same and settings.get("data.init_args.path", "null") != "null":
            log.warning("padis_lightning: the calibration was made on the same images, so that it says too little; wanted others")
        changed = [key for key in differing if key.split(".")[0] in ("model", "operator", "prior", "noise", "oversampling")]
        if changed:
            said = "padis_lightning: the calibration was made with other %s; its intervals may not hold here"
            log.warning(said, ", ".join(changed))


def gather_counts(folder: Path, names: Sequence[str], settings: dict[str, str]) -> None:
    """Sum what images of a result folder left under ``calibration/``, where they did, into its ``calibration.npz``."""
    files = [path for name in names if (path := folder / "calibration" / f"{name}.npz").is_file()]
    if files:
        counts = np.sum([Calibration.read(path).counts for path in files], 0)
        Calibration(counts, settings).save(folder / "calibration.npz")
