"""Snapshots of other codes become priors, and whatever else a pickle may want on loading is refused and never run."""

from __future__ import annotations

import copyreg
import functools
import io
import math
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import time
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from padis_lightning import pickles
from padis_lightning.commands.snapshot_prior import complete_settings, load
from padis_lightning.commands.snapshot_weights import read_state
from padis_lightning.commands.snapshots import run
from padis_lightning.commands.stand_ins import SnapshotReader
from padis_lightning.diffusion import Denoiser, NoPositions, PatchModel
from padis_lightning.errors import InputError
from padis_lightning.networks.ddpmpp import DDPMpp
from padis_lightning.networks.ddpmpp_weights import architecture, build_network
from padis_lightning.pickles import Record

from .test_networks import PARITY, from_published


def weights(name):
    """A set of published weights under the names within the preconditioned network."""
    prefix = f"{name}.state.model."
    return {k.removeprefix(prefix): v for k, v in PARITY.items() if k.startswith(prefix)}


def read(path):
    return pickles.read(path, SnapshotReader)


# ---- snapshots in the form of EDM's, without EDM's code


def reconstruct(meta):
    raise AssertionError("loading would run the code of the file")


class EasyDict(dict):
    pass


def named(thing, module, name):
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    fake = types.ModuleType(module)
    setattr(fake, name, thing)
    return fake


FAKES = [
    named(reconstruct, "torch_utils.persistence", "_reconstruct_persistent_obj"),
    named(EasyDict, "dnnlib.util", "EasyDict"),
    *map(types.ModuleType, ("torch_utils", "dnnlib")),
]


class Persistent(torch.nn.Module):
    """What EDM's decorator makes of a class: pickled with its source code, which the reader is asked to run."""

    source = "raise AssertionError"

    def __init__(self, kind, **attributes):
        super().__init__()
        self.__dict__ |= {"kind": kind, **attributes}

    def __reduce__(self):
        state = {k: v for k, v in self.__dict__.items() if k != "kind"}
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.kind, "state": state}
        return reconstruct, (meta,), None


def dump(value, path, protocol=4):
    with pytest.MonkeyPatch.context() as patch:
        for fake in FAKES:
            patch.setitem(sys.modules, fake.__name__, fake)
        path.write_bytes(pickle.dumps(value, protocol))
    return path


ATTRIBUTES = {  # numpy's square roots, as in the original
    "UNetBlock": {"skip_scale": np.sqrt(0.5), "num_heads": np.int64(1), "dropout": 0.13},
    "GroupNorm": {"eps": 1e-6, "num_groups": 4},
    "Conv2d": {"up": False, "_init_kwargs": {"init_weight": np.sqrt(0.2), "bias": np.bool_(True)}},
    "Linear": {"_init_args": (), "in_features": 3},
}


def module(name):
    last = name.rpartition("_")[2].rstrip("0123456789")
    kinds = {"norm": "GroupNorm", "layer": "Linear", "affine": "Linear", "augment": "Linear", "label": "Linear"}
    kind = "UNetBlock" if last in ("block", "in", "up", "down") else kinds.get(last, "Conv2d")
    return torch.nn.ModuleDict() if name in ("enc", "dec") else Persistent(kind, **ATTRIBUTES[kind])


def nest(state, root):
    for name, value in state.items():
        *path, leaf = name.split(".")
        here = root
        for part in path:
            here = here._modules.setdefault(part, module(part))
        if leaf in ("weight", "bias"):
            here._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
        else:
            here.register_buffer(leaf, value)
    return root


def network(state, kind="Patch_EDMPrecond", inner=None, **attributes):
    unet = Persistent(
        "SongUNet", label_dropout=0, _init_args=(), _init_kwargs=EasyDict(dropout=np.float64(0.13)), **(inner or {})
    )
    unet.map_label = None
    unet.map_noise = Persistent("PositionalEmbedding", num_channels=16, max_positions=10000, endpoint=True)
    outer = Persistent(kind, **{"sigma_data": 0.5, "sigma_max": math.inf, "label_dim": 0, **attributes})
    outer.model = nest(state, unet)
    return outer.eval()


def snapshot(state, **options):
    pipe = Persistent("AugmentPipe", p=0.12)
    pipe.register_buffer("Hz_geom", torch.ones(3))
    kwargs = EasyDict(class_name="training.dataset.ImageFolderDataset", path="images.zip", xflip=False)
    loss = Persistent("Patch_EDMLoss", P_mean=-1.2)
    return {"ema": network(state, **options), "loss_fn": loss, "augment_pipe": pipe, "dataset_kwargs": kwargs}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that exists once code of a snapshot has run."""
    path = tmp_path / "ran"
    monkeypatch.setattr(Persistent, "source", f"open({str(path)!r}, 'w').close()")
    return path


def agree(model, name, *patches):
    """Whether the prior's network is the published one."""
    return all(from_published(model.denoiser, name, patch) < 1e-8 for patch in patches)


