"""The command line; the only file that knows LightningCLI."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import padis_lightning.networks
import padis_lightning.noise
import padis_lightning.slice_groups
import padis_lightning.solvers  # noqa: F401 - importing makes short class names known
from padis_lightning import doctor, importing, preparing, reporting
from padis_lightning.callbacks import EMA, PriorExport, Results, Samples, Throughput
from padis_lightning.ct import Projector
from padis_lightning.data import Draws, ImageData, read_geometry
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError, RunError
from padis_lightning.files import write_text
from padis_lightning.machine import has_bfloat16, has_wandb_account
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.priors.base import axes_of
from padis_lightning.solvers import Solver
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.training import PatchDiffusion

_PACKAGE = Path(__file__).parent
CONFIGS = next((d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir()), _PACKAGE / "configs")


CONFIG = ("--config", "-c")
COMMANDS = {  # those that are not Lightning's
    "doctor": doctor.run,
    "gather": reporting.gather,
    "import": importing.run,
    "prepare": preparing.run,
    "report": reporting.run,
}

HARMLESS = (  # warnings about choices that were made on purpose
    ".*does not have many workers",
    ".*Sparse CSR tensor support is in beta",
    ".*Sparse invariant checks are implicitly disabled",
    ".*Checkpoint directory .* exists and is not empty",
    ".*isinstance.*LeafSpec",
    ".*`use_distributed_sampler`",
    ".*couldn't infer the indices fetched for your dataloader",
    ".*Total length of .* across ranks is zero",
    ".*`srun` command is available on your system but is not used",
)


@rank_zero_only
def tell(line: str) -> None:
    """Say what was decided, once, beside the progress bar."""
    print(f"padis_lightning: {line}", file=sys.stderr)


def quieten() -> None:
    """Silence the framework's chatter; warnings about anything unexpected stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)


def find_config(name: str) -> str:
    """The path of a config: as given, or a name in the folder of shipped ones."""
    if Path(name).is_file():
        return name
    if (CONFIGS / name).is_file():
        return str(CONFIGS / name)
    known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml")))
    raise InputError(f"there is no config {name!r}; wanted a file or one of {known}")


def find_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Arguments with every config's path found and ``--config`` and ``--model`` in two words; the name of the last config."""
    split = ("--config=", "-c=", "--model=")
    out = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(split) else [arg])]
    name = "run"
    for i, (flag, value) in enumerate(pairwise(list(out))):
        if flag in CONFIG:
            out[i + 1] = find_config(value)
            name = Path(value).stem or name
    return out, name


def own_settings(args: Sequence[str]) -> list[str]:
    """Arguments in which ``--model NAME`` brings NAME's own settings rather than another solver's of the same names.

    The parser keeps what two classes share; by way of one that has neither steps nor levels only the common options are kept.

    Args:
        args: those of :func:`find_configs`.
    """
    if args[:1] != ["predict"] or "--model" not in args:
        return list(args)
    named = {_model_of(value) for flag, value in pairwise(args) if flag in CONFIG}
    out: list[str] = []
    for flag, value in pairwise([*args, ""]):
        if flag == "--model" and value and value.rpartition(".")[2] not in named:
            out += ["--model", "PseudoInverse"]
        out.append(flag)
    return out


def _model_of(config: str) -> str | None:
    """The short name of the class that a config's ``model`` names; None for one that the parser will refuse."""
    try:
        model = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["model"]
        return (model["class_path"] if isinstance(model, dict) else model).rpartition(".")[2]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None


class SaveConfig(SaveConfigCallback):
    """Keep the configuration in the run's folder, where it replays the run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` whole, over that of an earlier run."""
        write_text(Path(trainer.default_root_dir) / "config.yaml", self.parser.dump(self.config, skip_none=False))


