"""Reconstruct, denoise and simulate arrays and tensors, without a file, a config or a trainer.

Values are those of the caller: ``range`` names the two that stand for 0 and 1 of the prior, (0, 1) unless said otherwise.
Images and measurements come as ``(C, H, W)``, ``(H, W, C)`` or, of one channel, ``(H, W)``, and with an axis of several in
front. Those of MRI may be complex, with half as many channels: k-space ``(coils, H, W)`` and images ``(H, W)``. What is
returned has the axes, the kind (array or tensor), the units and the device of what was given, and single precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padis_lightning import hub, priors
from padis_lightning.ct import Geometry
from padis_lightning.data.conventions import Named
from padis_lightning.data.notes import note
from padis_lightning.data.ranges import calibrate, decide_measured, implied_range
from padis_lightning.data.sources.measurements import corrected_integrals
from padis_lightning.data.sources.pictures import NOISY
from padis_lightning.diffusion.model import NAME
from padis_lightning.errors import InputError, RunError
from padis_lightning.messages.configs import CONFIGS, read_config
from padis_lightning.networks.diffusers import FILES, find_model
from padis_lightning.noise import GaussianNoise, Noise
from padis_lightning.operators import LinearOperator
from padis_lightning.operators.ct import Scan
from padis_lightning.operators.identity import Identity
from padis_lightning.operators.pixels import PixelOperator
from padis_lightning.priors import DenoiserPrior, PatchPrior, Prior
from padis_lightning.problem import Problem
from padis_lightning.random import Generators
from padis_lightning.registry import subclasses
from padis_lightning.solvers import Solver
from padis_lightning.solvers.base import MEASURE
from padis_lightning.types import Batch, Normalisation, pair_of

Values = TypeVar("Values", NDArray[Any], Tensor)
Pair = tuple[float, float]
Measured = Geometry | LinearOperator | Problem

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
    found = _measured(measurement, operator, problem.operator, range)
    noise = _noise(problem, noise_std, found.width)
    if noise is None and found.weights is None:
        kind = type(problem.operator).__name__
        raise InputError(f"noise_std is None and the noise of {kind} cannot be estimated; wanted it, 0 for exact data")
    fitting = Problem(problem.operator.for_measurement(tuple(found.y.shape[1:])).calibrated(found.y), noise)
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
        image: x, in any units: y has the same times the operator's. The noise of a problem may want those from 0 to 1.
        operator: as :func:`reconstruct` takes it.
        noise_std: in the units of y.
        seed: of the noise; each image has a stream of its own.
    """
    problem = _problem(operator)
    x, layout = _lay_out(image, problem.operator.image_shape, "image", isinstance(problem.operator, PixelOperator))
    fitting = problem.operator.for_image_shape(tuple(x.shape[1:]))
    fitted = Problem(fitting, _noise(problem, noise_std or None), problem.oversampling)
    with torch.no_grad():
        return layout.undo(fitted.measure(x, Generators.keyed(seed, torch.arange(len(x)).tolist(), MEASURE)))


def load_prior(prior: nn.Module | str | Path) -> Prior:
    """Return the prior of a name, as the configs have it, of a file or a folder, here or on the Hub, or around a denoiser.

    Raises:
        InputError: there is no such prior.
    """
    if not isinstance(prior, (nn.Module, str, Path)):
        raise InputError(f"the prior is {prior!r:.60}; wanted a name, a file or a folder, or a module")
    if isinstance(prior, nn.Module) or _is_model(prior):
        return DenoiserPrior(prior if isinstance(prior, nn.Module) else str(prior))
    config = CONFIGS / "prior" / f"{prior}.yaml"
    return _build(read_config(config)) if config.is_file() else PatchPrior.from_pretrained(prior)


def _is_model(prior: str | Path) -> bool:
    """Return whether a folder, here or on the Hub, has a diffusion model and no prior of ours."""
    if hub.is_address(prior) and hub.Address.read(str(prior)).file != NAME:
        return False
    folder = hub.fetch_folder(str(prior), [NAME, *FILES]) if hub.is_address(prior) else Path(prior)
    return find_model(folder) is not None and not (folder / NAME).is_file()


def _build(described: dict[str, Any]) -> Any:  # noqa: ANN401 - of the class that is named
    """Build what a config of this package names."""
    options = {k: _build(v) if isinstance(v, dict) else v for k, v in described.get("init_args", {}).items()}
    return getattr(priors, described["class_path"])(**options)


def _solver(solver: type[Solver] | str | None) -> type[Solver]:
    known = {cls.__name__: cls for cls in subclasses(Solver) if not inspect.isabstract(cls)}
    found = known.get(solver or "PnPADMM") if not inspect.isclass(solver) else solver
    if found is None or not issubclass(found, Solver):
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