# ---- what should work


def test_a_patch_network_becomes_its_prior(tmp_path, marker, capsys):
    extra = {"map_augment.weight": torch.randn(16, 9, generator=torch.Generator().manual_seed(0))}
    file = dump(snapshot(weights("gray") | extra), tmp_path / "network-snapshot-000500.pkl")
    out = tmp_path / "new" / "prior.safetensors"
    command = [str(file), "--patch_sizes", "32", "16", "--span", "0", "1", "--output"]
    run([*command, str(out)])
    model = PatchModel.load(out)
    assert agree(model, "gray", 16, 32)
    assert (model.image_shape, model.patch_sizes, model.pad) == ((1, 64, 64), [16, 32], (0, 0))
    assert model.denoiser.network.config["dropout"] == 0.13
    assert model.training["source"] == file.name and model.training["class"] == "Patch_EDMPrecond"
    (line,) = capsys.readouterr().out.splitlines()
    assert "image_size 64, patch_sizes 16 32, pad 0, span 0 1 (assumed image_size, pad)" in line
    run([*command, str(tmp_path / "half.safetensors"), "--half"])
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * out.stat().st_size
    assert not marker.exists()
    exec(Persistent.source)
    assert marker.exists()  # so the code in the file would have shown


def test_a_padded_network_of_colour_images_becomes_its_prior(tmp_path, marker, capsys):
    file, out = dump(snapshot(weights("colour")), tmp_path / "padis.pkl", protocol=3), tmp_path / "prior.safetensors"
    out.write_text("an earlier one")
    run([str(file), "--output", str(out), "--image_size", "256", "--patch_sizes", "16", "56"])
    model = PatchModel.load(out)
    assert agree(model, "colour", 16)
    assert (model.image_shape, model.patch_sizes, model.pad) == ((3, 256, 256), [16, 56], (24, 24))
    (line,) = capsys.readouterr().out.splitlines()
    assert "pad 24, span 0 1 (assumed pad, span)" in line
    assert not marker.exists()


def test_a_network_of_whole_images_needs_no_options(tmp_path, marker):
    state = weights("gray")
    state["enc.64x64_conv.weight"] = state["enc.64x64_conv.weight"][:, :1]
    kept = {k: v for k, v in state.items() if not k.endswith("resample_filter")}
    file = dump({"net": network(state, "EDMPrecond", sigma_data=0.7), "ema": None}, tmp_path / "edm.pkl")
    run([str(file), "--output", str(tmp_path / "prior.safetensors")])
    model = PatchModel.load(tmp_path / "prior.safetensors")
    assert (model.image_shape, model.patch_sizes, model.pad) == ((1, 64, 64), [64], (0, 0))
    ours = Denoiser(DDPMpp(positions=0, base=16, blocks=2, resolution=64), 0.7, NoPositions(), (-1.0, 1.0)).eval()
    ours.network.load_state_dict(kept)
    x, sigma, position = (PARITY[f"gray.16.{key}"] for key in ("x", "sigma", "position"))
    with torch.no_grad():
        assert torch.equal(model.denoiser.eval()(x, sigma, position), ours(x, sigma, position))