class PadisCLI(LightningCLI):
    """``fit`` trains a prior, ``predict`` reconstructs with one."""

    def __init__(self, args: list[str], name: str) -> None:
        self.name = name
        quiet = {"exit_on_error": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "inference_mode": False,  # under it DPS cannot take gradients
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_kwargs={**quiet, "fit": dict(quiet), "predict": dict(quiet)},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The two things to do, and what of the trainer's arguments the command line fills in."""
        return {k: v for k, v in LightningCLI.subcommands().items() if k in ("fit", "predict")}

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse what was given, whatever the interpreter was started with."""
        self.config = parser.parse_args(args)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        self._adding = subcommand
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # else every result stays in memory
        return parser

    def _parse_ckpt_path(self) -> None:
        """A resumed run keeps the settings of its command line; :func:`check_resumable` refuses those that cannot be."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of each command besides model, data and trainer."""
        parser.add_argument("--output", type=str | None, default=None, help="folder for what is written")
        if self._adding == "fit":
            parser.add_lightning_class_args(EMA, "ema")
            parser.add_lightning_class_args(PriorExport, "export")
            parser.add_lightning_class_args(Samples, "samples")
            parser.add_lightning_class_args(Throughput, "throughput")
            parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
            parser.set_defaults({"checkpoint.save_last": True, "checkpoint.every_n_train_steps": 500})
            return
        parser.add_lightning_class_args(Results, "results")
        for key, base in (("prior", Prior), ("operator", LinearOperator)):
            parser.add_subclass_arguments(base, key, required=False)
            parser.link_arguments(key, f"model.init_args.{key}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Settle the folder, the scan of a measured file, and W&B without an account."""
        config = self.config[self.subcommand]
        self.output = config.output or str(Path("results") / self.name)
        config.output = config.trainer.default_root_dir = self.output
        if config.trainer.accelerator == "auto" and not torch.cuda.is_available():
            config.trainer.accelerator = "cpu"  # Apple's GPUs have neither sparse matrices nor float64
        if self.subcommand == "fit":
            config.checkpoint.dirpath = config.checkpoint.dirpath or str(Path(self.output) / "checkpoints")
            config.trainer.use_distributed_sampler = False  # batches are shared out by step already
        else:
            self._take_geometry(config)
        for logger in _as_list(config.trainer.logger):
            if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger"):
                logger.init_args.save_dir = self.output
                if not has_wandb_account():
                    os.environ.setdefault("WANDB_MODE", "offline")

    @staticmethod
    def _take_geometry(config: Namespace) -> None:
        path = config.data.init_args.get("path")  # Draws have none
        geometry = read_geometry(path) if path else None
        if geometry is None:
            return
        given = config.operator.init_args if config.operator else {}
        stacked = config.data.init_args.get("volumes") and "depth" in given
        own = given.operator.init_args if stacked else given
        kept = {k: own[k] for k in ("backend", "filter") if k in own}
        scan = Namespace(geometry=Namespace(geometry.describe()), **kept)
        config.operator = Namespace(class_path="padis_lightning.operators.ct.Scan", init_args=scan)
        if stacked:
            slices = Namespace(operator=config.operator, depth=given.depth)
            config.operator = Namespace(class_path="padis_lightning.operators.slices.Slices", init_args=slices)
        kind = "fan" if geometry.fan else "parallel"
        tell(f"{path} is a measurement of {len(geometry.angles)} {kind} views; its geometry is used")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """A trainer that logs to files in the run's folder and shows one kind of progress bar."""
        wanted = self._get(self.config_init, "trainer")
        if wanted["logger"] in (None, True):
            kwargs["logger"] = CSVLogger(self.output, name="log") if self.subcommand == "fit" else False
        if wanted["precision"] is None and self.subcommand == "fit" and wanted["accelerator"] in ("auto", "cpu", "gpu"):
            model = self._get(self.config_init, "model")
            deep = isinstance(model, PatchDiffusion) and model.denoiser.network.axes == 3
            on_processor = wanted["accelerator"] == "cpu"
            kwargs["precision"] = "32-true" if deep and on_processor else fast_precision(wanted["accelerator"])
        callbacks = _as_list(wanted["callbacks"])
        if wanted["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(TQDMProgressBar(refresh_rate=10 if self.subcommand == "fit" else 1, leave=True))
        return super().instantiate_trainer(**kwargs, callbacks=callbacks)

    def before_fit(self) -> None:
        """Check data and model against each other before anything is written."""
        if not isinstance(self.model, PatchDiffusion):
            raise InputError(f"the model to fit is {type(self.model).__name__}; wanted PatchDiffusion")
        if self.trainer.max_steps < 1:
            raise InputError(f"trainer.max_steps is {self.trainer.max_steps}; wanted at least 1, training is counted in steps")
        self.datamodule.setup("fit")
        self.model.adapt(self.datamodule)
        path = self._get(self.config, "ckpt_path")
        if path not in (None, "best", "last", "hpc"):
            check_resumable(path, self.model.patch_model())
        tell(f"training in {self.trainer.precision} precision; --trainer.precision sets another")

    def before_predict(self) -> None:
        """Check data, operator and prior against each other before anything is written."""
        if not isinstance(self.model, Solver):
            raise InputError(f"the model to predict with is {type(self.model).__name__}; wanted a solver")
        if self.model.needs_gradients and self._get(self.config_init, "trainer")["inference_mode"]:
            raise InputError(
                f"trainer.inference_mode is true; wanted false, since {type(self.model).__name__} takes gradients in its steps"
            )
        self.datamodule.setup("predict")
        check_together(self.model, self.datamodule)
        results = self._get(self.config_init, "results")
        results.config = yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False))
        results.check(Path(self.output), self.model, self.datamodule)
        for module in self.model.operator.modules():
            if isinstance(module, Projector):
                tell(f"projections by {module.describe()}")

    def after_predict(self) -> None:
        """Fail where images did."""
        lacking = self._get(self.config_init, "results").lacking
        if lacking:
            raise RunError(f"{lacking}; what is done is in {self.output}, the same command tries the others again")


def check_resumable(path: str, model: PatchModel) -> None:
    """Refuse a checkpoint of another network, image size, padding or normalisation than the run's.

    Raises:
        InputError: with both values.
    """
    if Path(path).suffix != ".ckpt" or not Path(path).is_file():
        raise InputError(f"there is no checkpoint {str(path)!r}; wanted a .ckpt file written by fit")
    theirs, ours = (json.loads(json.dumps(m.describe())) for m in (PatchModel.load(path), model))  # tuples become lists
    for key in ours:
        if key != "training" and theirs[key] != ours[key]:
            raise InputError(f"the checkpoint's {key} is {theirs[key]}; wanted {ours[key]}, the run's")


def check_together(solver: Solver, data: ImageData) -> None:
    """Refuse data that the operator or the prior was not made for.

    Raises:
        InputError: with both values.
    """
    wanted = Draws if isinstance(solver, Ancestral) else ImageData
    if not isinstance(data, wanted):
        raise InputError(f"the data is {type(data).__name__}; wanted {wanted.__name__} for {type(solver).__name__}")
    if isinstance(data, Draws):
        return
    if tuple(data.image_shape) != tuple(solver.operator.image_shape):
        raise InputError(
            f"the data's images are {tuple(data.image_shape)} ({axes_of(data.image_shape)}); "
            f"wanted {tuple(solver.operator.image_shape)}, what the operator takes"
        )
    prior = getattr(solver, "prior", None)
    trained = prior.normalisation if prior is not None else None
    windows = data.normalisation.window, trained.window if trained else None
    if None not in windows and windows[0] != windows[1]:
        raise InputError(f"the data's window is {windows[0]} HU; wanted {windows[1]} HU, what the prior was trained on")


def fast_precision(accelerator: str) -> str:
    """Mixed bfloat16 where the device computes in it, float32 elsewhere."""
    return "bf16-mixed" if has_bfloat16(accelerator) else "32-true"


def _as_list(value: Any) -> list:  # noqa: ANN401 - one or several of anything
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; input that cannot be used ends it with one sentence and exit code 2."""
    quieten()
    try:
        args = sys.argv[1:] if args is None else args
        if args and args[0] in COMMANDS:
            COMMANDS[args[0]](args[1:])
            return
        found, name = find_configs(args)
        PadisCLI(own_settings(found), name)
    except Exception as error:
        if isinstance(error, (FloatingPointError, RunError)):
            print(f"padis_lightning: error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"padis_lightning: error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None


def explain(error: BaseException | None) -> str | None:
    """One sentence for input that cannot be used, however deep the parser has wrapped it; None for any other error."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for link in chain:
        if isinstance(link, InputError):  # from a worker process it comes with the traceback there
            return str(link).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
    for link in chain:
        if isinstance(link, ArgumentError):
            return _parser_sentence(str(link))
        if isinstance(link, (MisconfigurationException, OSError)):
            return " ".join(str(link).split())
    return None


def _keys(cls: type) -> list[str]:
    """Names of what a class takes, those that it passes on to its bases included."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", lambda self, **rest: None)).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name != "self"}
        found |= dict.fromkeys(name for name, kind in kinds.items() if kind.name not in ("VAR_KEYWORD", "VAR_POSITIONAL"))
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return list(found)


def _parser_sentence(message: str) -> str:
    """The parser's message without the branches of a union that nobody meant."""
    unknown = re.search(r"class_path '([\w.]+)':\s+(?:- )?Option '([\w.]+)' is not accepted", message)
    if unknown:
        path, key = unknown.groups()
        module, _, name = path.rpartition(".")
        known = [k for k in _keys(getattr(importlib.import_module(module), name)) if k not in ("prior", "operator")]
        return f"{key!r} is not a key of {name}; wanted one of {', '.join(known)}"
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(noise))
