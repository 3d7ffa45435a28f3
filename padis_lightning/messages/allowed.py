"""What a config may name: classes of this package and a few of Lightning's, and of modules that the command line permits.

Importing a module runs it, calling what a config names runs that, and a config may come from anybody. So a name is held against
a list of classes before it is imported, and what a config holds in the end against the same list before anything is built:
only classes, never functions. The list has no class that runs, imports or writes what its arguments say.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from padis_lightning.errors import InputError

FLAG, VARIABLE = "--allow", "PADIS_LIGHTNING_ALLOW"

LIGHTNINGS = {  # by the package that shows them, each with the arguments that a config may give
    "lightning.pytorch.accelerators": {"CPUAccelerator": "", "CUDAAccelerator": "", "MPSAccelerator": ""},
    "lightning.pytorch.callbacks": {
        "DeviceStatsMonitor": "cpu_stats",
        "EarlyStopping": "monitor min_delta patience verbose mode strict check_finite stopping_threshold divergence_threshold "
        "check_on_train_epoch_end log_rank_zero_only",
        "GradientAccumulationScheduler": "scheduling",
        "LearningRateMonitor": "logging_interval log_momentum log_weight_decay",
        "ModelSummary": "max_depth",
        "RichModelSummary": "max_depth",
        "RichProgressBar": "refresh_rate leave",
        "TQDMProgressBar": "refresh_rate process_position leave",
        "Timer": "duration interval verbose",
    },
    "lightning.pytorch.loggers": {
        "CSVLogger": "save_dir name version prefix flush_logs_every_n_steps",
        "TensorBoardLogger": "save_dir name version log_graph default_hp_metric prefix sub_dir",
        # no settings, which name a server, and no entity, which may be another's: W&B's variables say where runs go
        "WandbLogger": "save_dir name version offline dir id project log_model prefix checkpoint_name group job_type tags notes",
    },
    "lightning.pytorch.plugins": {
        "AsyncCheckpointIO": "checkpoint_io",
        "DoublePrecision": "",
        "FSDPPrecision": "precision",
        "HalfPrecision": "precision",
        "MixedPrecision": "precision device",
        "TorchCheckpointIO": "",
    },
    "lightning.pytorch.plugins.environments": {
        "LightningEnvironment": "",
        "MPIEnvironment": "",
        "SLURMEnvironment": "auto_requeue requeue_signal",
        "TorchElasticEnvironment": "",
    },
    "lightning.pytorch.profilers": {
        "AdvancedProfiler": "dirpath filename line_count_restriction dump_stats",
        "PyTorchProfiler": "dirpath filename group_by_input_shapes emit_nvtx export_to_chrome row_limit sort_by_key "
        "record_module_names",
        "SimpleProfiler": "dirpath filename extended",
    },
    "lightning.pytorch.strategies": {
        "DDPStrategy": "accelerator cluster_environment checkpoint_io precision_plugin process_group_backend timeout "
        "start_method find_unused_parameters gradient_as_bucket_view static_graph broadcast_buffers bucket_cap_mb",
        "FSDPStrategy": "accelerator cluster_environment checkpoint_io precision_plugin process_group_backend timeout "
        "cpu_offload sharding_strategy state_dict_type device_mesh",
        "SingleDeviceStrategy": "device accelerator checkpoint_io precision_plugin",
    },
}
OURS = {  # classes of which subclasses may be named
    "padis_lightning.callbacks": ("Animation",),
    "padis_lightning.ct": ("ConeGeometry", "Geometry"),
    "padis_lightning.data.datamodule": ("ImageData",),
    "padis_lightning.data.draws": ("Draws",),
    "padis_lightning.diffusion": ("Positions",),
    "padis_lightning.networks": ("PatchNetwork",),
    "padis_lightning.noise": ("Noise",),
    "padis_lightning.operators": ("LinearOperator",),
    "padis_lightning.priors": ("Prior",),
    "padis_lightning.priors.tiling": ("Tiling",),
    "padis_lightning.solvers": ("Solver",),
    "padis_lightning.solvers.adaptation": ("Adaptation",),
    "padis_lightning.training": ("PatchDiffusion",),
}
PARTS = [package.rpartition(".")[2] for package in LIGHTNINGS]
BASES = ("lightning.LightningModule", "lightning.LightningDataModule")  # what the parser takes where no class is named


def split_allowed(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without each ``--allow MODULE``, and these modules with those of the environment.

    Raises:
        InputError: what is to be allowed is missing or no module's name.
    """
    rest: list[str] = []
    modules = os.environ.get(VARIABLE, "").replace(",", " ").split()
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == FLAG:
            modules.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    for module in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module) or module.partition(".")[0] == "jsonargparse":
            raise InputError(f"{FLAG} names {module!r}; wanted a module such as my_solvers")
    return rest, modules