def test_the_averaged_network_is_preferred(tmp_path):
    state = weights("gray")
    other = {k: v + 1 if k == "map_layer0.bias" else v for k, v in state.items()}
    model = load(dump({"net": network(other), "ema": network(state)}, tmp_path / "a.pkl"), patch_sizes=[16])
    assert torch.equal(model.denoiser.network.map_layer0.bias, state["map_layer0.bias"])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_and_plain_values_are_what_pickle_itself_would_give(tmp_path, protocol, rng):
    long = torch.randn(7, 5, 3, generator=rng)
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    tensors = [long.to(kind) for kind in kinds] + [
        long > 0,
        long.permute(2, 0, 1)[1:, ::2],
        long[3, 1:, 1],
        torch.empty(0, 4),
        long[0, 0, 0],
    ]
    numbers = [np.float64(0.1), np.float32(0.1), np.int64(-5), np.uint8(200), np.bool_(True)]
    value = {
        "tensors": tensors,
        "parameter": torch.nn.Parameter(long),
        "numbers": [*numbers, 1, -1.5, True, None, "ä", b"\x00\xff", -(2**62), math.inf],
        "containers": [(), (1,), OrderedDict(a=1), {"b": (None, 2)}, [[]]],
        "records": [{1, 2}, torch.Size([2, 3]), torch.float32],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found, theirs = read(path), pickle.loads(path.read_bytes())
    for stored, b in zip([*found["tensors"], found["parameter"]], [*theirs["tensors"], theirs["parameter"]], strict=True):
        a = stored.tensor
        assert type(stored) is Record and type(a) is torch.Tensor and a.dtype == b.dtype
        assert a.stride() == b.stride() and torch.equal(a, b)
    assert found["numbers"] == theirs["numbers"] and found["containers"] == theirs["containers"]
    assert {type(x) for x in found["numbers"]} == {int, float, bool, type(None), str, bytes}
    assert type(found["containers"][2]) is dict
    members, size, dtype = found["records"]
    assert members == {1, 2} if protocol > 3 else members.arguments == ([1, 2],)
    assert size.name == "Size" and size.arguments == ((2, 3),) and dtype().name == "float32"


def test_names_are_those_of_a_state_dict(tmp_path):
    inner = torch.nn.ModuleDict({"a": torch.nn.ModuleList([torch.nn.Identity()])})
    inner["a"][0].register_parameter("w", torch.nn.Parameter(torch.ones(2)))
    inner["a"][0].register_parameter("none", None)
    inner.register_buffer("kept", torch.ones(3))
    inner.register_buffer("passing", torch.ones(3), persistent=False)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(inner))
    found = read(path)
    assert isinstance(found, Record) and found.name == "ModuleDict"
    assert set(read_state(found)) == set(inner.state_dict()) == {"a.0.w", "kept"}


# ---- what must never run


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(marker):
    return Call(os.system, f"touch {marker}")


