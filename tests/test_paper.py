"""The paper's studies: their files parse, their laws hold, their tables say what the folders hold."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.paper import folders, scores, tables
from benchmarks.paper.__main__ import main
from benchmarks.paper.page import SECTIONS
from benchmarks.paper.records import difference, mean, read_scores
from benchmarks.paper.scales import SCALES, task, variables
from benchmarks.paper.studies import CHOICES, PRIORS, Part, chosen, parts
from padis_lightning.cli import PadisCLI
from padis_lightning.data.sources.open import open_source
from padis_lightning.errors import InputError
from padis_lightning.messages.configs import find_configs as found_configs
from padis_lightning.messages.configs import inline
from padis_lightning.metrics import interval
from padis_lightning.priors import PatchPrior
from padis_lightning.random import Generators, seeded

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?")
DATA, RESULTS = Path("/data"), Path("/results")  # nothing is there
ALL = parts(tuple(SECTIONS))


class Parsed(PadisCLI):
    """The command line as far as its parser: nothing is built or run."""

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def accepts(row):
    """Whether the parser takes the words of a row; it raises where it does not."""
    words, name = found_configs(row.arguments())
    return Parsed(inline(words), name, (), ExitStack()).config[row.command]


@cache
def rows(part, scale):
    return part.sweep(variables(scale, DATA, RESULTS), RESULTS).rows


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_of_every_scale_has_a_name_of_its_own(scale):
    folders_of_rows = [f"{p.folder}/{row.name}" for p in ALL for row in rows(p, scale)]
    assert len(folders_of_rows) == len(set(folders_of_rows)) > 140
    needed = {prior for study in SECTIONS for prior in PRIORS[study]}
    assert needed == {name.removeprefix("priors/") for name in folders_of_rows if name.startswith("priors/")}


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_predicted_uses_priors_that_are_trained_before(scale):
    trained = set()
    for part in ALL:
        for row in rows(part, scale):
            if row.command == "fit":
                trained.add(str(RESULTS / "priors" / row.name / "prior.safetensors"))
            elif "prior.checkpoint" in row.settings:
                assert row.settings["prior.checkpoint"] in trained, f"{part.folder}/{row.name}"


@pytest.mark.parametrize("scale", SCALES)
def test_test_images_are_in_final_predictions_only(scale):
    for part in ALL:
        for row in rows(part, scale):
            used = row.settings["data.path"]
            final = row.command == "predict" and part.file != "tuning"
            assert ("train" in used) == (not final), f"{part.folder}/{row.name} uses {used}"
            assert final or row.command == "fit" or row.settings["data.subset"] == "validation"


def test_the_main_table_has_the_methods_of_the_paper():
    part = next(p for p in ALL if p.folder == "main/ct20")
    by_name = {row.name: row for row in rows(part, "paper")}
    assert set(by_name) | {"plain", "tv"} == set(tables.METHODS) - {"without_positions"}
    padis = by_name["padis"].settings
    assert padis["model.steps"] * padis["model.inner"] == 1000 and padis["model.sigma_max"] == 10
    whole, other = by_name["whole"].settings, by_name["padis"].settings
    assert {key for key in whole if whole[key] != other[key]} == {"prior.checkpoint"}  # patch against whole: the prior alone
    assert task("sr4x", variables("paper", None, RESULTS))["SIGMA_MAX"] == "40"


def generated(part, scale):
    return part.sweep(variables(scale, None, RESULTS), RESULTS).rows


@pytest.mark.parametrize("name", ["priors", "methods", "inpainting"])
def test_the_command_line_takes_the_last_row(name):
    row = generated(next(p for p in ALL if p.file == name), "cpu")[-1]
    config = accepts(row)
    assert config.data.init_args.size == row.settings["data.size"]
    if name == "methods":
        with pytest.raises(InputError, match="'levels' is not a key of DDNM"):
            accepts(replace(row, settings=row.settings | {"model.levels": 3}))


def kind(row):
    """The words of a row with one number for all of a type, which is what the parser tells apart: numbers are checked later."""
    words = (re.sub(r"(?<=checkpoint=).*", "", word) for word in row.arguments())
    return tuple(
        NUMBER.sub(lambda found: "0" if found[0] == "0" else "1" if found[0].isdigit() else "1.5", word) for word in words
    )


@pytest.mark.slow
def test_the_command_line_takes_every_row():
    """One of each kind, of all scales: those of a scale differ from those of another in numbers."""
    kinds = {}
    for scale in SCALES:
        found = {tuple(row.arguments()): row for part in ALL for row in generated(part, scale)}
        assert len(found) > 100
        kinds |= {kind(row): row for row in found.values()}
    for row in kinds.values():
        accepts(row)
    assert len(kinds) > 150


def test_tuning_takes_the_best_on_validation_data_and_else_the_first(tmp_path):
    values = variables("cpu", None, tmp_path)
    values |= task("ct8", values)
    assert chosen("ct8", values, tmp_path) == {"TV": "8e-05", "ZETA": "1.8", "PNP_SIGMA": "0.05", "RED_SIGMA": "0.02"}
    for name, score in {"tv-1": 20.0, "tv-4": 21.0, "zeta-1": 19.0, "zeta-2": 18.0}.items():
        folder = tmp_path / "tuning" / "ct8" / name
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"values": {"psnr": score}}))
    found = chosen("ct8", values, tmp_path)
    assert found == {"TV": "0.0008", "ZETA": "0.6", "PNP_SIGMA": "0.05", "RED_SIGMA": "0.02"} and set(found) == set(CHOICES)
    row = next(row for row in Part("main/ct8", "methods", "ct8").sweep(variables("cpu", None, tmp_path), tmp_path).rows
               if row.name == "padis")  # fmt: skip
    assert row.settings["model.zeta"] == 0.6


# The score study


def test_the_variance_of_an_average_of_k_partitions_is_one_over_k(rng):
    estimates = torch.randn(25, 2, 1, 6, 6, generator=rng) + 3
    variance = float((estimates - estimates.mean(0)).square().mean())
    found = scores.spread(estimates, (1, 2, 4, 16), draws=4000)
    for count, value in found.items():
        assert value == pytest.approx(variance / count, rel=0.05)


def test_the_average_over_all_partitions_has_no_variance(model, rng):
    prior = PatchPrior(model)
    x = torch.randn(2, *prior.canvas_shape, generator=rng)
    averaged = scores.Averaged(prior, None)
    with torch.no_grad():
        a, b = (averaged(x, 0.3, Generators.keyed(seed, range(2))) for seed in (0, 1))
        one, other = (scores.Averaged(prior, 1)(x, 0.3, Generators.keyed(seed, range(2))) for seed in (0, 1))
        every = [scores.tiled(prior, scores.At(o), x, 0.3, Generators.keyed(0, range(2))) for o in scores.offsets(prior)]
    assert torch.equal(a, b) and not torch.equal(one, other)
    torch.testing.assert_close(a, torch.stack(every).mean(0))
    assert len(every) == (prior.pad[0] + 1) * (prior.pad[1] + 1) == 25


def test_drawn_partitions_are_unbiased_for_the_mean_of_all(model, rng):
    prior = PatchPrior(model)
    x = torch.randn(1, *prior.canvas_shape, generator=rng)
    with torch.no_grad():
        all_of_them = scores.Averaged(prior, None)(x, 0.3, Generators.keyed(0, [0]))
        many = scores.Averaged(prior, 60)(x, 0.3, Generators.keyed(0, [0]))
        one = scores.Averaged(prior, 1)(x, 0.3, Generators.keyed(0, [0]))
    far, near = ((value - all_of_them).square().mean() for value in (one, many))
    assert near < far / 15  # 1 / 60 is expected


def test_errors_are_split_into_bias_and_variance(model):
    """The mean squared error of one partition, over all of them, is that of their mean and the variance."""
    prior = PatchPrior(model)
    images = torch.rand(2, 1, 20, 20, generator=seeded(3))
    with torch.no_grad():
        found = scores.decompose(prior, images, 0.2, overlap=4)
        clean = torch.nn.functional.pad(images, (prior.pad[1],) * 2 + (prior.pad[0],) * 2)
        noise = Generators.keyed(0, range(2), scores.NOISE).normal(clean)
        errors = []
        for offset in scores.offsets(prior):
            one = scores.tiled(prior, scores.At(offset), clean + 0.2 * noise, 0.2, Generators.keyed(0, range(2)))
            errors.append(float((one[..., 4:24, 4:24] - images).square().mean()))
    assert found["error of all"] + found["variance"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found["partitions"] == len(errors) and found["others"]["fixed"]["error"] == pytest.approx(errors[12], rel=1e-5)


# Tables from folders


def finished(folder, psnr, groups, baselines=None, **settings):
    """A folder as a finished row leaves it, as far as tables read it."""
    folder.mkdir(parents=True)

    def image(value):
        return {"psnr": value, "ssim": (value or 100) / 100, "residual": 0.1, "seconds": 0.5, "evaluations": 50}

    images = [
        {"index": k, "name": f"{k:04d}", "group": group, **image(value)}
        | {"baselines": {name: image(values[k]) for name, values in (baselines or {}).items()}}
        for k, (value, group) in enumerate(zip(psnr, groups, strict=True))
    ]
    shown = {"units": "HU", "lower": 0, "upper": 1, "window": [0, 1], "error_scale": 1}
    (folder / "report.json").write_text(json.dumps({"images": images, "shown": shown, "pictures": []}))
    summed = {"psnr": float(np.mean(psnr)), "ssim": None, "residual": None}
    summary = {"solver": "X", "gain": {}, "intervals": {}, "n": len(images), "groups": len(set(groups)), **summed}
    summary["baselines"] = dict.fromkeys(baselines or {}, {**summed, "intervals": {}})
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "done.json").write_text(json.dumps({"values": {"psnr": float(np.mean(psnr))}, "settings": settings}))


def test_a_task_s_table_has_hand_computed_means_and_intervals_over_patients(tmp_path):
    groups = ["a", "a", "b", "c"]
    finished(tmp_path / "default", [30, 32, 34, 36], groups, {"plain": [20, 21, 22, 23], "tv": [29, 30, 33, 32]})
    finished(tmp_path / "padis", [28, 28, 30, 30], groups)
    (tmp_path / "whole").mkdir()  # begun, not finished
    found = tables.task_scores(tmp_path)
    assert set(found) == {"plain", "tv", "padis", "default"}
    assert mean(found["default"].psnr, found["default"].groups)[0] == 33
    gains = [1, 2, 1, 4]
    assert difference(found["default"], found["tv"]) == (2.0, *interval(gains, groups))
    lines = tables.task_table(tmp_path).splitlines()
    assert lines[0].startswith("| method (4 images, 3 groups) |")
    low, high = interval([30, 32, 34, 36], groups)
    glow, ghigh = interval(gains, groups)
    assert f"| 33.00 [{low:.2f}, {high:.2f}] | +2.00 [{glow:+.2f}, {ghigh:+.2f}] | 0.330 [" in lines[-2]
    assert "| 31.00 [" in next(line for line in lines if line.startswith("| total variation"))
    assert tables.MISSING in next(line for line in lines if line.startswith("| whole-image"))


def test_a_method_with_an_exact_image_has_a_dash_and_the_others_their_numbers(tmp_path):
    """An infinite PSNR is null in files: such a mean is unknown, and a candidate of tuning with it is the best."""
    values, groups = variables("cpu", None, tmp_path), ["a", "b"]
    values |= task("sr4x", values)
    finished(tmp_path / "main" / "sr4x" / "default", [30, 32], groups, {"plain": [None, 21], "tv": [29, 30]})
    for name, psnr in {"tv-2": 30.0, "tv-3": None, "tv-4": 31.0}.items():
        finished(tmp_path / "tuning" / "sr4x" / name, [30, 32], groups, **{"model.weight": name})
        (tmp_path / "tuning" / "sr4x" / name / "done.json").write_text(
            json.dumps({"values": {"psnr": psnr}, "settings": {"model.weight": name}})
        )
    assert float(chosen("sr4x", values, tmp_path)["TV"]) == float(values["TV_3"])
    main(["--scale", "cpu", "--table", "--output", str(tmp_path), "--only", "main"])
    text = (tmp_path / "results.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| baseline: ", "| total variation ", "| sr4x | `TV`"))]
    assert "| – | – | " in next(line for line in lines if line.startswith("| baseline: ") and tables.MISSING not in line)
    assert any("| 29.50 [29.00, 30.00] |  | " in line for line in lines)
    assert lines[-1].endswith("| tv-2: 30.00, **tv-3: inf**, tv-4: 31.00 |")


def test_an_interval_counts_patients_not_images(tmp_path):
    """Ten images of one patient say no more than one: with two patients only their means can be drawn."""
    values, groups = [30.0] * 10 + [40.0], ["a"] * 10 + ["b"]
    finished(tmp_path / "row", values, groups)
    scores_of_row = read_scores(tmp_path / "row")["estimate"]
    _, low, high = mean(scores_of_row.psnr, scores_of_row.groups)
    assert (low, high) == (30.0, 40.0)


def test_the_other_tables_pair_the_right_rows(tmp_path):
    groups = ["a", "b"]
    for name, psnr in {"patches-few": [30, 31], "whole-few": [27, 30], "patches-all": [33, 33]}.items():
        finished(tmp_path / name, psnr, groups)
    text = tables.patients_table(tmp_path, {"few": "3", "some": "10", "all": "36"}).splitlines()
    assert text[2] == "| 3 | 30.50 [30.00, 31.00] | 28.50 [27.00, 30.00] | +2.00 [+1.00, +3.00] |"
    assert tables.MISSING in text[3] and text[4].endswith(f"| {tables.MISSING} |  |")
    for kind, psnr in {"coordinates": [30, 32], "none": [29, 30]}.items():
        finished(tmp_path / f"middle-{kind}", psnr, groups)
    assert tables.positions_table(tmp_path, {"middle": "[24]"}).splitlines()[2] == (
        f"| [24] | 31.00 [30.00, 32.00] | {tables.MISSING} | 29.50 [29.00, 30.00] (-1.50 [-2.00, -1.00]) |"
    )
    settings = {"model.sigma_max": "0.3", "model.sigma_min": "0.002"}
    finished(tmp_path / "padis-max-0.3", [20, 22], groups, None, **settings)
    assert tables.levels_table(tmp_path, {"padis": "PaDIS"}).splitlines()[2] == "| PaDIS | 0.3 | 0.002 | 21.00 [20.00, 22.00] |"


def test_the_table_of_partitions_is_the_closed_form():
    level = {"sigma": 0.1, "partitions": 81, "variance": 1e-3, "error of all": 1e-3, "spread": {"1": 1e-3, "4": 2.6e-4}}
    level["others"] = {"fixed": {"error": 2e-3, "from all": 0}, "overlapping": {"error": 1e-3, "from all": 0}}
    solved = [
        {"solver": "DDS", "partitions": count, "steps": 20, "each": each, "groups": ["a", "b"], "seconds": 1.0}
        for count, each in ((1, [30.0, 32.0]), (None, [31.0, 34.0]))
    ]
    first, second, off = tables.partitions_tables({"levels": [level], "solved": solved})
    assert first.splitlines()[2].endswith("| 0.316 | +3.01 | +0.97 | +0.26 | +3.01 | +0.00 |")
    assert "| DDS | all | 20 | 32.50 [31.00, 34.00] | +1.50 [+1.00, +2.00] |" in second
    assert off == pytest.approx(0.04)


# Folders and the command


def test_folders_laid_out_as_bsd100_and_div2k_are_read(tmp_path, rng, monkeypatch):
    """Mixed shapes, low-resolution pictures beside the others, depth: squares of the high-resolution ones come out."""
    values = torch.randint(0, 256, (40, 60, 3), generator=rng, dtype=torch.uint8).numpy()
    place = tmp_path / "data" / "BSD100" / "image_SRF_4"
    place.mkdir(parents=True)
    Image.fromarray(values).save(place / "img_001_SRF_4_HR.png")
    Image.fromarray(values[:10, :15]).save(place / "img_001_SRF_4_LR.png")
    Image.fromarray(values.transpose(1, 0, 2)).save(place / "img_002_SRF_4_HR.png")
    monkeypatch.setattr(folders, "PHOTOGRAPHS", folders.PHOTOGRAPHS[:2])
    folders.prepare(tmp_path / "data", tmp_path / "out", size=40, count=9)
    source = open_source(tmp_path / "out" / "BSD100")
    assert len(source) == 2 and source.image_shape == (3, 40, 40)
    expected = torch.from_numpy(values[:, 10:50].copy()).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(source[0].image, expected)
    torch.testing.assert_close(source[1].image, expected.transpose(1, 2))
    div2k = open_source(tmp_path / "out" / "DIV2K_valid_HR")  # stood in for
    assert source.groups != div2k.groups and [item.name for item in (div2k[0], div2k[1])] == ["0801", "0802"]


def test_the_plan_lists_every_row_and_runs_none(tmp_path, capsys):
    assert main(["--scale", "paper", "--plan", "--output", str(tmp_path / "out"), "--only", "patients,levels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 + 6 + 1 + 10 + 12 + 1 and " rows, " in lines[-1] and not (tmp_path / "out").exists()
    hours = float(lines[-1].split(" rows, ")[1].split()[0])
    assert hours == pytest.approx(sum(float(line.split()[-2]) for line in lines[:-1]) / 60, abs=0.1)


def test_a_folder_of_another_scale_is_refused(tmp_path):
    (tmp_path / "setup.json").write_text(json.dumps({"scale": "gpu", "data": None}))
    with pytest.raises(InputError, match="was begun with scale gpu; wanted cpu"):
        main(["--scale", "cpu", "--plan", "--output", str(tmp_path)])


def test_the_page_is_made_again_from_folders_alone(tmp_path):
    finished(tmp_path / "out" / "patients" / "patches-few", [30, 31], ["a", "b"])
    page = tmp_path / "page.md"
    main(["--scale", "cpu", "--table", "--output", str(tmp_path / "out"), "--only", "patients", "--write", str(page)])
    text = page.read_text()
    assert "python -m benchmarks.paper --scale cpu --only patients" in text and "30.50 [30.00, 31.00]" in text
    assert (tmp_path / "page" / "patients.png").read_bytes()[:4] == b"\x89PNG" and "(page/patients.png)" in text


@pytest.mark.slow
def test_a_small_run_trains_predicts_and_goes_on(tmp_path, capsys):
    """Two priors of three steps, four predictions; run again, nothing is done twice."""
    arguments = ["--scale", "test", "--output", str(tmp_path), "--only", "inpainting,partitions", "--jobs", "2"]
    assert main(arguments) == 0
    text = (tmp_path / "results.md").read_text()
    assert tables.MISSING not in text and "partitions.json" in {path.name for path in tmp_path.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("done before") == len(before) == 6
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}


def test_values_of_scales_are_of_one_kind():
    names = [set(values) for values in SCALES.values()]
    assert all(found == names[0] for found in names)
    for values in SCALES.values():
        for name in ("PATCH", "SMALL", "BIG"):
            assert len(yaml.safe_load(values[f"{name}_SIZES"])) == len(yaml.safe_load(values[f"{name}_ODDS"]))
        assert len(yaml.safe_load(values["LARGE_SIZES"])) == len(yaml.safe_load(values["PATCH_ODDS"]))
