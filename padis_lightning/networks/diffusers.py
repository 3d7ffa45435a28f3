"""Make a denoiser D(x; sigma) of a network that was trained as a diffusion model, of a file with its settings beside it."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padis_lightning.errors import InputError, require_above, require_among, require_between
from padis_lightning.networks import guided, score_sde
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.unet2d import UNet2DModel
from padis_lightning.networks.weights import fill

log = logging.getLogger(__name__)

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SETTINGS, SCHEDULE = "config.json", "scheduler_config.json"
FILES = [f"{part}{name}" for part in ("", "unet/", "scheduler/") for name in (WEIGHTS[0], SETTINGS, SCHEDULE)]  # on the Hub
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 2023
PLAIN = {"trained_betas": None, "rescale_betas_zero_snr": False, "timestep_type": "discrete", "use_flow_sigmas": False}


class Schedule(NamedTuple):
    r"""Holds what a network was trained to find, of images from -1 to 1.

    Attributes:
        prediction: ``epsilon``, the noise; ``sample``, the image; ``v_prediction``, :math:`\alpha \epsilon - s x_0`;
            ``residual``, EDM's F; ``score``, minus the noise, of images from 0 to 1 that are not scaled, by the time
            :math:`\ln(\sigma)`.
        highest: the level of the noise that training began from.
        sigma_data: root mean square of images; 1 where the variance is preserved.
        log_sigmas: of each time of the training; None where a time is :math:`\ln(\sigma) / 4`, or where there are ``betas``.
        betas: of the times 0 and 1, between which the variance's rate is linear; the network sees times up to 999.
    """

    prediction: str
    highest: float
    sigma_data: float = 1.0
    log_sigmas: NDArray[np.float64] | None = None
    betas: tuple[float, float] | None = None

    def times(self, sigma: Tensor) -> Tensor:
        r"""Return the times of levels, ``(B,)``, between those of the training by interpolation of :math:`\ln(\sigma)`.

        With betas it is t in :math:`\ln(1 + \sigma^2) = \beta_0 t + (\beta_1 - \beta_0) t^2 / 2`.
        """
        if self.prediction == "score":
            return (sigma / 2).log()
        if self.betas:
            low, slope = self.betas[0], self.betas[1] - self.betas[0]
            grown = sigma.detach().double().square().log1p()
            return (999 * 2 * grown / (low + (low**2 + 2 * slope * grown).sqrt())).to(sigma)
        logs = sigma.detach().cpu().double().clamp(min=1e-6).log().numpy()
        steps = self.log_sigmas
        return torch.from_numpy(logs / 4 if steps is None else np.interp(logs, steps, np.arange(len(steps)))).to(sigma)

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Schedule:
        """Read the settings of one of diffusers' schedules: EDM's, or one with betas, whichever of its solvers they are for.

        Source: Karras et al., EDM, NeurIPS 2022, table 1; Nichol and Dhariwal, Improved DDPM, ICML 2021, equation 17; Song et
        al., Score-based generative modeling through SDEs, ICLR 2021, appendices B and C.

        Raises:
            InputError: it is another kind, or a setting has a value that is not known here.
        """
        kind, prediction = settings.get("_class_name", "DDPMScheduler"), settings.get("prediction_type", "epsilon")
        if kind.startswith("EDM"):
            require_among(("epsilon", "v_prediction"), prediction_type=prediction)
            highest, deviation = settings.get("sigma_max", 80.0), settings.get("sigma_data", 0.5)
            require_above(0, sigma_max=highest, sigma_data=deviation)
            return cls("residual" if prediction == "epsilon" else prediction, highest, deviation)
        if kind == "ScoreSdeVpScheduler":
            betas = settings.get("beta_min", 0.1), settings.get("beta_max", 20.0)
            require_between(1e-9, 1e3, beta_min=betas[0], beta_max=betas[1])
            return cls("epsilon", float(np.sqrt(np.expm1(sum(betas) / 2))), betas=betas)
        if kind == "vesde":
            require_above(0, sigma_max=settings["sigma_max"])
            return cls("score", 2 * settings["sigma_max"])
        if "beta_schedule" not in settings:
            raise InputError(f"the schedule is {kind!r:.60}; wanted EDM's, ScoreSdeVpScheduler, or one with a beta_schedule")
        require_among(("epsilon", "v_prediction", "sample"), prediction_type=prediction)
        for name, value in PLAIN.items():
            require_among([value], **{name: settings.get(name, value)})
        kept = np.cumprod(1 - _betas(settings))
        if not kept[-1] > 0:
            raise InputError("the schedule leaves nothing of the image; wanted betas whose levels have an end")
        log_sigmas = np.log((1 - kept) / kept) / 2
        return cls(prediction, float(np.exp(log_sigmas[-1])), log_sigmas=log_sigmas)


def _betas(settings: dict[str, Any]) -> NDArray[np.float64]:
    kind, count = settings["beta_schedule"], settings.get("num_train_timesteps", 1000)
    require_between(2, 1e5, num_train_timesteps=count)
    require_among(("linear", "scaled_linear", "squaredcos_cap_v2"), beta_schedule=kind)
    if kind == "squaredcos_cap_v2":
        kept = np.cos((np.linspace(0, 1, count + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    ends = {name: settings.get(name, default) for name, default in {"beta_start": 1e-4, "beta_end": 0.02}.items()}
    require_between(1e-9, 0.999, **ends)
    power = 2 if kind == "scaled_linear" else 1
    first, last = (end ** (1 / power) for end in ends.values())
    return np.linspace(first, last, count) ** power


class ScheduledDenoiser(nn.Module):
    r"""Denoise images from 0 to 1 by a diffusion model of images from -1 to 1.

    .. math:: D(x; \sigma) = \tfrac{1}{2} + \tfrac{1}{2} \left(c_{skip} z + c_{out} F(z / \sqrt{s^2 + d^2}; t(s))\right),
        \quad z = 2 x - 1, \quad s = 2 \sigma

    With d the deviation of images, which is 1 where the variance is preserved: there :math:`x_t = z / \sqrt{1 + s^2}`, and
    :math:`c_{skip}, c_{out}` are 1 and -s where F finds the noise, 0 and 1 where it finds the image. For v they are
    :math:`d^2 / (s^2 + d^2)` and :math:`-s d / \sqrt{s^2 + d^2}`, for EDM's F the same without the sign. Where the variance
    explodes and F finds the score times :math:`\sigma`, it sees z itself, and :math:`c_{skip}, c_{out}` are 1 and s.

    Source: Karras et al., EDM, NeurIPS 2022, section 5 and table 1; Salimans and Ho, Progressive distillation, ICLR 2022.

    Args:
        network: F, which takes ``(B, C, H, W)`` and times ``(B,)`` and may return further channels behind those of the image.
        schedule: what it was trained on.
    """

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.channels, self.divisor = network.channels, network.divisor

    @property
    def highest(self) -> float:
        """Return the highest level of the training, of images from 0 to 1."""
        return self.schedule.highest / 2

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise ``(B, C, H, W)`` with deviations ``(B,)``."""
        prediction, deviation = self.schedule.prediction, self.schedule.sigma_data
        z, level = 2 * x - 1, 2 * sigma.to(x).reshape(-1, 1, 1, 1)
        scale = (level**2 + deviation**2).sqrt()
        seen = z if prediction == "score" else z / scale
        found = self.network(seen, self.schedule.times(2 * sigma))[:, : self.channels]
        if prediction in ("epsilon", "score"):
            found = z - level * found if prediction == "epsilon" else z + level * found
        elif prediction != "sample":
            sign = -1 if prediction == "v_prediction" else 1
            found = deviation / scale * (deviation / scale * z + sign * level * found)
        return (found + 1) / 2