def _noise(problem: Problem, deviation: float | None, width: float = 1.0) -> Noise | None:
    """Return the noise that is named, for images from 0 to 1, where these are ``width`` apart; None where nobody names it."""
    if deviation is None:
        return problem.noise if problem.noise_is_named else None
    if problem.noise_is_named:
        raise InputError(f"noise_std is {deviation:g} beside a problem with its noise; wanted one of them")
    return GaussianNoise(deviation / width)


class _Layout(NamedTuple):
    """Says how values were given, and gives others back like them."""

    batched: bool
    channels: Literal["first", "last", "none"]
    array: bool
    complex_valued: bool = False

    def undo(self, values: Tensor, samples: bool = False) -> Any:  # noqa: ANN401 - an array or a tensor
        """Return ``(B, C, ...)``, or samples ``(B, K, C, ...)``, as what was given; a complex image has no axis of channels."""
        axis = 1 + samples
        if self.complex_valued:
            values = torch.view_as_complex(values.unflatten(axis, (-1, 2)).movedim(axis + 1, -1).contiguous()).squeeze(axis)
        elif self.channels == "last":
            values = values.movedim(axis, -1)
        elif self.channels == "none":
            values = values.squeeze(axis)
        values = values if self.batched else values[0]
        return values.cpu().numpy() if self.array else values

    def numbers(self, values: Tensor) -> float | list[float]:
        """Return a number of each measurement, or that of the only one."""
        found = values.flatten().tolist()
        return found if self.batched else found[0]


def _lay_out(values: Values, shape: Sequence[int], what: str, any_size: bool) -> tuple[Tensor, _Layout]:
    """Return values as ``(B, *shape)``, of any size and one or three channels where ``any_size``, and how they were given."""
    if values.is_complex() if isinstance(values, Tensor) else np.iscomplexobj(values):
        if shape[0] % 2:
            raise InputError(f"the {what} is complex; wanted real numbers {tuple(shape)}")
        half = shape[0] // 2, *shape[1:]
        (real, given_as), (imaginary, _) = (_lay_out(part, half, what, any_size) for part in (values.real, values.imag))
        return torch.stack([real, imaginary], 2).flatten(1, 2), given_as._replace(complex_valued=True)
    array = not isinstance(values, Tensor)
    given = values.detach().float() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values).astype(np.float32))
    layout: Literal["first", "last", "none"]
    channels, axes = shape[0], len(shape) - 1
    if any_size and channels == 1 and given.ndim > 2 and given.shape[-1] == 3:
        channels = 3
    if given.ndim in (axes + 1, axes + 2) and given.shape[-axes - 1] == channels:
        layout, single = "first", axes + 1
    elif given.ndim in (axes + 1, axes + 2) and given.shape[-1] == channels:
        layout, single = "last", axes + 1
        given = given.movedim(-1, -axes - 1)
    elif given.ndim in (axes, axes + 1) and channels == 1:
        layout, single = "none", axes
        given = given.unsqueeze(-axes - 1)
    else:
        raise InputError(f"the {what} is {tuple(given.shape)}; wanted {tuple(shape)}, or several of these")
    batched = np.ndim(values) > single
    given = given if batched else given[None]
    if not torch.isfinite(given).all() or not given.numel():
        raise InputError(f"the {what} has {'no values' if not given.numel() else 'NaN or infinity'}; wanted finite numbers")
    return given, _Layout(batched, layout, array)


def _kind(values: Tensor) -> np.dtype:
    """Return the type of a tensor's numbers as NumPy knows it; all that are no integers are one."""
    return np.dtype(float if values.is_floating_point() else str(values.dtype).removeprefix("torch."))


class _Found(NamedTuple):
    """Holds normalised measurements ``(B, ...)``, how they were given, what 0 and 1 stand for, and how far entries count.

    Without weights all count, and their noise cannot be estimated.
    """

    y: Tensor
    layout: _Layout
    scale: Normalisation
    weights: Tensor | None

    @property
    def width(self) -> float:
        """Return the values between 0 and 1 of the prior."""
        return self.scale.upper - self.scale.lower


def _measured(values: Values, given: Measured, operator: LinearOperator, bounds: Pair | None) -> _Found:
    pictures = isinstance(operator, PixelOperator)
    y, layout = _lay_out(values, operator.measurement_shape, "measurement", pictures)
    if isinstance(given, Geometry):
        if y.shape[-2:] != given.shape:
            raise InputError(f"the measurement is {tuple(np.shape(values))}; wanted {given.shape}, or several of these")
        numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
        arrays = {"y": numbers.reshape(-1, *given.shape)}
        found = corrected_integrals(arrays, HERE, Named())
        scale = decide_measured(HERE, "y", arrays, named=bounds or calibrate(HERE, found.y, given))
        integrals, weights = (torch.from_numpy(part)[:, None].to(y.device) for part in (found.y, found.weights))
        return _Found(integrals / scale.upper, layout, scale, weights)
    kind = _kind(values) if isinstance(values, Tensor) else np.asarray(values).dtype
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
