"""Reconstruct, denoise and simulate arrays and tensors, without a file, a config or a trainer.

Values are those of the caller: ``range`` names the two that stand for 0 and 1 of the prior, (0, 1) unless said otherwise.
Images and measurements come as ``(C, H, W)``, ``(H, W, C)`` or, of one channel, ``(H, W)``, and with an axis of several in
front. Those of MRI may be complex, with half as many channels: k-space ``(coils, H, W)`` and images ``(H, W)``. What is
returned has the axes, the kind (array or tensor), the units and the device of what was given, and single precision.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from padis_lightning.ct import Geometry
from padis_lightning.data.conventions import Named
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import calibrate, decide_measured, implied_range
from padis_lightning.data.sources.measurements import corrected_integrals
from padis_lightning.data.sources.pictures import NOISY
from padis_lightning.errors import InputError, RunError, require_at_least
from padis_lightning.layout import Layout, Values, dtype_of, lay_out
from padis_lightning.loading import load_prior
from padis_lightning.noise import GaussianNoise, Noise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import Scan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.pixels import PixelOperator
from padis_lightning.priors import Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.registry import subclasses
from padis_lightning.solvers import Solver
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.solvers.base import MEASURE
from padis_lightning.types import Batch, Normalisation, pair_of

Pair = tuple[float, float]
Measured = Geometry | LinearOperator | Problem

FAR, FAINT = 2.0, 0.005  # times what images from 0 to 1 have at most, beyond which a measurement is of others, or may be
HERE = Path("the measurement")  # what sentences speak of


@dataclass(frozen=True, eq=False)
class Result(Generic[Values]):
    """Holds what :func:`reconstruct` has found, in the units of the measured image.

    Where several measurements were given, ``residual`` and ``noise_std`` have a number for each.

    Attributes:
        image: the estimate, an array or a tensor as the measurement is: the mean of the samples where there are several.
        residual: :math:`||y - A x|| / ||y||`; of a y of zeros the root mean square of A x.
        seconds: wall-clock time an image.
        evaluations: of the network, of a whole image, for each.
        noise_std: the noise that the data were weighed by, named or estimated, in the units of the measurement; where it differs
            from entry to entry, the root of the harmonic mean of its squares.
        range: the values that are 0 and 1 to the prior.
        samples: with ``samples=K`` these, K on the axis in front of an image's; else None.
    """

    image: Values
    residual: float | list[float]
    seconds: float
    evaluations: int
    noise_std: float | list[float]
    range: Pair
    samples: Values | None = None


def reconstruct(
    measurement: Values,
    operator: Measured,
    prior: Prior | nn.Module | str = "objects",
    solver: type[Solver] | str | None = None,
    noise_std: float | None = None,
    *,
    range: Pair | None = None,  # noqa: A002 - the word that users type
    **options: Any,  # noqa: ANN401 - checked and named by the solver
) -> Result[Values]:
    """Reconstruct images from measurements, as ``predict`` does from a file, with the same bits.

    >>> import numpy as np
    >>> import padis_lightning as pl
    >>> disc = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.6
    >>> scan = pl.ParallelBeam(size=64, views=12)
    >>> sinogram = pl.simulate(disc, scan, noise_std=0.05)
    >>> found = pl.reconstruct(sinogram, scan, noise_std=0.05, steps=10)
    >>> found.image.shape, found.evaluations
    ((64, 64), 10)
    >>> plain = pl.reconstruct(sinogram, scan, solver="PseudoInverse").image
    >>> bool(np.square(found.image - disc).mean() < np.square(plain - disc).mean() / 4)
    True

    Args:
        measurement: y, or several.
        operator: A, or a problem, whose noise is that of images from 0 to 1. Or the geometry of a flat scan: then y are the line
            integrals of a detector, ``(views, bins)`` or ``(n, views, bins)``, whose bad bins and drift are corrected as those
            of a file are.
        prior: a bundled one (``objects``, ``ct_phantoms``, ``photographs``, ``brains``, of volumes ``ct_slices``), a file of a
            prior, one in memory, or a module that takes images and their noise, as
            :class:`padis_lightning.priors.DenoiserPrior` does.
        solver: a class or its name (default: ``PnPADMM``, with levels that follow from the measurement).
        noise_std: deviation of the noise, in the units of y (default: of scans, k-space and pictures it is estimated).
        range: values of the image that are 0 and 1 to the prior (default: of a geometry 0 and what a quick reconstruction
            hardly exceeds, of integers of 8 and 16 bits that are pictures all of theirs, else 0 and 1). Measurements other than
            pictures take a range from 0; the magnitudes of MRI shall reach from 0 to about 1 then.
        options: those of the solver, such as ``steps``, ``samples`` and ``seed``; its levels are of images from 0 to 1.

    Raises:
        InputError: shapes, values or settings do not fit each other.
        RunError: an image diverged.
    """
    note.cache_clear()  # what is wrong with a measurement is said each time
    problem = _problem(operator)
    denoiser = prior if isinstance(prior, Prior) else load_prior(prior)
    found = _measured(measurement, operator, problem.operator, _ends(range))
    noise = _noise(problem, noise_std, found.width)
    if noise is None and found.weights is None:
        kind = type(problem.operator).__name__
        raise InputError(f"noise_std is None and the noise of {kind} cannot be estimated; wanted it, 0 for exact data")
    fitting = Problem(problem.operator.for_measurement(tuple(found.y.shape[1:])).calibrated(found.y), noise)
    if range is None:
        _require_scale(fitting, found.y)
    cls = _solver(solver)
    if "prior" in inspect.signature(cls).parameters:
        options["prior"] = denoiser
    return _solve(cls(problem=fitting, **options), found)


def denoise(
    image: Values,
    sigma: float | None,
    prior: Prior | nn.Module | str = "photographs",
    *,
    range: Pair | None = None,  # noqa: A002 - the word that users type
    seed: int = 0,
) -> Values:
    """Return an image, or several, without noise of deviation ``sigma``: the posterior mean, by one evaluation of the prior.

    >>> import numpy as np
    >>> import padis_lightning as pl
    >>> noisy = np.random.default_rng(0).normal(100, 25, (64, 64, 3))
    >>> clean = pl.denoise(noisy, sigma=25, range=(0, 255))
    >>> clean.shape, bool(clean.std() < 5)
    ((64, 64, 3), True)

    Args:
        image: with noise; ``photographs`` takes three channels.
        sigma: in the units of the image; None to have it estimated.
        prior: as :func:`reconstruct` takes it.
        range: values of the image that are 0 and 1 to the prior.
        seed: of the partition into patches.
    """
    prior = prior if isinstance(prior, Prior) else load_prior(prior)
    return reconstruct(image, Identity(prior.image_shape), prior, "PosteriorMean", sigma, range=range, seed=seed).image


def simulate(image: Values, operator: Measured, noise_std: float = 0.0, seed: int = 0) -> Values:
    """Return the measurement of an image, or of several, with Gaussian noise of a deviation, or the noise of a problem.

    >>> import numpy as np
    >>> import padis_lightning as pl
    >>> pl.simulate(np.arange(16.0).reshape(4, 4), pl.AveragePooling((1, 4, 4), factor=2)).tolist()
    [[2.5, 4.5], [10.5, 12.5]]

    Args:
        image: x, in any units: y has the same times the operator's. The noise of a problem may want those from 0 to 1. Pixels of
            a scan's are means, as :func:`reconstruct` finds them, where the operator does not say what they are.
        operator: as :func:`reconstruct` takes it.
        noise_std: in the units of y.
        seed: of the noise; each image has a stream of its own.
    """
    problem = _problem(operator)
    require_at_least(0, seed=seed)
    x, layout = lay_out(image, problem.operator.image_shape, "image", isinstance(problem.operator, PixelOperator))
    fitting = problem.operator.for_image_shape(tuple(x.shape[1:]))
    fitting = fitting if fitting.geometry is None else fitting.calibrated(x)
    fitted = Problem(fitting, _noise(problem, noise_std or None), problem.oversampling)
    with torch.no_grad():
        return layout.undo(fitted.measure(x, Generators.keyed(seed, torch.arange(len(x)).tolist(), MEASURE)))


def _solver(solver: type[Solver] | str | None) -> type[Solver]:
    known = {cls.__name__: cls for cls in subclasses(Solver) if not inspect.isabstract(cls) and not issubclass(cls, Ancestral)}
    found = known.get(solver or "PnPADMM") if not inspect.isclass(solver) else solver
    if found is None or not issubclass(found, Solver) or issubclass(found, Ancestral):
        raise InputError(f"solver is {solver!r}; wanted one of {', '.join(sorted(known))}")
    return found


def _problem(operator: Measured) -> Problem:
    if isinstance(operator, Problem):
        return operator
    if isinstance(operator, Geometry):
        return Problem(Scan(operator))
    if not isinstance(operator, LinearOperator):
        raise InputError(f"the operator is {type(operator).__name__}; wanted a LinearOperator, a Problem or a Geometry")
    return Problem(operator)


def _ends(bounds: Sequence[float] | None) -> Pair | None:
    """Return the ends of a range as numbers."""
    try:
        return None if bounds is None else pair_of(bounds)
    except (TypeError, ValueError):
        raise InputError(f"range is {bounds!r:.60}; wanted two numbers") from None


def _noise(problem: Problem, deviation: float | None, width: float = 1.0) -> Noise | None:
    """Return the noise that is named, for images from 0 to 1, where these are ``width`` apart; None where nobody names it."""
    if deviation is None:
        return problem.noise if problem.noise_is_named else None
    try:
        deviation = float(deviation)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"noise_std is {deviation!r:.60}; wanted one number") from None
    if problem.noise_is_named:
        raise InputError(f"noise_std is {deviation:g} beside a problem with its noise; wanted one of them")
    return GaussianNoise(deviation / width)


class _Found(NamedTuple):
    """Holds normalised measurements ``(B, ...)``, how they were given, what 0 and 1 stand for, and how far entries count.

    Without weights all count, and their noise cannot be estimated.
    """

    y: Tensor
    layout: Layout
    scale: Normalisation
    weights: Tensor | None

    @property
    def width(self) -> float:
        """Return the values between 0 and 1 of the prior."""
        return self.scale.upper - self.scale.lower


def _measured(values: Values, given: Measured, operator: LinearOperator, bounds: Pair | None) -> _Found:
    pictures = isinstance(operator, PixelOperator)
    y, layout = lay_out(values, operator.measurement_shape, "measurement", pictures)
    if isinstance(given, Geometry):
        if y.shape[-2:] != given.shape:
            raise InputError(f"the measurement is {tuple(np.shape(values))}; wanted {given.shape}, or several of these")
        numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
        arrays = {"y": numbers.reshape(-1, *given.shape)}
        found = corrected_integrals(arrays, HERE, Named())
        scale = decide_measured(HERE, "y", arrays, named=bounds or calibrate(HERE, found.y, given))
        integrals, weights = (torch.from_numpy(part)[:, None].to(y.device) for part in (found.y, found.weights))
        return _Found(integrals / scale.upper, layout, scale, weights)
    kind = dtype_of(values)
    pair = bounds or (implied_range(kind, picture=True) if pictures else None)
    low, high = float(y.min()), float(y.max())
    if pair is None and pictures and (kind.kind in "ui" or low < NOISY[0] or high > NOISY[1]):
        raise InputError(
            f"the measurement has values from {low:g} to {high:g}; wanted range=(LOWER, UPPER), which become 0 and 1"
        )
    scale = Normalisation(*pair_of(pair or (0.0, 1.0)))
    if scale.lower and not pictures:
        raise InputError(f"range is {scale.lower:g} to {scale.upper:g}; wanted one from 0, as what is measured are sums")
    # elsewhere neighbours in y, by which noise is seen, are none in the image
    seen = pictures or operator.signed or operator.geometry is not None
    return _Found(scale.normalise(y), layout, scale, y.new_ones(len(y), *[1] * (y.ndim - 1)) if seen else None)


def _require_scale(problem: Problem, y: Tensor) -> None:
    r"""Refuse measurements far longer than :math:`\|A\| \, \|x\|` of images x up to 1 and their noise; tell far shorter ones."""
    most = math.sqrt(problem.operator.norm_squared * math.prod(problem.operator.image_shape))
    noise = (problem.noise.variance(y).expand_as(y).flatten(1).double().sum(1)).sqrt()
    times = float((y.flatten(1).double().norm(dim=1) / (most + noise)).max())
    seen = f"the measurement is {times:.2g} times what images from 0 to 1 have at most"
    if times > FAR:
        raise InputError(f"{seen}; wanted range=(0, UPPER), whose UPPER is 1 to the prior, or of a flat scan its geometry alone")
    if 0 < times < FAINT:
        note(f"{seen}; range=(0, UPPER) names what is 1 to the prior")


def _solve(solver: Solver, found: _Found) -> Result:
    """Solve, and return what comes out in the units and with the axes of what was measured."""
    if found.y.device.type != "cpu":
        solver.to(found.y.device)
    index = torch.arange(len(found.y))
    names = list(map(str, index.tolist()))
    batch = Batch(index, names, names, measurement=found.y, weights=found.weights)
    with torch.no_grad():
        done = solver.reconstruct(batch)
    if failed := next(filter(None, done.failures or []), None):
        raise RunError(failed)
    assert done.measurement is not None and done.residual is not None
    deviation = solver.for_batch(batch).problem.data_term(done.measurement)[0].sqrt() * found.width
    layout, restore = found.layout, found.scale.restore
    return Result(
        image=layout.undo(restore(done.estimate)),
        residual=layout.numbers(done.residual),
        seconds=done.seconds,
        evaluations=done.evaluations,
        noise_std=layout.numbers(deviation.expand(len(index), *deviation.shape[1:])),
        range=(found.scale.lower, found.scale.upper),
        samples=None if done.samples is None else layout.undo(restore(done.samples), samples=True),
    )