@contextmanager
def importable(modules: Sequence[str]) -> Iterator[None]:
    """Let modules that are permitted be found in the working folder within the block, after all libraries."""
    here = os.getcwd()
    added = bool(modules) and not {"", here} & {*sys.path}
    sys.path += [here] * added
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


@functools.cache
def allowed_names() -> frozenset[str]:
    """Return the full names of the classes of this package and of Lightning that a config may name."""
    from padis_lightning.registry import subclasses  # imports torch, for which --help need not wait

    names = set()
    for package, members in (OURS | LIGHTNINGS).items():
        module = importlib.import_module(package)
        for base in (getattr(module, name) for name in members):
            below = subclasses(base) if package in OURS else ()
            classes = {base, *(cls for cls in below if cls.__module__.startswith("padis_lightning."))}
            names |= {f"{package}.{base.__name__}", *(name for cls in classes for name in _names(cls))}
    return frozenset(names)


def _names(cls: type) -> Iterator[str]:
    """Yield the names by which the modules above a class know it, its own first."""
    parts = cls.__module__.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if end == len(parts) or getattr(sys.modules.get(module), cls.__name__, None) is cls:
            yield f"{module}.{cls.__qualname__}"


@contextmanager
def only(modules: Sequence[str]) -> Iterator[None]:
    """Let a config name classes on the list or under ``modules`` within the block, and nothing of ``modules`` after it."""
    from jsonargparse import set_parsing_settings

    names = allowed_names()
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted({*names, *modules}),
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,
    )
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=sorted(set(modules) - names))


def check_classes(value: Any, modules: Sequence[str], key: str = "") -> None:  # noqa: ANN401 - a config
    """Refuse a parsed config that holds a function, or a class that is not on the list, at any depth.

    Args:
        value: the config or a part of it.
        modules: those that are permitted besides the list.
        key: where the part is.

    Raises:
        InputError: with the key and the name.
    """
    if callable(value) and not isinstance(value, Mapping):
        raise InputError(f"{key} names {_name_of(value)}, which is called; wanted a class with its init_args")
    if isinstance(value, (list, tuple, set)):
        for item in value:
            check_classes(item, modules, key)
    entries = entries_of(value)
    if "class_path" in entries:
        path = entries["class_path"]
        cls = find_class(path)
        permitted = path in allowed_names() or any(f"{path}.".startswith(f"{module}.") for module in modules)
        if cls is None or not permitted:
            raise InputError(f"{key} names {path}; wanted a class of the kind that {key} takes, see --help")
        if path in allowed_names() and cls.__module__.startswith("lightning."):
            _check_arguments(cls, entries, key)
    for name, item in entries.items():
        check_classes(item, modules, f"{key}.{name}".removeprefix(".").replace(".init_args", ""))


def _check_arguments(cls: type, entries: Mapping[str, Any], key: str) -> None:
    """Refuse arguments of a class of Lightning that are not on the list, unless they are as without a config."""
    listed = next(members[cls.__name__] for members in LIGHTNINGS.values() if cls.__name__ in members).split()
    for name, value in {**entries_of(entries.get("init_args")), **entries_of(entries.get("dict_kwargs"))}.items():
        if name not in listed and value not in (None, default_of(cls, name)):
            wanted = f"one of {', '.join(listed)}" if listed else "none"
            raise InputError(f"{key}.{name} is an argument of {cls.__name__} that no config may give; wanted {wanted}")


def default_of(cls: type, name: str) -> Any:  # noqa: ANN401 - of an argument
    """Return what an argument of a class is where it is not given; None for one that must be, or is not there."""
    parameter = inspect.signature(cls).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def entries_of(value: object) -> dict[str, Any]:
    """Return keys and values of a part of a parsed config; none of anything else."""
    return dict(value) if isinstance(value, Mapping) else dict(vars(value)) if type(value).__name__ == "Namespace" else {}


def _name_of(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"


def find_class(path: object) -> type | None:
    """Return the class of a full name that is already imported, else None."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    cls = getattr(sys.modules.get(module), name, None)
    return cls if inspect.isclass(cls) else None


def refused(message: str) -> str | None:
    """Return one sentence if the parser's message says that a name is not on the list, else None."""
    found = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if found is None or found[1] in BASES:
        return None
    path = found[1]
    module = path.rpartition(".")[0] or path
    return (
        f"the config names {path}; wanted a class of padis_lightning that the key takes, one of Lightning's usual "
        f"{', '.join(PARTS)}, or {FLAG} {module} on the command line to permit it"
    )