def find_model(folder: Path) -> Path | None:
    """Return the file of weights in a folder: diffusers', of a model or a pipeline, or a ``.pt`` or ``.pth`` beside settings."""
    named = (folder / part / name for part in ("unet", ".") for name in WEIGHTS)
    others = (*folder.glob("*.pt"), *folder.glob("*.pth")) if (folder / SETTINGS).is_file() else ()
    return next((file for file in (*named, *sorted(others)) if file.is_file()), None)


def is_model(file: Path, state: dict[str, Tensor]) -> bool:
    """Return whether a file has weights whose settings stand beside it."""
    with_settings = file.suffix == ".pt" or any(name.startswith("all_modules.") for name in state)
    return file.name in WEIGHTS or (with_settings and file.with_name(SETTINGS).is_file())


def build_scheduled(file: Path, state: dict[str, Tensor]) -> ScheduledDenoiser:
    """Return the denoiser of a file of weights, with the settings that stand beside it.

    Raises:
        InputError: these are missing, of another network, or have values that are not known here.
    """
    settings = _read_settings(file.with_name(SETTINGS))
    if file.name not in WEIGHTS:
        by_song = "training" in settings
        settings, described, state = (score_sde if by_song else guided).convert(settings, state)
        cls = DDPMpp if by_song else UNet2DModel
    else:
        cls = UNet2DModel
        require_among(["UNet2DModel"], _class_name=settings.get("_class_name", "UNet2DModel"))
        described = _find_schedule(file.parent)
        names = rf"(attentions\.\d+\.)({'|'.join(OLD_NAMES)})\."
        state = {re.sub(names, lambda match: f"{match[1]}{OLD_NAMES[match[2]]}.", name): v for name, v in state.items()}
    schedule, network = Schedule.read(described), fill(partial(cls, **settings), state)
    if isinstance(network, UNet2DModel):
        with_variances = 2 * network.channels
        require_among((network.channels, with_variances), out_channels=len(network.conv_out.weight))
    denoiser = ScheduledDenoiser(network, schedule)
    told = json.dumps([settings, described], sort_keys=True).encode()
    denoiser.register_buffer("settings", torch.tensor(list(told), dtype=torch.uint8))  # so that a digest of weights knows them
    return denoiser


def _find_schedule(folder: Path) -> dict[str, Any]:
    """Return the settings of the schedule that belongs to the network in a folder."""
    for place in (folder / "scheduler", folder, *([folder.parent / "scheduler"] if folder.name == "unet" else [])):
        if (place / SCHEDULE).is_file():
            return _read_settings(place / SCHEDULE)
    log.warning("padis_lightning: %s has no %s; going on with a linear schedule of 1000 steps", folder, SCHEDULE)
    return {"beta_schedule": "linear"}


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({type(error).__name__}); wanted settings that diffusers has written") from error
    if not isinstance(settings, dict):
        raise InputError(f"{file} holds a {type(settings).__name__}; wanted settings that diffusers has written")
    return settings
