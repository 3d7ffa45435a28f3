"""What made a result: its parts, settings and versions."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from padis_lightning.ct import Projector
from padis_lightning.priors import Prior
from padis_lightning.results.report.runs import dotted
from padis_lightning.solvers import Solver

CHANGEABLE = (  # settings that a run may change and go on with the same results
    r"output|tracking.*|trainer(?!\.(precision|deterministic)).*|results\.(overwrite|keep_every|calibration)"
    r"|data\.init_args\.(num_workers|batch_size|shards?)|model\.init_args\.state|(prior\.init_args\.)+(checkpoint|chunk_size)"
)


class Origin(NamedTuple):
    """What made an estimate, as the files of other programs say it.

    Attributes:
        solver: its name.
        version: of this package.
        description: a line: solver, operator, prior, seed and versions.
        settings: a digest that other settings, weights and versions do not have.
    """

    solver: str
    version: str
    description: str
    settings: str


def provenance(solver: Solver) -> dict[str, Any]:
    """Return solver, operator, prior, noise, seed and versions as plain values."""
    return {
        "solver": type(solver).__name__,
        "operator": {
            "name": type(solver.operator).__name__,
            "measurement": list(solver.operator.measurement_shape),
            "projections": [part.describe() for part in solver.operator.modules() if isinstance(part, Projector)],
        },
        "prior": None if solver.prior is None else type(solver.prior).__name__,
        "noise": solver.problem.noise.describe(),
        "oversampling": solver.problem.oversampling,
        "seed": solver.seed,
        "versions": {
            "padis_lightning": version("padis_lightning"),
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
        },
    }


def origin(solver: Solver, settings: dict[str, str]) -> Origin:
    """Return the origin of a solver's estimates; of :func:`settings_of` what only decides pictures does not count."""
    made = provenance(solver)
    versions = made["versions"]
    prior = f", prior {made['prior']}" if made["prior"] else ""
    description = (
        f"padis_lightning {versions['padis_lightning']}: solver {made['solver']}, operator {made['operator']['name']}{prior}, "
        f"seed {made['seed']}; torch {versions['torch']}, lightning {versions['lightning']}, python {versions['python']}"
    )
    deciding = {key: value for key, value in settings.items() if not key.startswith("results.")}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    return Origin(made["solver"], versions["padis_lightning"], description, digest)


def settings_of(solver: Solver, config: dict[str, Any] | None) -> dict[str, str]:
    """Return all that decides the bits of a result and of its pictures, as dotted keys with values in words.

    Where a result is written, how it is shared out and how much is computed at once are not among them; nor is the path of
    the prior, whose weights are.

    Args:
        solver: with its prior.
        config: the settings of a run of the command line; without them, the solver's own numbers.
    """
    if config is None:
        public = {key: value for key, value in vars(solver).items() if not key.startswith("_")}
        config = {"solver": {key: value for key, value in public.items() if isinstance(value, (int, float, str, tuple))}}
    settings = {key: value for key, value in dotted(config).items() if not re.fullmatch(CHANGEABLE, key)}
    return {**settings, **dotted(provenance(solver)), "weights": weights_digest(solver.prior)}


def weights_digest(prior: Prior | None) -> str:
    """Return a digest of a prior's weights; empty without a prior."""
    if prior is None:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(prior.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
