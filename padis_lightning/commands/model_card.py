"""What stands beside a prior that is published: its settings, the run that measured it, and a page about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from padis_lightning.diffusion import PatchModel
from padis_lightning.diffusion.model import FORMAT
from padis_lightning.errors import InputError, one_line
from padis_lightning.hub import is_address
from padis_lightning.messages.configs import read_config
from padis_lightning.priors import PatchPrior, Prior, SlicePrior
from padis_lightning.results.provenance import weights_digest
from padis_lightning.results.records import Records
from padis_lightning.results.report.runs import dotted, read_run
from padis_lightning.results.scores import PERCEPTUAL, SCANNED, methods, with_interval

CARD, RUN = "README.md", "predict.yaml"
SCORES = {"psnr": "PSNR (dB)", "ssim": "SSIM", **PERCEPTUAL, **SCANNED, "residual": "residual"}
REPEATED = ("seed_everything", "model", "prior", "operator", "data")  # keys of a run that decide its results
PAGE = """\
---
{licence}library_name: padis_lightning
tags: [padis_lightning, diffusion, inverse-problems, image-reconstruction]
---

# {title}

A diffusion prior of image patches (PaDIS, [arXiv 2406.02462](https://arxiv.org/abs/2406.02462)) for padis_lightning, which
reconstructs images from few or noisy measurements with it.

| | |
|---|---|
{facts}

`config.json` has all settings of the network and its training.

## Data and licence

{data}

## Results

{results}

## Use

In a checkout of padis_lightning:

```
pip install -e '.[hub]'
python -m padis_lightning predict --config CONFIG --prior.checkpoint {address}
```

CONFIG is a config of padis_lightning, or your own, for images like those above. In Python the prior is `PatchPrior("{address}")`.

## What it is for

Research on reconstruction from measurements of images like those that it was trained on, with values in the same range.

## Limits

Where the measurement leaves a choice, the prior decides, and what it adds looks real. Images of other kinds, other scanners,
resolutions or ranges of values than those of the training may have larger errors, of a size that is not measured here. It is no
medical device; nobody should be diagnosed by its results.
"""


class Measured(NamedTuple):
    """Holds a run that measured a prior: its ``summary.json`` and its ``config.yaml``."""

    summary: dict[str, Any]
    config: dict[str, Any]


def settings_of(model: PatchModel) -> str:
    """Return ``config.json``: the metadata of the prior's file."""
    return json.dumps({"library_name": "padis_lightning", "format": FORMAT, **model.describe()}, indent=1) + "\n"


def read_measured(folder: Path, model: PatchModel) -> Measured:
    """Read the results of a prior.

    Raises:
        InputError: the folder is not one of results, or they were made with other weights.
    """
    summary, made = read_run(folder).summary, Records(folder).run()
    prior = PatchPrior(model)
    ours: list[Prior] = [prior, SlicePrior(prior)] if model.denoiser.network.axes == 2 else [prior]
    if made is None or made["settings"].get("weights") not in map(weights_digest, ours):
        raise InputError(f"{folder} has the results of other weights; wanted those of the prior that is published")
    return Measured(summary, read_config(folder / "config.yaml"))


def repeated(config: dict[str, Any], address: str) -> str:
    """Return the config that repeats a run with a published prior; of paths, which are the user's own, only the last part."""
    try:
        kept = _without_folders({key: config[key] for key in REPEATED if key in config})
        kept["trainer"] = {key: config["trainer"][key] for key in ("precision", "deterministic")}
        kept["prior"]["init_args"]["checkpoint"] = address
        kept["results"] = {"baselines": _without_folders(config["results"]["baselines"])}
    except (LookupError, TypeError) as error:
        wanted = "wanted the settings that predict keeps there"
        raise InputError(f"config.yaml of the results comes without {error}; {wanted}") from error
    return yaml.safe_dump(kept, sort_keys=False)


def _without_folders(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and not is_address(value) else value


def model_card(model: PatchModel, title: str, address: str, digest: str, licence: str | None, run: Measured | None) -> str:
    """Return the page about a prior.

    Args:
        model: the prior.
        title: its heading.
        address: what ``--prior.checkpoint`` takes.
        digest: SHA-256 of its file.
        licence: an identifier such as ``apache-2.0``, where there is one.
        run: what it was measured by, where it was.
    """
    training, shown = dotted(model.training), model.normalisation.shown
    network, shape = model.denoiser.network, " x ".join(map(str, model.image_shape[1:]))
    units = " HU" if model.normalisation.window else ""
    facts = {
        "network": f"{type(network).__name__}, {sum(p.numel() for p in network.parameters()) / 1e6:.2f} million weights",
        "images of the training": f"{shape}, channels: {model.image_shape[0]}",
        "sides of the patches": ", ".join(map(str, model.patch_sizes)),
        "positions": type(model.denoiser.positions).__name__,
        "values that become 0 and 1": f"{shown.lower:g}{units} and {shown.upper:g}{units}",
        "training": ", ".join(f"{training[key]} {key}" for key in ("steps", "patches") if key in training),
        "began with": _told(training.get("initial.prior", "")),
        "version of padis_lightning": _told(training.get("padis_lightning", "")),
        "SHA-256": f"`{digest}`",
    }
    said = [f"Trained on: {_told(training.get('data', 'not recorded'))}.", training.get("credit", "")]
    said.append(f"Licence of the weights: {licence or 'not stated; ask whoever published them'}.")
    return PAGE.format(
        title=title,
        address=address,
        licence=f"license: {licence}\n" if licence else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items() if value),
        data="\n\n".join(filter(None, said)),
        results=_measured(run) if run else "Not measured here.",
    )


def _told(text: str) -> str:
    """Return what a file says as a part of a table."""
    return one_line(text).replace("|", "/")


def _measured(run: Measured) -> str:
    """Return the table of a run and how to repeat it."""
    summary = run.summary
    keys = [key for key in SCORES if any(means.get(key) is not None for _, means in methods(summary))]
    lines = [f"| method | {' | '.join(SCORES[key] for key in keys)} |", "|---" * (len(keys) + 1) + "|"]
    for name, means in methods(summary):
        shown = (with_interval(means.get(key), means["intervals"].get(key), ".4g") for key in keys)
        lines.append(f"| {_told(name)} | {' | '.join(shown)} |")
    lost = len(summary.get("failed") or ()) + len(summary.get("missing") or ())
    path = dotted(run.config).get("data.init_args.path", "null")
    data = "" if path == "null" else f" --data.path {Path(path).name}"
    about = (
        f"Means of {summary['n']} images of {summary['groups']} groups (patients, where the data name them) with 95 % bootstrap "
        f"intervals over groups; {lost} further images failed or are missing. Measured by {summary['operator']['name']} with "
        f"noise `{json.dumps(summary['noise'])}`, by padis_lightning {summary['versions']['padis_lightning']}. To repeat it, "
        f"with `{RUN}` of this repository:"
    )
    return "\n".join([*lines, "", about, "", "```", f"python -m padis_lightning predict --config {RUN}{data}", "```"])