class Stateful:
    """Runs when its state is set."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


def pushed(value):
    """The opcodes that push a short text or bytes."""
    data = value.encode() if isinstance(value, str) else value
    return (b"X" if isinstance(value, str) else b"B") + len(data).to_bytes(4, "little") + data


def found_by(module, name, argument):
    """A call of what STACK_GLOBAL finds, dots in the name included."""
    return b"\x80\x04" + pushed(module) + pushed(name) + b"\x93" + pushed(argument) + b"\x85R."


def in_hooks(marker):
    storage = torch.ones(2).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    return Call(torch._utils._rebuild_tensor_v2, typed, 0, (2,), (1,), False, OrderedDict(a=touch(marker)))


def saved(marker, archive):
    """Bytes as of a storage, written by torch."""
    stream = io.BytesIO()
    torch.save(touch(marker), stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


def opened(marker):
    return f"open({str(marker)!r}, 'w').close()"


SYSTEM, LOAD = f"{os.system.__module__}.system", torch.storage._load_from_bytes
SCALAR, ARRAY = np.float64(0).__reduce__()[0], np.zeros(2).__reduce__()[0]
RUNS = {  # each makes the marker when the standard unpickler reads it
    "system": (lambda m: {"ema": touch(m)}, SYSTEM),
    "eval": (lambda m: Call(eval, opened(m)), "builtins.eval"),
    "exec": (lambda m: [Call(exec, opened(m))], "builtins.exec"),
    "popen": (lambda m: Call(subprocess.call, ["touch", str(m)]), "subprocess.call"),
    "as a key": (lambda m: {touch(m): 1}, SYSTEM),
    "in hooks": (in_hooks, SYSTEM),
    "in a storage": (lambda m: Call(LOAD, saved(m, False)), SYSTEM),
    "in an archive": (lambda m: Call(LOAD, saved(m, True)), "the pickle opcode PERSID"),
    "torch.load": (lambda m: Call(torch.load, Call(io.BytesIO, pickle.dumps(touch(m)))), "torch.serialization.load"),
    "by method": (lambda m: Call(Path.write_text, m, "x"), f"{Path.write_text.__module__}.Path.write_text"),
    "by state": (Stateful, f"{Stateful.__module__}.Stateful"),
    "INST": (lambda m: f"(S'touch {m}'\nios\nsystem\n.".encode(), "the pickle opcode STRING"),
    "OBJ": (lambda m: f"(cos\nsystem\nS'touch {m}'\no.".encode(), "os.system"),
    "GLOBAL": (lambda m: f"cos\nsystem\n(S'touch {m}'\ntR.".encode(), "os.system"),
    "dotted": (lambda m: found_by("torch", "os.system", f"touch {m}"), "torch.os.system"),
    "dotted twice": (lambda m: found_by("torch", "serialization.os.system", f"touch {m}"), "torch.serialization.os.system"),
    "dotted known": (lambda m: found_by("torch", "storage._load_from_bytes", saved(m, False)), SYSTEM),
}
ONES = torch.storage.TypedStorage(wrap_storage=torch.ones(2).untyped_storage(), dtype=torch.float32, _internal=True)
TENSOR = (torch._utils._rebuild_tensor_v2, (ONES, 0, (2,), (1,), False, OrderedDict()))
ODD = {  # do nothing by themselves, and have no business in a snapshot either
    "known name by dots": (found_by("torch._utils", "x._rebuild_tensor_v2", "x"), "torch._utils.x._rebuild_tensor_v2"),
    "beyond a known name": (found_by("collections", "OrderedDict.fromkeys", "x"), "collections.OrderedDict.fromkeys"),
    "globals of a known name": (
        found_by("torch.storage", "_load_from_bytes.__globals__", "x"),
        "torch.storage._load_from_bytes._",
    ),
    "terminal": (found_by("posix\n\x1b[31m", "system", "x"), r"posix\n\x1b[31m.system"),
    "known name in a storage": (Call(LOAD, pickle.dumps(Call(LOAD, b""))), "torch.storage._load_from_bytes"),
    "object as a scalar": (Call(SCALAR, np.dtype("O"), pickle.dumps([])), "a numpy scalar of the type |O8"),
    "array": (np.zeros(2), f"{ARRAY.__module__}._reconstruct"),
    "partial": (functools.partial(print), "functools.partial"),
    "layer": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "state of a dictionary": (b"}}b.", None),
    "state of a name": (b"ctorch\nSize\n}X\x01\x00\x00\x00aNsb.", None),
    "slots of a name": (b"ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aNs\x86b.", None),
    "call of a value": (b"})R.", None),
    "call of a record": (b"ctorch\nSize\n)R)R.", None),
    "class of a value": (b"X\x01\x00\x00\x00a)\x81.", None),
    "items of a tensor": (pickle.dumps(Call(TENSOR[0], *TENSOR[1]), 3)[:-1] + b"(K\x01\x90.", None),
    "copy of a dictionary": (b"ccollections\nOrderedDict\n}\x85R.", None),
    "OBJ": (b"(ccollections\nOrderedDict\no.", "the pickle opcode OBJ"),
    "INST": (b"(icollections\nOrderedDict\n.", "the pickle opcode INST"),
    "NEWOBJ_EX": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "the pickle opcode NEWOBJ_EX"),
    "PERSID": (b"Pa\n.", "the pickle opcode PERSID"),
    "BINPERSID": (b"NQ.", "the pickle opcode BINPERSID"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "the pickle opcode EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "the pickle opcode EXT4"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "the pickle opcode NEXT_BUFFER"),
    "READONLY_BUFFER": (b"\x80\x05N\x98.", "the pickle opcode READONLY_BUFFER"),
}


def refused(made, tmp_path, name):
    """The command refuses what was made with one sentence that has the name, and leaves nothing behind."""
    path, folder = tmp_path / "a.pkl", tmp_path / "out"
    folder.mkdir()
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        dump(made, path)
    sentence = f"{path} wants {name}" if name else f"{path} cannot be read ("
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        run([str(path), "--output", str(folder / "prior.safetensors"), "--patch_sizes", "16"])
    wanted = (
        "on loading; wanted tensors and plain containers only, nothing was run" if name else "wanted a network snapshot (.pkl)"
    )
    assert str(caught.value).endswith(wanted)
    assert str(caught.value).isprintable()
    assert not list(folder.iterdir())
    return path


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
@pytest.mark.parametrize("case", RUNS)
def test_code_is_refused_by_name_and_not_run(case, tmp_path, marker):
    make, name = RUNS[case]
    path = refused(make(marker), tmp_path, name)
    assert not marker.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        try:
            pickle.loads(path.read_bytes())
        except Exception as error:
            print(f"{type(error).__name__} after the code has run")
    assert marker.exists()  # so it was a danger


@pytest.mark.parametrize("case", ODD)
def test_what_no_snapshot_needs_is_refused_by_name(case, tmp_path):
    refused(ODD[case][0], tmp_path, ODD[case][1])


def doubled(levels, begin, pair):
    """A value of ``levels`` pairs, each of the one before twice: as many paths as two to their power."""
    steps = b"".join(pair(level) for level in range(levels))
    return b"\x80\x04" + begin + b"\x94" + steps


def nested_tuples(levels):
    return b"}" + doubled(levels, b")", lambda level: b"h" + bytes([level]) + b"\x86\x94") + b"Ns."


def nested_modules(levels):
    """A network of modules, each with the one before under two names."""
    inner = torch.nn.ModuleDict()
    for _ in range(levels):
        outer = torch.nn.ModuleDict()
        outer._modules |= {"a": inner, "b": inner}
        inner = outer
    value = {"ema": Persistent("EDMPrecond")}
    value["ema"]._modules["model"] = inner
    return value


def nested_lists(levels=60):
    inner = []
    for _ in range(levels):
        inner = [inner, inner]
    return inner


SAME_HASH = [b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") for k in range(50_000)]
KEY = "wants a key that is neither text nor a small number on loading"
BOMBS = {
    "a key of many paths": (nested_tuples(200), KEY),
    "a deep key": (b"\x80\x04}N" + b"\x85" * 200_000 + b"Ns.", KEY),
    "keys of one hash": (b"\x80\x04}(" + b"".join(n + b"N" for n in SAME_HASH) + b"u.", KEY),
    "members of one hash": (b"\x80\x04\x8f(" + b"".join(SAME_HASH) + b"\x90.", KEY),
    "many paths": (nested_modules(28), "the network has the module .* twice; wanted"),
    "many opcodes": (b"\x80\x04]" + b"N0" * 10**6 + b".", "holds a list"),
    "a far place": (b"\x80\x04Nr\xff\xff\xff\xff.", "holds a NoneType"),
    "a long text": (b"\x80\x04\x8d" + bytes(7) + b"\x7f.", "cannot be read"),
    "a long frame": (b"\x80\x04\x95" + bytes(7) + b"\x7f.", "cannot be read"),
    "long bytes": (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "wants the pickle opcode BYTEARRAY8 on loading"),
    "a size of text": (pickle.dumps(Call(TENSOR[0], ONES, 0, (b"x", 2**36), (1, 1), False, OrderedDict())), "cannot be read"),
    "a size of many": (pickle.dumps(Call(TENSOR[0], ONES, 0, (2**62,) * 100_000, (1,), False, OrderedDict())), "cannot be read"),
    "a type of many paths": (pickle.dumps(Call(SCALAR, Call(np.dtype, nested_lists()), b"x")), "cannot be read"),
    "attributes of many": (
        b"\x80\x04}(" + b"".join(b"J" + k.to_bytes(4, "little") + b"N" for k in range(50_000)) + b"u\x940]"
        + (b"ctorch\nSize\n)Rh\x00ba" * 20_000) + b".", "holds a list",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_small_files_take_neither_long_nor_much(case, tmp_path):
    made, sentence = BOMBS[case]
    path = tmp_path / "a.pkl"
    path.write_bytes(made) if isinstance(made, bytes) else dump(made, path)
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=sentence):
        load(path)
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("where", ["attribute", "arguments", "weights", "meta", "loss"])
def test_code_within_a_snapshot_is_refused_by_name(where, tmp_path, marker):
    state, call = {"map_layer0.weight": torch.ones(2, 2)}, touch(marker)
    value = snapshot(state)
    inner = value["ema"].model
    if where == "attribute":
        inner.__dict__["__setstate__"] = call
    elif where == "arguments":
        inner._init_kwargs["dropout"] = call
    elif where == "weights":
        inner.map_layer0._parameters["bias"] = call
    elif where == "meta":
        inner.kind = call
    else:
        value["loss_fn"] = call
    refused(value, tmp_path, SYSTEM)
    assert not marker.exists()


def test_registered_extensions_are_refused(tmp_path, marker):
    data = b"\x80\x02\x82\xf0" + pushed(f"touch {marker}") + b"\x85R."
    copyreg.add_extension("os", "system", 0xF0)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # now it is in the cache that no find_class sees
        refused(data, tmp_path, "the pickle opcode EXT1")
        assert not marker.exists()
        pickle.loads(data)
        assert marker.exists()
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
        copyreg._extension_cache.pop(0xF0, None)


def test_attributes_are_kept_and_never_set(tmp_path):
    layer = torch.nn.ModuleDict()
    layer.__dict__ |= {"name": "other", "__class__": 1, "__setstate__": 2, "state": {}, "make": 3}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(layer))
    found = read(path)
    assert isinstance(found, Record) and found.name == "ModuleDict" and not hasattr(found, "__dict__")
    assert found.state["__setstate__"] == 2 and found.state["name"] == "other" and not callable(found)


# ---- files that are something else


def small(tmp_path):
    return dump(snapshot({"map_layer0.weight": torch.ones(2, 2)}), tmp_path / "small.pkl").read_bytes()


TINY = {"map_layer0.weight": torch.ones(2, 2)}
NO_SNAPSHOT = {
    "cut": (lambda folder: small(folder)[:-200], "cannot be read"),
    "empty": (lambda folder: b"", "cannot be read"),
    "text": (lambda folder: b"hello\n", "cannot be read"),
    "archive": (lambda folder: b"PK\x03\x04", "is an archive of torch.save"),
    "missing": (lambda folder: None, "there is no file"),
    "list": (lambda folder: [1], "holds a list; wanted a dictionary"),
    "keys": (
        lambda folder: {"weights\n": 1, "G_ema": 2},
        r"has the keys G_ema, weights\\n; wanted a network under 'ema' or 'net'",
    ),
    "none": (lambda folder: {"ema": None}, "has the keys ema; wanted"),
    "preconditioning": (
        lambda folder: {"ema": network(TINY, "VPPrecond")},
        "holds a network of the class VPPrecond; wanted EDMPrecond or Patch_EDMPrecond",
    ),
    "bare": (lambda folder: {"ema": Persistent("EDMPrecond")}, "without a module 'model'"),
    "class": (lambda folder: {"ema": Persistent("EDM\nPrecond")}, "cannot be read"),
}


@pytest.mark.parametrize("what", NO_SNAPSHOT)
def test_other_files_are_refused_with_one_sentence(what, tmp_path):
    make, sentence = NO_SNAPSHOT[what]
    made, path = make(tmp_path), tmp_path / "a.pkl"
    if isinstance(made, bytes):
        path.write_bytes(made)
    elif made is not None:
        dump(made, path)
    with pytest.raises(InputError, match=sentence) as caught:
        run([str(path), "--output", str(tmp_path / "prior.safetensors"), "--patch_sizes", "16"])
    assert str(caught.value).isprintable() and not (tmp_path / "prior.safetensors").exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (2,), (1,)), (-1, (1,), (1,)), (0, (2,), (2,)), (1, (2,), (-1,)), (0, (-1,), (1,)), (0, (2,), (2**62,)),
        (2**62, (1,), (1,)), (0, (3,), (0,)), (0, (2**32, 2**32), (0, 0)), (0, (2,), (1, 1)), (0, (2.0,), (1,)),
    ],
)  # fmt: skip
def test_a_tensor_lies_within_its_storage(offset, size, stride, tmp_path):
    path = tmp_path / "a.pkl"
    for whole, view in {True: (0, (2,), (1,)), False: (offset, size, stride)}.items():
        path.write_bytes(pickle.dumps(Call(TENSOR[0], ONES, *view, False, OrderedDict())))
        if whole:
            assert torch.equal(read(path).tensor, torch.ones(2))
        else:
            with pytest.raises(InputError, match="cannot be read"):
                read(path)


def stored(values=b"\0\0\x80?", count=1, kind="storage", keys=("0",), little=True, view=(), magic=0x1950A86A20F9469CFC6C):
    """The bytes of a storage of one float, 1 if nothing else is said."""
    described = pickle.dumps((kind, torch.FloatStorage, "0", "cpu", count, *view), 2)
    rest = [pickle.dumps(value, 2) for value in (magic, 1001, {"little_endian": little}, list(keys))]
    return b"".join([*rest[:3], described[:-1] + b"Q.", rest[3], (1).to_bytes(8, "little"), values])


@pytest.mark.parametrize(
    "options",
    [
        {"values": b""}, {"values": bytes(8)}, {"count": 2}, {"count": 2, "values": bytes(8)}, {"kind": "module"},
        {"keys": ()}, {"keys": "ab"}, {"little": False}, {"view": [("1", 0, 1)]}, {"magic": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_storage_is_as_torch_writes_it(options, tmp_path):
    path = tmp_path / "a.pkl"
    for given in ({"view": [None]}, options):
        path.write_bytes(pickle.dumps(Call(LOAD, stored(**given))))
        if given is not options:
            assert torch.equal(read(path).tensor, torch.ones(1))
    with pytest.raises(InputError, match="cannot be read"):
        read(path)


def test_damaged_files_raise_input_errors_only(tmp_path):
    data, draw, path = small(tmp_path), random.Random(0), tmp_path / "a.pkl"
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(draw.choice([1, 1, 3])):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        path.write_bytes(bytes(broken[: draw.choice([len(data), draw.randrange(len(data))])]))
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda inner: inner._modules.update(a=1), "_modules of SongUNet has a int as a; wanted a module"),
        (lambda inner: inner._parameters.update(a="x"), "_parameters of SongUNet has a str as a; wanted a tensor"),
        (lambda inner: inner._parameters.update({"a\x1b": 1}), r"_parameters of SongUNet has the name 'a\\x1b'"),
        (lambda inner: inner.__dict__.update(_buffers=[1]), "_buffers of SongUNet is a list; wanted a dictionary"),
        (lambda inner: inner._modules.update(a=endless()), "the network has the module a.a. twice; wanted DDPM"),
        (lambda inner: inner._init_kwargs.update(dropout="x"), "the network's dropout is a str; wanted a number"),
    ],
)
def test_records_that_are_no_network_are_refused(build, sentence, tmp_path):
    value = snapshot(weights("gray"))
    build(value["ema"].model)
    with pytest.raises(InputError, match=sentence):
        load(dump(value, tmp_path / "a.pkl"), patch_sizes=[16])


def endless():
    here = torch.nn.ModuleDict()
    here._modules["a"] = here
    return here


# ---- architectures


def meta(**options):
    with torch.device("meta"):
        return DDPMpp(**options)


NETWORKS = [
    {"base": 16},
    {"channels": 3, "base": 8, "multipliers": [1, 2, 2, 4], "attention_resolutions": [38, 76]},
    {"positions": 0, "base": 8, "multipliers": [2, 2, 2], "blocks": 1, "resolution": 32},
    {"base": 4, "multipliers": [3], "blocks": 3, "resolution": 64, "attention_resolutions": [64]},
    {"base": 12, "multipliers": [1, 1, 2, 2], "blocks": 2, "resolution": 256, "attention_resolutions": [32, 64, 256]},
]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_names_and_shapes_tell_the_architecture(options):
    ours = meta(**options)
    found = architecture(ours.state_dict())
    again = meta(**found)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    for key in ("channels", "positions", "base", "blocks", "resolution"):
        assert found[key] == ours.config[key]
    assert found["multipliers"] == list(ours.config["multipliers"])
    sides = [found["resolution"] >> level for level in range(len(found["multipliers"]))]
    assert set(found["attention_resolutions"]) == set(ours.config["attention_resolutions"]) & set(sides)


TOP, FILTER = "enc.64x64_conv.weight", "enc.32x32_down.conv0.resample_filter"
OTHER = {  # one change of a sound network each; None takes the weights away
    "fourier": ("map_noise.freqs", (8,), "has map_noise.freqs; wanted"),
    "classes": ("map_label.weight", (16, 10), "has map_label.weight; wanted the weights of DDPM[+][+] without class labels"),
    "residual": ("enc.32x32_aux_residual.weight", (16, 3, 3, 3), "has enc.32x32_aux_residual.weight; wanted"),
    "outputs": ("dec.32x32_aux_conv.weight", (1, 32, 3, 3), "has dec.32x32_aux_conv.weight; wanted"),
    "adm": ("out_norm.weight", (16,), "has out_norm.weight; wanted"),
    "more positions": (TOP, (16, 5, 3, 3), "takes 5 channels and gives 1; wanted as many, or 2 more for positions"),
    "no convolution": (TOP, (16,), "enc.64x64_conv.weight is 16; wanted the kernel of a convolution"),
    "no input": (TOP, None, "enc.64x64_conv.weight is missing; wanted"),
    "level": ("enc.12x12_block0.conv0.weight", (32, 32, 3, 3), "lacks enc.4x4_down.norm0.weight; wanted"),
    "width": ("enc.32x32_block0.conv0.weight", (40, 16, 3, 3), "wanted multiples of its first 16"),
    "lack": ("map_layer0.bias", None, "lacks map_layer0.bias; wanted the weights of DDPM[+][+]"),
    "surplus": ("enc.64x64_block0.gate", (3,), "has enc.64x64_block0.gate; wanted"),
    "scale": ("enc.64x64_block0.affine.weight", (32, 64), r"affine.weight is torch.float32 \(32, 64\); wanted floats \(16, 64\)"),
    "filter": (FILTER, (1, 1, 4, 4), "wanted the mean of 2x2 pixels"),
    "sum": (FILTER, (1, 1, 2, 2), "wanted the mean of 2x2 pixels"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_networks_are_refused_by_what_they_have(case):
    name, shape, sentence = OTHER[case]
    state = {key: value for key, value in weights("gray").items() if key != name}
    with pytest.raises(InputError, match=sentence):
        build_network(state if shape is None else state | {name: torch.ones(shape)})


def test_what_is_no_network_at_all_is_refused():
    whole = {k: v.long() if k == "map_layer0.bias" else v for k, v in weights("gray").items()}
    for state, sentence in (
        ({"fc.weight": torch.ones(2, 2)}, "has fc.weight and no level enc.NxN; wanted DDPM"),
        ({}, "has no weights and no level"),
        (whole, "map_layer0.bias is torch.int64"),
    ):
        with pytest.raises(InputError, match=sentence):
            build_network(state)


@pytest.mark.parametrize(
    ("kind", "key", "value", "sentence"),
    [
        ("UNetBlock", "skip_scale", 1, "skip_scale is 1; wanted 0.707107"),
        ("UNetBlock", "num_heads", 4, "num_heads is 4; wanted 1"),
        ("GroupNorm", "eps", 1e-5, "norm.?[.]eps is 1e-05; wanted 1e-06"),
        ("UNetBlock", "skip_scale", "x", "skip_scale is a str; wanted a number"),
        ("UNetBlock", "skip_scale", 10**400, "skip_scale is a int; wanted a number up to 1e9"),
    ],
)
def test_other_constants_are_refused(kind, key, value, sentence, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTRIBUTES[kind], key, value)
        file = dump(snapshot(weights("gray")), tmp_path / "a.pkl")
    with pytest.raises(InputError, match=sentence):
        load(file, patch_sizes=[16])


def test_weights_that_are_not_finite_are_refused_and_an_earlier_prior_stays(tmp_path):
    state = weights("gray")
    state["map_layer0.bias"] = torch.full_like(state["map_layer0.bias"], math.nan)
    out = tmp_path / "prior.safetensors"
    out.write_text("an earlier one")
    with pytest.raises(InputError, match="weights of map_layer0.bias are not finite"):
        run([str(dump(snapshot(state), tmp_path / "a.pkl")), "--output", str(out), "--patch_sizes", "16"])
    assert out.read_text() == "an earlier one" and {p.name for p in tmp_path.iterdir()} == {"a.pkl", out.name}


# ---- options

PADDED, WHOLE = meta(base=4), meta(base=4, positions=0, resolution=64)


@pytest.mark.parametrize(
    ("network", "options", "wanted"),
    [
        (WHOLE, {}, (64, [64], 0, (-1, 1))),
        (PADDED, {"image_size": 256, "patch_sizes": [56, 16, 32, 16]}, (256, [16, 32, 56], 24, (0, 1))),
        (PADDED, {"patch_sizes": [16]}, (304, [16], 0, (-1, 1))),
        (PADDED, {"image_size": 320, "patch_sizes": [16], "span": [0, 2]}, (320, [16], 0, (0, 2))),
        (PADDED, {"image_size": 255, "patch_sizes": [16], "pad": 3, "span": [0, 1]}, (255, [16], 3, (0, 1))),
    ],
)
def test_what_is_not_given_follows_from_the_resolution(network, options, wanted):
    assert tuple(complete_settings(network, **options).values()) == wanted


@pytest.mark.parametrize(
    ("network", "options", "sentence"),
    [
        (PADDED, {}, "patch_sizes is missing; wanted those of the training"),
        (PADDED, {"patch_sizes": [12]}, "patch size 12 does not fit; wanted a multiple of 8 up to 304"),
        (PADDED, {"patch_sizes": [-8]}, "patch size -8 does not fit"),
        (PADDED, {"patch_sizes": [56, 312], "image_size": 256}, "patch size 312 does not fit; wanted a multiple of 8 up to 304"),
        (PADDED, {"patch_sizes": [16], "image_size": 255}, "image_size is 255 and .* resolution 304; wanted --pad, 49"),
        (PADDED, {"patch_sizes": [16], "image_size": 0}, "image_size is 0; wanted at least 1"),
        (PADDED, {"patch_sizes": [16], "pad": -1}, "pad is -1; wanted at least 0"),
        (PADDED, {"patch_sizes": [16], "span": [1, 1]}, "wanted two values, the lower first"),
        (PADDED, {"patch_sizes": [16], "span": [0, math.nan]}, "wanted two values, the lower first"),
        (PADDED, {"patch_sizes": [16], "span": [0, math.inf]}, "wanted two values, the lower first"),
        (WHOLE, {"image_size": 60}, "patch size 60 does not fit; wanted a multiple of 8 up to 64"),
    ],
)
def test_settings_that_do_not_fit_are_refused(network, options, sentence):
    with pytest.raises(InputError, match=sentence):
        complete_settings(network, **options)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("a.pkl", "--output; wanted what import --help lists"),
        ("--output a.safetensors", "file; wanted what import --help lists"),
        ("a.pkl --output a.ckpt", "output is 'a.ckpt'; wanted a name that ends in .safetensors"),
        ("a.pkl --output a.safetensors --pad x", "argument --pad: invalid int value: 'x'; wanted"),
        ("a.pkl --output a.safetensors --patch_sizes 16 a", "argument --patch_sizes: invalid int value: 'a'; wanted"),
        ("a.pkl --output a.safetensors --size 4", "unrecognized arguments: --size 4; wanted"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_sentence(args, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        run(args.split())
