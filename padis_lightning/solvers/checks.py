"""What a solver, its operator and its prior need of the data."""

from __future__ import annotations

import logging

from padis_lightning.canvas import axis_names
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.draws import Draws
from padis_lightning.errors import InputError
from padis_lightning.solvers.adaptation import adaptable
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.solvers.base import Solver

log = logging.getLogger(__name__)


def check_run(solver: Solver, data: ImageData | Draws, inference_mode: bool) -> None:
    """Refuse data that the solver, the operator or the prior was not made for, and a mode that has no gradients.

    Raises:
        InputError: with both values.
    """
    name = type(solver).__name__
    if not isinstance(solver, Solver):
        raise InputError(f"the model to predict with is {name}; wanted a solver")
    if solver.needs_gradients and inference_mode:
        raise InputError(f"trainer.inference_mode is true; wanted false, since {name} takes gradients in its steps")
    if solver.adaptation is not None:
        adaptable(solver)
    data.setup("predict")
    fitting = Draws if isinstance(solver, Ancestral) else ImageData
    if not isinstance(data, fitting):
        raise InputError(f"the data is {type(data).__name__}; wanted {fitting.__name__} for {name}")
    if isinstance(data, Draws):
        return
    prior = solver.prior
    images = {shape: _image_shape(solver, shape, data.whole.pictured) for shape in sorted(data.whole.shapes)}
    for k, name in ((item.index, item.name) for item in data.item_labels):
        seen, wanted = data.whole.reference_shape(k), images[data.whole.shape(k)]
        if seen not in (None, wanted):
            raise InputError(f"the reference of {name} is {seen} ({axis_names(seen)}); wanted {wanted}, that of the estimate")
    trained = prior.normalisation if prior is not None else None
    windows = data.normalisation.window, trained.window if trained else None
    if windows[0] is None and windows[1] is not None and solver.operator.geometry and not data.whole.has_images:
        log.warning(
            "padis_lightning: the prior was trained on %s HU and %s does not say that it is of patients; scan.yaml has a prior "
            "of objects of any kind", windows[1], data.whole.description
        )  # fmt: skip
    if None not in windows and windows[0] != windows[1]:
        raise InputError(f"the data's window is {windows[0]} HU; wanted {windows[1]} HU, what the prior was trained on")


def _image_shape(solver: Solver, shape: tuple[int, ...], pictured: bool) -> tuple[int, ...]:
    """Return the shape of the estimates for items of a shape, which operator and prior have to serve."""
    operator, prior = solver.operator, solver.prior
    image = operator.for_measurement(shape).image_shape if pictured else operator.for_image_shape(shape).image_shape
    if prior is not None and {image[0], prior.image_shape[0]} == {1, 3}:
        wanted = prior.image_shape[0]
        raise InputError(f"the data has {image[0]} channels; wanted {wanted}, the prior's, such as by --data.channels {wanted}")
    if prior is not None:
        prior.for_shape(image)
    return image
