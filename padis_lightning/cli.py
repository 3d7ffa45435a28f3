"""The command line; the only file that knows LightningCLI."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm

import padis_lightning.networks
import padis_lightning.noise
import padis_lightning.solvers  # noqa: F401 - importing makes short class names known
from padis_lightning.callbacks import EMA, Checkpoints, PriorExport, Results, Samples, Throughput, Tracking, WholeCheckpoints
from padis_lightning.callbacks.checkpoint_io import newest
from padis_lightning.callbacks.csv_log import Log
from padis_lightning.callbacks.progress import Progress
from padis_lightning.callbacks.tracking import complete_wandb_options
from padis_lightning.canvas import axis_names
from padis_lightning.commands import doctor, prepare, report, snapshots, sweep
from padis_lightning.ct import ConeGeometry, Projector
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.draws import Draws
from padis_lightning.data.sources.open import read_geometry
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError, RunError
from padis_lightning.files import sweep_up, write_text
from padis_lightning.machine import has_bfloat16
from padis_lightning.messages.allowed import FLAG, VARIABLE, only, split_allowed
from padis_lightning.messages.configs import find_configs, own_settings
from padis_lightning.messages.parser import check_numbers, flat
from padis_lightning.messages.sentences import explain
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.solvers import Solver
from padis_lightning.solvers.ancestral import Ancestral
from padis_lightning.training import PatchDiffusion

COMMANDS = {  # those that are not Lightning's
    "doctor": doctor.run,
    "gather": report.gather,
    "import": snapshots.run,
    "prepare": prepare.run,
    "report": report.run,
    "sweep": sweep.run,
}
GROUPS = ("trainer", "results", "ema", "export", "samples", "throughput", "checkpoint", "tracking")  # keys that hold keys

HARMLESS = (  # warnings about choices that were made on purpose
    ".*does not have many workers",
    ".*Sparse CSR tensor support is in beta",
    ".*Sparse invariant checks are implicitly disabled",
    ".*Checkpoint directory .* exists and is not empty",
    ".*isinstance.*LeafSpec",
    ".*`use_distributed_sampler`",
    ".*couldn't infer the indices fetched for your dataloader",
    ".*Total length of .* across ranks is zero",
    ".*have overridden `transfer_batch_to_device` in `LightningModule`",
    ".*`srun` command is available on your system but is not used",
)


@rank_zero_only
def tell(line: str) -> None:
    """Say what was decided, once, above the progress bar."""
    tqdm.write(f"padis_lightning: {line}", file=sys.stderr)


def quieten() -> None:
    """Silence the framework's chatter; warnings about anything unexpected stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)


class SaveConfig(SaveConfigCallback):
    """Keep the configuration in the run's folder, where it replays the run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` whole, over that of an earlier run."""
        write_text(Path(trainer.default_root_dir) / "config.yaml", self.parser.dump(self.config, skip_none=False))


