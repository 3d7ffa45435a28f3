"""What is given to others: wheel and source archive, containers, and how to cite."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import padis_lightning
from padis_lightning import commands

ROOT = Path(__file__).parent.parent
DOCKERFILE, DEFINITION = ROOT / "Dockerfile", ROOT / "slurm" / "padis.def"
BUILD = "import sys, setuptools.build_meta as build; getattr(build, f'build_{sys.argv[1]}')(sys.argv[2])"
PREDICT = ["predict", "--config", "ct20.yaml", "--data.count", "1", "--model.steps", "2", "--results.baselines", "{}"]


@pytest.fixture(scope="module")
def settings():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def copied() -> list[str]:
    """The files and folders that the container's definition takes."""
    section = DEFINITION.read_text().split("%files\n")[1].split("\n\n")[0]
    pairs = [line.split() for line in section.splitlines()]
    assert all(target == f"/source/{source}" for source, target in pairs)
    return [source for source, _ in pairs]


def built(kind: str, source: Path) -> Path:
    """The wheel or source archive of a folder."""
    before = {*(source / "dist").glob("*")}
    subprocess.run([sys.executable, "-c", BUILD, kind, "dist"], cwd=source, check=True, capture_output=True)
    (archive,) = {*(source / "dist").glob("*")} - before
    return archive


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A wheel, and one that is made from the source archive."""
    source, other = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("other")
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    with tarfile.open(built("sdist", source)) as archive:
        archive.extractall(other, filter="data")
    (unpacked,) = other.iterdir()
    return built("wheel", source), built("wheel", unpacked)


@pytest.mark.slow
def test_the_wheel_and_the_source_archive_hold_the_package(archives, settings):
    contents = []
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            contents.append({name: file.read(name) for name in file.namelist() if not name.endswith("RECORD")})
    one, other = contents
    assert one == other
    sources = [p for p in (ROOT / "padis_lightning").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    expected = {p.relative_to(ROOT).as_posix(): p for p in sources}
    expected |= {f"padis_lightning/configs/{p.relative_to(ROOT / 'configs')}": p for p in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"padis_lightning/notebooks/{p.name}": p for p in (ROOT / "notebooks").iterdir() if p.is_file()}
    held = {name: content for name, content in one.items() if ".dist-info/" not in name}
    assert held == {name: path.read_bytes() for name, path in expected.items()}
    (found,) = (content for name, content in one.items() if name.endswith("METADATA"))
    told = Parser().parsestr(found.decode())
    assert told["Version"] == padis_lightning.__version__ and told["License-Expression"] == "Apache-2.0"
    assert told.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    assert {*told.get_all("Provides-Extra")} == {*settings["options.extras_require"]}
    assert {*told.get_all("License-File")} == {"LICENSE", "NOTICE"}


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """An environment with the wheel, this one's libraries, and nothing of the checkout."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python, paths = venv / "bin" / "python", sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", archives[0]]
    subprocess.run(install, cwd=venv, check=True)
    libraries = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    (Path(paths["purelib"]) / "libraries.pth").write_text("\n".join(libraries))  # whose own .pth files are not read
    return venv


@pytest.mark.slow
def test_the_wheel_works_alone(installed, tmp_path):
    """In an environment that has this one's libraries and nothing of the checkout, with the same bits."""
    venv, here, python = installed, tmp_path / "here", installed / "bin" / "python"
    here.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*words: str | Path) -> str:
        done = subprocess.run([*words], cwd=here, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run(python, "-c", "import padis_lightning; print(padis_lightning.__file__)").strip()
    assert Path(told).is_relative_to(venv)
    told = run(venv / "bin" / "padis-lightning", "--help")
    assert all(name in told for name in commands.COMMANDS)
    run(venv / "bin" / "padis-lightning", *PREDICT, "--output", "wheel")
    (here / "mine.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "source": ["import padis_lightning as pl\\n", "print(pl.InputError)"]}]}'
    )
    run(python, "-m", "padis_lightning.notebooks.run", "mine.ipynb", "--output", "done")
    assert "InputError" in (here / "done" / "mine.ipynb").read_text()
    env["PYTHONPATH"] = str(ROOT)
    run(sys.executable, "-m", "padis_lightning", *PREDICT, "--output", "checkout")
    one, other = ([*(here / name / "arrays").iterdir()] for name in ("wheel", "checkout"))
    assert len(one) == 1 and one[0].read_bytes() == other[0].read_bytes()
    assert (here / "wheel" / "summary.json").is_file() and (here / "wheel" / "report.html").is_file()
    del env["PYTHONPATH"]
    run(python, ROOT / "notebooks" / "run.py", "mine.ipynb", "--output", "again")
    assert "InputError" in (here / "again" / "mine.ipynb").read_text()


@pytest.mark.slow
def test_the_wheel_tells_type_checkers_all_that_the_checkout_does(installed, tmp_path):
    """A file that says what types come out of the package, and what is wrong, passes with every check of the checker."""
    pytest.importorskip("mypy")
    shutil.copy(ROOT / "tests" / "typed_use.py", tmp_path / "mine.py")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    words = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "bin" / "python", "mine.py"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version_and_of_the_paper(settings):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == padis_lightning.__version__ == metadata.version("padis_lightning")
    assert cited["license"] == settings["metadata"]["license_expression"] and cited["cff-version"] == "1.2.0"
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Hu", "Song", "Xu", "Shen", "Fessler"]
    assert paper["url"] == settings["metadata"]["project_urls"].split(" = ")[1] and paper["year"] == 2024


def test_both_containers_take_the_same_steps(settings):
    steps = []
    for path in (DOCKERFILE, DEFINITION):
        text = re.sub(r"\{\{ (\w+) \}\}", r"$\1", path.read_text())
        steps.append(re.findall(r"pip install .*?(?=$| &&)", text, re.MULTILINE))
        steps[-1] += re.findall(r"^From:? (\S+)", text, re.MULTILINE | re.IGNORECASE)
        extras = re.search(r"EXTRAS=(\S+)", text)[1].split(",")
        assert {*extras} <= {*settings["options.extras_require"]} and "constraints.txt" in copied()
    assert steps[0] == steps[1] and len(steps[0]) == 3
    (script,) = settings["options.entry_points"]["console_scripts"].split("\n")[1:]
    name, _, target = script.partition(" = ")
    assert target == f"{commands.__name__}:main" and f'ENTRYPOINT ["{name}"]' in DOCKERFILE.read_text()
    assert f'exec {name} "$@"' in DEFINITION.read_text()
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE.read_text(), re.MULTILINE)
