"""``fit`` and ``predict``; the only file that knows LightningCLI."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from padis_lightning.callbacks import EMA, Checkpoints, PriorExport, Results, Samples, Throughput, Tracking
from padis_lightning.callbacks.resuming import find_checkpoint, run_of, take_over
from padis_lightning.callbacks.setup import (
    SaveConfig,
    in_folder,
    leave_requeueing_to_lightning,
    name_wandb_run,
    tell,
    trainer_parts,
)
from padis_lightning.commands import main as main
from padis_lightning.ct import Projector
from padis_lightning.errors import RunError
from padis_lightning.files import sweep_up
from padis_lightning.locks import WriteLock
from padis_lightning.machine import choose_accelerator, has_bfloat16, in_bfloat16
from padis_lightning.messages.allowed import FLAG, VARIABLE, importable, only, split_allowed
from padis_lightning.messages.checks import check_config
from padis_lightning.messages.configs import find_configs, inline, read_config
from padis_lightning.messages.measurements import take_measurement
from padis_lightning.messages.parser import parsing
from padis_lightning.messages.sentences import refusing
from padis_lightning.operators import LinearOperator
from padis_lightning.priors import Prior
from padis_lightning.solvers.checks import check_run
from padis_lightning.training import PatchDiffusion
from padis_lightning.training.checks import check_training

GROUPS = {
    "fit": {
        "ema": EMA, "export": PriorExport, "samples": Samples, "throughput": Throughput, "checkpoint": Checkpoints,
        "tracking": Tracking,  # after what it reports
    },
    "predict": {"results": Results, "tracking": Tracking},
}  # fmt: skip


class PadisCLI(LightningCLI):
    """Parse, build and run ``fit``, which trains a prior, or ``predict``, which reconstructs with one.

    Args:
        args: the command's name and its arguments, with configs inline.
        name: of the folder in ``results``, unless ``--output`` gives one.
        modules: modules of the user's that a config may name.
        held: what takes the lock of the run's folder and holds it as long as the caller wants.
    """

    def __init__(self, args: Sequence[str], name: str, modules: Sequence[str], held: ExitStack) -> None:
        self.name, self.modules, self._held, self._finished = name, modules, held, False
        self.command = next((word for word in args if word in GROUPS), "fit")
        allow = f"{FLAG} MODULE (or the variable {VARIABLE}): a module of your own whose classes the config may name"
        with only(modules):
            super().__init__(
                LightningModule,
                LightningDataModule,
                save_config_callback=SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                trainer_defaults={"inference_mode": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
                seed_everything_default=0,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                parser_kwargs={"exit_on_error": False, self.command: {"exit_on_error": False, "epilog": allow}},
                args=list(args),
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method there
        """Return the command and what of the trainer's arguments the command line fills in."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what was given, whatever the interpreter was started with, and hold it against what is allowed."""
        assert isinstance(args, list)
        types = {a.dest: getattr(a, "_typehint", a.type) for a in self._subcommand_parsers[self.command]._actions}
        with parsing(types):
            self.config = parser.parse_args(args)
        config = self.config[self.command]
        self.output = config.output or str(Path("results") / self.name)
        check_config(config, ("trainer", *GROUPS[self.command]), self.modules, args, self.output)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # else every result stays in memory
        return parser

    def _parse_ckpt_path(self) -> None:
        """Let a resumed run keep the settings of its command line; those that cannot be are refused later."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys of the command besides model, data and trainer."""
        parser.add_argument("--output", type=str | None, default=None, help="folder for what is written")
        for key, callback in GROUPS[self.command].items():
            parser.add_lightning_class_args(callback, key)
        if self.command == "fit":
            forget = "where the folder holds a run of other settings, forget it; otherwise it is refused"
            parser.add_argument("--overwrite", type=bool, default=False, help=forget)
            return parser.set_defaults({"checkpoint.save_last": True, "checkpoint.every_n_train_steps": 500})
        for key, base, target in (("prior", Prior, "prior"), ("operator", LinearOperator, "problem")):
            parser.add_subclass_arguments(base, key, required=False)
            parser.link_arguments(key, f"model.init_args.{target}", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; a setting that one of them cannot be built with is the input's fault."""
        with refusing("the settings cannot be used"):
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        """Fill in the folder, the scan of a measured file, and W&B without an account; a checkpoint never runs code."""
        config = self.config[self.command]
        config.weights_only = True
        config.output = config.trainer.default_root_dir = self.output
        config.trainer.accelerator = choose_accelerator(config.trainer.accelerator, config.trainer.devices)
        if self.command == "fit":
            config.trainer.use_distributed_sampler = False  # batches are shared out by step already
        else:
            tell(take_measurement(config))
        name_wandb_run(config.trainer.logger, self.output)

    def _run_subcommand(self, subcommand: str) -> None:
        with in_folder(self.output, self.trainer):
            super()._run_subcommand(subcommand)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Build a trainer that logs to files in the run's folder and shows one kind of progress bar."""
        volumetric = isinstance(self.model, PatchDiffusion) and self.model.denoiser.network.axes == 3
        parts = trainer_parts(self._get(self.config_init, "trainer"), self.output, self.command == "fit", volumetric)
        return super().instantiate_trainer(**kwargs, **parts)

    def before_fit(self) -> None:
        """Check data and model against each other before anything is written."""
        check_training(self.model, self.trainer.max_steps)
        self.datamodule.setup("fit")
        self.model.adapt(self.datamodule)
        if self.trainer.is_global_zero:
            self._held.enter_context(WriteLock(Path(self.output)))
            sweep_up(Path(self.output))
        checkpoints = self._get(self.config_init, "checkpoint")
        checkpoints.dirpath = checkpoints.dirpath or str((Path(self.output) / "checkpoints").absolute())
        settings, where, ours = self.config_init["fit"], (Path(self.output), Path(checkpoints.dirpath)), self._settings()
        if not str(settings["ckpt_path"]).endswith(".ckpt"):
            take_over(*where, ours, read_config, overwrite=settings["overwrite"], forgets=self.trainer.is_global_zero)
        checkpoints.run, model = run_of(ours), self.model.patch_model()
        found = find_checkpoint(settings["ckpt_path"], *where, self.trainer.max_steps, model, checkpoints.run)
        settings["ckpt_path"], self._finished = found
        leave_requeueing_to_lightning()
        if not self._finished:
            tell(f"training in {self.trainer.precision} precision; --trainer.precision sets another")
            imitated = in_bfloat16(self.trainer.precision) and not has_bfloat16(self.trainer.strategy.root_device.type)
            if imitated:
                tell("this device imitates bfloat16, which may take ten times as long as --trainer.precision 32-true")

    def _settings(self) -> dict[str, Any]:
        """Return the configuration as ``config.yaml`` has it."""
        return yaml.safe_load(self._parser(self.command).dump(self.config[self.command], skip_none=False))

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's arguments
        """Train, or see to it that a finished run has its prior."""
        if not self._finished:
            self.trainer.fit(**kwargs)
        elif self.trainer.is_global_zero:
            self._get(self.config_init, "export").complete(Path(kwargs["ckpt_path"]), Path(self.output), kwargs["datamodule"])

    def before_predict(self) -> None:
        """Check data, operator and prior against each other before anything is written."""
        check_run(self.model, self.datamodule, self._get(self.config_init, "trainer")["inference_mode"])
        results = self._get(self.config_init, "results")
        results.config = self._settings()
        folder, data = Path(self.output), self.datamodule
        results.check(folder, self.model, data)
        if self.trainer.is_global_zero:
            results.claim(folder, self.model, data, self._held)
        for projector in filter(lambda module: isinstance(module, Projector), self.model.operator.modules()):
            tell(f"projections by {projector.describe()}")

    def after_predict(self) -> None:
        """Fail where images did."""
        if lacking := self._get(self.config_init, "results").lacking:
            raise RunError(f"{lacking}; what is done is in {self.output}, the same command tries the others again")


def _run(command: str, args: Sequence[str]) -> None:
    words, modules = split_allowed([command, *args])
    words, name = find_configs(words)
    with importable(modules), ExitStack() as held:
        PadisCLI(inline(words), name, modules, held)


fit, predict = partial(_run, "fit"), partial(_run, "predict")
