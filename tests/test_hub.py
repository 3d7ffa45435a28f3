"""Priors by name: downloaded once from a Hub on this machine, checked, used offline; published and used elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from padis_lightning.commands import main
from padis_lightning.diffusion import PatchModel
from padis_lightning.errors import InputError
from padis_lightning.hub import Address
from padis_lightning.messages.paths import check_paths
from tests.chaos.runner import Forker
from tests.conftest import small_model
from tests.hub_server import SIGNATURE, TOKEN, Hub
from tests.test_scheduled_denoisers import VP, write_folder

FETCH = """
import sys, time
time.sleep = lambda seconds: None  # between tries
from padis_lightning.errors import InputError
from padis_lightning.hub import fetch, fetch_folder
address, *names = sys.argv[1:]
try:
    print(fetch_folder(address, names) if names else fetch(address))
except InputError as error:
    sys.exit(f"refused: {error}")
"""
DENOISE = """
import hashlib, sys, torch
import padis_lightning as pl
try:
    priors = pl.DenoiserPrior(sys.argv[1]), pl.load_prior(sys.argv[1])
except pl.InputError as error:
    sys.exit(f"refused: {error}")
for prior in priors:
    found = prior(torch.linspace(0, 1, 64).reshape(1, 1, 8, 8), 0.3, None)
    print(type(prior).__name__, hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""
UNFIT = "hf_WrongSecretOfTheTests", f"{TOKEN}\x01", f"{TOKEN}\u2603"  # two of them no header can carry


class Machine:
    """Runs Python on a machine of its own: one home, one cache, perhaps a token and a network."""

    def __init__(self, home: Path, hub: Hub, **variables: str) -> None:
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HOME": str(home)}
        plain = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.home, self.said, self.env, self.forker = home, "", {**plain, **own, **variables}, Forker()
        home.mkdir(exist_ok=True)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the package, or ``-c``, code and what it is given."""
        child = self.forker.start(words, self.home, {**self.env, **variables})
        done = subprocess.CompletedProcess(words, child.wait(), child.stdout, child.stderr)
        self.said += done.stdout + done.stderr
        return done

    def fetch(self, address: str, *names: str, **variables: str) -> Path:
        """The file of an address, or its folder with the files of these names."""
        done = self.run("-c", FETCH, address, *names, **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def refused(self, address: str, *names: str, **variables: str) -> str:
        """The sentence by which an address is refused, and nothing else is said."""
        done = self.run("-c", FETCH, address, *names, **variables)
        assert done.returncode == 1 and done.stdout == "", done.stdout
        (said,) = [line for line in done.stderr.splitlines() if line and "%|" not in line]
        assert said.startswith("refused: ") and "; wanted " in said
        return said

    def cached(self) -> list[str]:
        """The names of all content in the cache that counts as whole."""
        return [path.name for path in (self.home / "hf").glob("hub/*/blobs/*") if path.suffix != ".incomplete"]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    """Neither a token nor a place of this machine's own."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def hub():
    with Hub() as served:
        yield served


@pytest.fixture
def machine(tmp_path, hub):
    return Machine(tmp_path / "machine", hub)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    model = small_model()
    model.training = {"data": "12 slices | of 4 patients", "steps": 3, "padis_lightning": "0.1.0", "credit": "by nobody"}
    model.save(path)
    return path


def said_no(capsys, *words: object) -> str:
    """The sentence by which a command refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    (said,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "; wanted " in said
    return said


def test_a_prior_is_downloaded_once_and_then_used_without_a_network(prior, machine, hub):
    commit = hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    path = machine.fetch("hf://me/ct")
    assert path.read_bytes() == prior.read_bytes()
    digest = hashlib.sha256(prior.read_bytes()).hexdigest()
    line = f"padis_lightning: hf://me/ct is prior.safetensors of commit {commit}, SHA-256 {digest}\n"
    assert line in machine.said
    assert machine.fetch("hf://me/ct") == path and hub.asked.total() == 1
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert machine.fetch("hf://me/ct", **nowhere) == machine.fetch("hf://me/ct", HF_HUB_OFFLINE="1") == path
    assert machine.said.count(line) == 4


def test_a_revision_is_a_branch_a_tag_or_a_commit(prior, machine, hub):
    first = hub.commit("me/ct", {"prior.safetensors": b"old", "more/other.safetensors": b"other"}, "main", "v1", "refs/pr/1")
    hub.commit("me/ct", {"prior.safetensors": b"new"})
    for address, content in {
        "hf://me/ct": b"new", "hf://me/ct@v1": b"old", f"hf://me/ct@{first}": b"old", "hf://me/ct@refs/pr/1": b"old",
        "hf://me/ct@v1/more/other.safetensors": b"other", "hf://me/ct/prior.safetensors": b"new",
    }.items():  # fmt: skip
        assert machine.fetch(address).read_bytes() == content, address
    assert hub.asked.total() == 3  # contents, each once
    hub.commit("me/ct", {"prior.safetensors": b"newest"})
    assert machine.fetch("hf://me/ct").read_bytes() == b"newest"
    assert machine.fetch("hf://me/ct@v1", HF_HUB_OFFLINE="1").read_bytes() == b"old"


def test_a_broken_download_goes_on_where_it_broke(machine, hub):
    content = bytes(range(251)) * 100_000  # more than the library takes at once
    hub.commit("me/ct", {"prior.safetensors": content})
    hub.cuts = 1
    machine.run("-c", FETCH, "hf://me/ct")  # older libraries leave it to the next try
    assert machine.fetch("hf://me/ct").read_bytes() == content
    first, second = hub.asked
    assert first == "" and re.fullmatch(r"bytes=[1-9]\d*-", second) and hub.asked.total() == 2
    assert SIGNATURE not in machine.said  # who has a signed address can download, too


@pytest.mark.slow
def test_a_download_that_cannot_be_finished_leaves_nothing_that_is_used(prior, machine, hub):
    hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    hub.cuts = -1
    said = machine.refused("hf://me/ct")
    assert "hf://me/ct does not get through to or from the Hub (RemoteProtocolError)" in said and machine.cached() == []
    hub.cuts = 0
    assert machine.fetch("hf://me/ct").read_bytes() == prior.read_bytes()


def test_content_that_the_hub_does_not_state_is_refused_in_every_use(prior, machine, hub):
    digest = hashlib.sha256(prior.read_bytes()).hexdigest()
    hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    hub.spoils = True
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        said = machine.refused("hf://me/ct", **variables)
        assert re.search(rf"hf://me/ct has the SHA-256 (?!{digest})\w+; wanted {digest}, which the Hub states: remove ", said)
    (blob,) = (machine.home / "hf").glob("hub/*/blobs/*")
    assert str(blob) in said
    blob.unlink()
    hub.spoils = False
    assert machine.fetch("hf://me/ct").read_bytes() == prior.read_bytes()


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:]])
def test_a_file_that_changed_in_the_cache_is_refused(change, prior, machine, hub):
    hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    path = machine.fetch("hf://me/ct")
    path.resolve().write_bytes(change(prior.read_bytes()))
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert "hf://me/ct has the SHA-256 " in machine.refused("hf://me/ct", **variables)


def test_a_cache_without_links_is_refused_since_it_forgets_the_digest(prior, machine, hub):
    hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    path = machine.fetch("hf://me/ct")
    path.unlink()
    path.write_bytes(prior.read_bytes())
    assert "comes without a SHA-256; wanted " in machine.refused("hf://me/ct")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://me/none", "the Hub does not open me/none (HTTP 401)"),
        ("hf://me/ct@v9", "me/ct has no revision 'v9'"),
        ("hf://me/ct/none.safetensors", "me/ct has no file 'none.safetensors' in main"),
        ("hf://me/secret", "the Hub does not open me/secret (HTTP 401)"),
    ],
)
def test_what_is_not_there_or_not_open_is_one_sentence(address, reason, machine, hub):
    hub.commit("me/ct", {"prior.safetensors": b"x"})
    hub.commit("me/secret", {"prior.safetensors": b"x"})
    hub.private.add("me/secret")
    assert reason in machine.refused(address) and machine.cached() == []


def test_without_a_network_and_a_cache_it_is_one_sentence(machine):
    said = machine.refused("hf://me/ct", HF_HUB_OFFLINE="1")
    assert f"hf://me/ct is not in {machine.home}/hf/hub and the Hub does not answer (OfflineModeIsEnabled)" in said


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_one_sentence(machine):
    assert "and the Hub does not answer (ConnectError)" in machine.refused("hf://me/ct", HF_ENDPOINT="http://127.0.0.1:9")


def test_without_the_package_it_is_one_sentence(machine):
    blocked = f"import sys; sys.modules['huggingface_hub'] = None\n{FETCH}"
    done = machine.run("-c", blocked, "hf://me/ct")
    assert done.stderr.startswith("refused: hf:// needs the package huggingface_hub") and "[hub]" in done.stderr


def test_a_token_opens_what_is_private_and_is_never_said(prior, machine, hub):
    """Not by a server that repeats it, nor by a library that finds it cannot be sent."""
    hub.commit("me/secret", {"prior.safetensors": prior.read_bytes()})
    hub.private.add("me/secret")
    assert machine.fetch("hf://me/secret", HF_TOKEN=TOKEN).read_bytes() == prior.read_bytes()
    hub.commit("me/secret", {"prior.safetensors": b"new"})
    for token in UNFIT:
        machine.refused("hf://me/secret@v1", HF_TOKEN=token)
    assert "SecretOfTheTests" not in machine.said and SIGNATURE not in machine.said


@pytest.mark.slow
def test_publish_says_no_token_either(prior, machine, hub):
    for token in UNFIT:
        done = machine.run("publish", str(prior), "--to", "me/new", HF_TOKEN=token)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "; wanted " in done.stderr
    assert "SecretOfTheTests" not in machine.said and not hub.refs


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://ct", "hf://me/ct@", "hf://me/ct@v1/", "hf://me/ct/prior.ckpt", "hf://me/../ct", "hf://me/ct@../v1",
     "hf://me/ct/../../x.safetensors", "hf://me/ct//x.safetensors", "hf://me/ct@v1@v2", "hf://me/ct?x", "hf://me/ct\n"],
)  # fmt: skip
def test_no_other_form_is_an_address(address):
    with pytest.raises(InputError, match="there is no prior .*; wanted hf://owner/name"):
        PatchModel.find(address)


def test_an_address_has_a_repository_a_revision_and_a_file():
    assert Address.read("hf://a/b") == ("a/b", "main", "prior.safetensors")
    assert Address.read("hf://a-1/b.c@refs/pr/2/d/e_f.safetensors") == ("a-1/b.c", "refs/pr/2", "d/e_f.safetensors")
    assert Address.read("hf://a/b/d.safetensors") == ("a/b", "main", "d.safetensors")


def test_of_a_config_priors_alone_come_from_the_hub(tmp_path):
    address = "hf://me/ct@v1"
    for key, part in (("prior", "checkpoint"), ("model", "initial")):
        check_paths({key: {"class_path": "x", "init_args": {part: address}}}, tmp_path)
        for other in (f"x{address}", f"simplecache::{address}", f"{address}::ftp://x/y", "https://example.org/x"):
            with pytest.raises(InputError, match="not an address|there is no prior"):
                check_paths({key: {"class_path": "x", "init_args": {part: other}}}, tmp_path)
    for key in ("output", "ckpt_path", "data.path", "results.lpips"):
        with pytest.raises(InputError, match="not an address"):
            check_paths({key: address}, tmp_path)


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_a_folder_the_files_that_are_asked_for_are_downloaded_once_and_used_without_a_network(machine, hub):
    """Those that are there, at whatever depth, of the revision that is named."""
    files = {"config.json": b"{}", "unet/config.json": b"[]", "unet/a.safetensors": b"weights"}
    commit = hub.commit("me/vp", files | {"b.safetensors": b"others", "unet/more/config.json": b"others"}, "main", "v1")
    hub.commit("me/vp", {"config.json": b"newer"})
    folder = machine.fetch("hf://me/vp@v1", *files, "scheduler/config.json")
    assert files_in(folder) == files and folder.name == commit
    assert f"padis_lightning: hf://me/vp@v1 is unet/a.safetensors of commit {commit}, SHA-256 " in machine.said
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert machine.fetch("hf://me/vp@v1", *files, **variables) == folder
    assert hub.asked.total() == 1


@pytest.mark.parametrize(("name", "digest"), [("config.json", "SHA-1"), ("a.safetensors", "SHA-256")])
def test_a_file_of_a_folder_that_changed_in_the_cache_is_refused(name, digest, machine, hub):
    files = {"config.json": b"{}", "a.safetensors": b"weights"}
    hub.commit("me/vp", files)
    (machine.fetch("hf://me/vp", *files) / name).resolve().write_bytes(b"changed")
    assert f"{name} of hf://me/vp has the {digest} " in machine.refused("hf://me/vp", *files, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://me/none", "the Hub does not open me/none (HTTP 401)"),
        ("hf://me/ct@v9", "me/ct has no revision 'v9'"),
        ("hf://me/ct/b.safetensors", "hf://me/ct/b.safetensors is a file; wanted hf://owner/name"),
    ],
)
def test_a_folder_that_is_not_there_is_one_sentence(address, said, machine, hub):
    hub.commit("me/ct", {"b.safetensors": b"x"})
    assert said in machine.refused(address, "b.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [(".", "."), ("unet", "scheduler")], ids=["model", "pipeline"])
def test_a_diffusion_model_of_the_hub_is_the_one_in_a_folder(parts, tmp_path, machine, hub):
    """It denoises by name with the same bits, without a network, too."""
    folder = write_folder(tmp_path / "local" / parts[0], schedule=VP)
    if parts[1] != ".":
        (folder.parent / parts[1]).mkdir()
        (folder / "scheduler_config.json").rename(folder.parent / parts[1] / "scheduler_config.json")
    hub.commit("me/vp", files_in(tmp_path / "local"))
    wanted = machine.run("-c", DENOISE, str(tmp_path / "local")).stdout
    assert wanted.count("DenoiserPrior ") == 2 and len(set(wanted.split())) == 2
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert machine.run("-c", DENOISE, "hf://me/vp", **variables).stdout == wanted


@pytest.mark.slow
def test_a_patch_prior_of_the_hub_is_loaded_as_one_and_is_no_denoiser(prior, machine, hub):
    hub.commit("me/ct", {"prior.safetensors": prior.read_bytes(), "config.json": b"{}"})
    code = "import padis_lightning as pl; print(type(pl.load_prior('hf://me/ct')).__name__)"
    assert machine.run("-c", code).stdout == machine.run("-c", code, HF_HUB_OFFLINE="1").stdout == "PatchPrior\n"
    assert hub.asked.total() == 1
    (cached,) = (machine.home / "hf").glob("hub/*/snapshots/*")
    (cached / "diffusion_pytorch_model.bin").write_bytes(b"unchecked")  # as another program may have put it there
    said = machine.run("-c", DENOISE, "hf://me/ct").stderr
    assert "refused: there are no weights 'hf://me/ct'; wanted a file or one of" in said


@pytest.mark.slow
def test_training_begins_with_a_prior_of_the_hub(prior, machine, hub):
    commit = hub.commit("me/ct", {"prior.safetensors": prior.read_bytes()})
    code = """
import sys
from padis_lightning.diffusion import PatchModel
from padis_lightning.networks.unet import UNet
from padis_lightning.training import PatchDiffusion
theirs = PatchModel.load(sys.argv[2]).denoiser.network
ours = PatchDiffusion(UNet(**theirs.plain_config), patch_sizes=[4, 8], initial=sys.argv[1])
assert all((a == b).all() for a, b in zip(ours.denoiser.network.parameters(), theirs.parameters(), strict=True))
print(ours.initial["prior"])
"""
    address = f"hf://me/ct@{commit}"
    done = machine.run("-c", code, address, str(prior))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == address, done.stderr


def test_the_folder_of_a_prior_says_what_its_file_says(prior, tmp_path, capsys):
    folder = tmp_path / "folder"
    main(["publish", str(prior), "--folder", str(folder), "--licence", "cc-by-4.0"])
    assert capsys.readouterr().out == f"wrote {folder}: prior.safetensors, config.json, README.md\n"
    assert (folder / "prior.safetensors").read_bytes() == prior.read_bytes()
    with safe_open(prior, "pt") as file:
        stored = file.metadata()
    config = json.loads((folder / "config.json").read_text())
    assert {k: config[k] for k in config.keys() - {"library_name", "format"}} == json.loads(stored["model"])
    _, front, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0" and yaml.safe_load(front)["library_name"] == "padis_lightning"
    assert hashlib.sha256(prior.read_bytes()).hexdigest() in card and "12 slices / of 4 patients" in card and "by nobody" in card
    for heading in ("Data and licence", "Results", "Use", "What it is for", "Limits"):
        assert f"\n## {heading}\n" in card
    assert "--prior.checkpoint prior.safetensors\n" in card and "Not measured here." in card


def test_a_card_that_was_edited_is_kept_and_another_prior_is_not_replaced(prior, tmp_path, capsys):
    folder, other = tmp_path / "folder", tmp_path / "other.safetensors"
    main(["publish", str(prior), "--folder", str(folder)])
    (folder / "README.md").write_text("my own words")
    main(["publish", str(prior), "--folder", str(folder)])
    assert f"{folder}/README.md is kept as it is" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in folder.iterdir()}
    model = small_model()
    model.training = {"data": "others"}
    model.save(other)
    assert "has another " in said_no(capsys, "publish", other, "--folder", folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert (folder / "README.md").read_text() == "my own words"


def test_publish_refuses_what_it_cannot_use_and_writes_nothing(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "last.ckpt"
    torch.save({}, checkpoint)
    folder = ["--folder", "folder"]
    for words, said in {
        (prior,): "comes without a place",
        (prior, "--to", "ct"): "--to is 'ct'",
        (prior, "--to", "me/ct/x"): "--to is 'me/ct/x'",
        (prior, *folder, "--licence", "my own"): "--licence is 'my own'",
        (prior, *folder, "--private", "yes"): "--private",
        (checkpoint, *folder): "is no safetensors file",
        ("nowhere", *folder): "there is no prior 'nowhere'",
        ("hf://me/ct", *folder): "is an address",
        (prior, *folder, "--results", "nowhere"): "there is no folder 'nowhere'",
    }.items():
        assert said in said_no(capsys, "publish", *words), words
    assert [*tmp_path.iterdir()] == [checkpoint]


def arrays(folder: Path) -> list[np.ndarray]:
    """The reconstructions in a folder of results."""
    return [np.load(path) for path in sorted((folder / "arrays").iterdir())]


@pytest.mark.slow
def test_a_published_prior_is_used_by_name_on_another_machine_with_the_same_bits(prior, tmp_path, hub):
    """And repeats what its card says; results of another prior make no card."""
    ours, theirs = Machine(tmp_path / "ours", hub, HF_TOKEN=TOKEN), Machine(tmp_path / "theirs", hub)
    small = ["--data.size", "20", "--operator.size", "20", "--data.count", "2", "--model.steps", "3"]
    small += ["--trainer.accelerator", "cpu", "--output", "out"]
    predict = ["predict", "--config", "ct20.yaml", *small]
    done = ours.run(*predict, "--prior.checkpoint", str(prior))
    assert done.returncode == 0, done.stderr
    private = ours.home / "folder" / "private.txt"
    private.parent.mkdir()
    private.touch()
    publish = ["publish", str(prior), "--to", "me/ct", "--folder", "folder"]
    done = ours.run(*publish, "--results", "out")
    assert done.returncode == 0 and TOKEN not in ours.said, done.stderr
    commit = hub.refs["me/ct", "main"]
    assert done.stdout.endswith(f"published me/ct; use it by --prior.checkpoint hf://me/ct@{commit}\n")
    files = hub.commits["me/ct", commit]
    assert files == {path.name: path.read_bytes() for path in private.parent.iterdir() if path != private}
    summary = json.loads((ours.home / "out" / "summary.json").read_text())
    low, high = summary["intervals"]["psnr"]
    row = f"| PnPADMM | {summary['psnr']:.4g} [{low:.4g}, {high:.4g}] | "
    assert row in files["README.md"].decode() and "| tv | " in files["README.md"].decode()

    done = theirs.run(*predict, "--prior.checkpoint", "hf://me/ct", "--results.baselines", "{}")
    assert done.returncode == 0 and f"of commit {commit}" in done.stderr, done.stderr
    (theirs.home / "predict.yaml").write_bytes(files["predict.yaml"])
    again = ["predict", "--config", "predict.yaml", "--output", "again", "--trainer.accelerator", "cpu"]
    done = theirs.run(*again, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    for one, two, three in zip(*map(arrays, (ours.home / "out", theirs.home / "out", theirs.home / "again")), strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes() and one.std() > 0
    repeated = json.loads((theirs.home / "again" / "summary.json").read_text())
    assert repeated["psnr"] == summary["psnr"] and repeated["baselines"].keys() == summary["baselines"].keys()

    other = small_model()
    with torch.no_grad():
        next(other.denoiser.parameters()).add_(1e-3)
    other.save(tmp_path / "other.safetensors")
    done = ours.run("publish", str(tmp_path / "other.safetensors"), "--folder", "b", "--results", "out")
    assert done.returncode == 2 and "out has the results of other weights; wanted " in done.stderr
    assert not (ours.home / "b").exists()