class PadisCLI(LightningCLI):
    """``fit`` trains a prior, ``predict`` reconstructs with one."""

    def __init__(self, args: list[str], name: str) -> None:
        self.name = name
        self._finished = False
        allow = f"{FLAG} MODULE (or the variable {VARIABLE}): a module of your own whose classes the config may name"
        quiet = {"exit_on_error": False}
        commands = {command: {**quiet, "epilog": allow} for command in self.subcommands()}
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
            parser_kwargs={**quiet, **commands},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The two things to do, and what of the trainer's arguments the command line fills in."""
        return {k: v for k, v in LightningCLI.subcommands().items() if k in ("fit", "predict")}

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse what was given, whatever the interpreter was started with."""
        with refusing("the command line or a config cannot be read"):
            self.config = parser.parse_args(args)
            check_settings(self.config[self.config.subcommand])

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
            parser.add_lightning_class_args(Checkpoints, "checkpoint")
            parser.add_lightning_class_args(Tracking, "tracking")  # after what it tells of
            parser.set_defaults({"checkpoint.save_last": True, "checkpoint.every_n_train_steps": 500})
            return
        parser.add_lightning_class_args(Results, "results")
        parser.add_lightning_class_args(Tracking, "tracking")
        for key, base in (("prior", Prior), ("operator", LinearOperator)):
            parser.add_subclass_arguments(base, key, required=False)
            target = "problem" if key == "operator" else key
            parser.link_arguments(key, f"model.init_args.{target}", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; a setting that one of them cannot be built with is the input's fault."""
        with refusing("the settings cannot be used"):
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        """Settle the folder, the scan of a measured file, and W&B without an account; a checkpoint never runs code."""
        config = self.config[self.subcommand]
        if config.weights_only is False:
            raise InputError("weights_only is false; wanted true, a checkpoint with objects in it can run code")
        config.weights_only = True
        if self.subcommand == "predict" and config.ckpt_path is not None:
            raise InputError(
                f"ckpt_path is {config.ckpt_path!r}; wanted --prior.checkpoint, which predict takes its weights from"
            )
        self.output = config.output or str(Path("results") / self.name)
        config.output = config.trainer.default_root_dir = self.output
        if config.trainer.accelerator == "auto" and not torch.cuda.is_available():
            config.trainer.accelerator = "cpu"  # Apple's GPUs have neither sparse matrices nor float64
        most, devices = max(os.cpu_count() or 1, 4), str(config.trainer.devices)
        if config.trainer.accelerator == "cpu" and devices.isdecimal() and int(devices) > most:
            raise InputError(f"trainer.devices is {devices}; wanted at most {most} on this machine's processor")
        if self.subcommand == "fit":
            config.checkpoint.dirpath = config.checkpoint.dirpath or str(Path(self.output) / "checkpoints")
            config.trainer.use_distributed_sampler = False  # batches are shared out by step already
        else:
            self._take_geometry(config)
        for logger in _as_list(config.trainer.logger):
            if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger"):
                complete_wandb_options(logger.init_args, self.output)

    @staticmethod
    def _take_geometry(config: Namespace) -> None:
        path = config.data.init_args.get("path")  # Draws have none
        geometry = read_geometry(path) if path else None
        if geometry is None:
            return
        given = config.operator.init_args if config.operator else {}
        cone = isinstance(geometry, ConeGeometry)
        stacked = not cone and config.data.init_args.get("volumes") and "depth" in given
        own = given.operator.init_args if stacked else given
        kept = {k: own[k] for k in ("backend", "filter") if k in own}
        described = Namespace(
            class_path=f"padis_lightning.ct.{type(geometry).__name__}", init_args=Namespace(geometry.describe())
        )
        scan = Namespace(geometry=described, **kept)
        kind = "cone.ConeScan" if cone else "ct.Scan"
        config.operator = Namespace(class_path=f"padis_lightning.operators.{kind}", init_args=scan)
        if stacked:
            slices = Namespace(operator=config.operator, depth=given.depth)
            config.operator = Namespace(class_path="padis_lightning.operators.slices.Slices", init_args=slices)
        rays = "cone" if cone else "fan" if geometry.fan else "parallel"
        tell(f"{path} is a measurement of {len(geometry.angles)} {rays} views; its geometry is used")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """A trainer that logs to files in the run's folder and shows one kind of progress bar."""
        wanted = self._get(self.config_init, "trainer")
        if wanted["logger"] in (None, True):
            kwargs["logger"] = Log(self.output, name="log") if self.subcommand == "fit" else False
        if wanted["precision"] is None and self.subcommand == "fit" and wanted["accelerator"] in ("auto", "cpu", "gpu"):
            model = self._get(self.config_init, "model")
            deep = isinstance(model, PatchDiffusion) and model.denoiser.network.axes == 3
            on_processor = wanted["accelerator"] == "cpu"
            kwargs["precision"] = "32-true" if deep and on_processor else fast_precision(wanted["accelerator"])
        plugins = _as_list(wanted["plugins"])
        if self.subcommand == "fit" and not any(isinstance(p, CheckpointIO) for p in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpoints()]
        callbacks = _as_list(wanted["callbacks"])
        if wanted["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(Progress(refresh_rate=10 if self.subcommand == "fit" else 1, leave=True))
        return super().instantiate_trainer(**kwargs, callbacks=callbacks)

    def before_fit(self) -> None:
        """Check data and model against each other before anything is written."""
        if not isinstance(self.model, PatchDiffusion):
            raise InputError(f"the model to fit is {type(self.model).__name__}; wanted PatchDiffusion")
        if self.trainer.max_steps < 1:
            raise InputError(f"trainer.max_steps is {self.trainer.max_steps}; wanted at least 1, training is counted in steps")
        self.datamodule.setup("fit")
        self.model.adapt(self.datamodule)
        sweep_up(Path(self.output))
        path = self._get(self.config, "ckpt_path")
        if path == "auto":
            path = self.config_init["fit"]["ckpt_path"] = self._find_checkpoint()
        if path not in (None, "best", "last", "hpc"):
            check_resumable(path, self.model.patch_model())
        if not self._finished:
            tell(f"training in {self.trainer.precision} precision; --trainer.precision sets another")

    def _find_checkpoint(self) -> str | None:
        """The checkpoint to go on from; None: the run has none yet."""
        folder, kept = Path(self.output), Path(self._get(self.config, "checkpoint").dirpath)
        found = newest([*kept.glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")], tell)
        if found is None:
            tell(f"there is no checkpoint in {kept}; training begins at step 0")
            return None
        path, steps = found
        if steps < self.trainer.max_steps:
            tell(f"going on from {path} at step {steps}")
        else:
            tell(f"{path} is at step {steps} of {self.trainer.max_steps}; training is finished")
            self._finished = True
        return str(path)

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's arguments
        """Train, or see to it that a finished run has its prior."""
        if not self._finished:
            self.trainer.fit(**kwargs)
        elif self.trainer.is_global_zero:
            self._get(self.config_init, "export").complete(Path(kwargs["ckpt_path"]), Path(self.output))

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


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Within the block an error that nothing explains is one of the input.

    Raises:
        InputError: in its place, with its message.
    """
    try:
        yield
    except Exception as error:
        if explain(error):
            raise
        raise InputError(f"{what} ({type(error).__name__}: {flat(str(error))[:300]}); wanted other values, see --help") from error


def check_settings(settings: Namespace) -> None:
    """Refuse what the parser lets through though nothing can use it.

    Raises:
        InputError: a group of keys is a value, a number is not finite or has more than 64 bits, or the seed is none.
    """
    for key in GROUPS:
        if key in settings and not isinstance(settings[key], Namespace):
            raise InputError(f"{key} is {settings[key]!r}; wanted keys and values")
    check_numbers(vars(settings.as_flat()))
    if not 0 <= settings.seed_everything < 2**32:
        raise InputError(f"seed_everything is {settings.seed_everything}; wanted 0 to {2**32 - 1}")


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
            f"the data's images are {tuple(data.image_shape)} ({axis_names(data.image_shape)}); "
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
    """Run a command; an error ends it with one sentence and exit code 1 (a run failed) or 2 (input that cannot be used)."""
    quieten()
    try:
        _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        print("padis_lightning: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        told = explain(error)
        if told is None:
            traceback.print_exc()
            told = f"{type(error).__name__} is a fault of padis_lightning; wanted a report with the lines above", 1
        sentence, code = told
        print(f"padis_lightning: error: {sentence}", file=sys.stderr)
        raise SystemExit(code) from None


def _run(args: list[str]) -> None:
    if args and args[0] in COMMANDS:
        COMMANDS[args[0]](args[1:])
        return
    commands = [*PadisCLI.subcommands(), *COMMANDS]
    words, modules = split_allowed(args)
    if not words or not words[0].startswith("-") and words[0] not in commands:
        seen = f"there is no command {words[0]!r}" if words else "no command is given"
        raise InputError(f"{seen}; wanted one of {', '.join(commands)}")
    found, name = find_configs(words)
    with only(modules):
        PadisCLI(own_settings(found), name)
