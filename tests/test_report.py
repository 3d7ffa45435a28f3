"""The report's page as it is built: what it holds, what it compares, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from padis_lightning import metrics
from padis_lightning.cli import main
from padis_lightning.results.report.histogram import histogram
from padis_lightning.results.report.page import LARGEST, report_page
from padis_lightning.results.report.panels import Panel, quantise, read_panels, save_panels, to_png
from padis_lightning.results.report.runs import differing_settings, paired_differences, read_run, read_runs
from padis_lightning.types import Normalisation
from tests.runs import HU, Resources, data, noisy, pixels_of, smooth, write_run

GROUPS = ["a", "a", "b", "c", "c", "c"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two folders of the same six images of three groups, which no test changes."""
    tmp_path, truth = tmp_path_factory.mktemp("pair"), smooth(6)
    a, b = noisy(truth, 0.05, 1), noisy(truth, 0.03, 2)
    write_run(tmp_path / "a", truth, a, {"tv": noisy(truth, 0.1, 3)}, GROUPS, config="model: {steps: 50, eta: 0.5}\n")
    write_run(tmp_path / "b", truth, b, {}, GROUPS, config="model: {steps: 20, eta: 0.5}\noutput: elsewhere\n")
    return tmp_path / "a", tmp_path / "b"


def decoded(panel):
    """A panel's values as the page's script computes them, from its PNG."""
    pixels = pixels_of(panel)
    share = pixels / 255 if panel["colour"] else (256 * pixels[..., 0] + pixels[..., 1]) / 65535
    return panel["lower"] + share * (panel["upper"] - panel["lower"])


def test_every_code_survives_the_file_and_the_png(tmp_path):
    codes = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    before = [Panel("a", "truth", codes, -1000.0, 2071.25), Panel("b", "estimate", colours, 0.0, 1.0)]
    save_panels(tmp_path / "x.npz", before)
    for panel, kept in zip(before, read_panels(tmp_path / "x.npz"), strict=True):
        assert np.array_equal(panel.codes, kept.codes) and kept.codes.dtype == panel.codes.dtype
        assert (kept.title, kept.kind, kept.lower, kept.upper) == (panel.title, panel.kind, panel.lower, panel.upper)
        embedded = {"png": to_png(kept.codes), "colour": kept.codes.ndim == 3, "lower": kept.lower, "upper": kept.upper}
        np.testing.assert_allclose(decoded(embedded), panel.values, rtol=1e-14, atol=1e-12)


def test_grey_values_are_kept_to_a_65536th_of_their_range_and_whole_numbers_exactly():
    values = torch.from_numpy(np.random.default_rng(0).normal(0, 300, (1, 9, 11)))
    panel = quantise("x", "truth", values, (0.0, 1.0))
    assert np.abs(panel.values - values[0].numpy()).max() <= np.ptp(values.numpy()) / 65535 / 2 * (1 + 1e-9)
    hounsfield = torch.arange(-1024, 3072).reshape(1, 64, 64).double()
    np.testing.assert_array_equal(quantise("x", "truth", hounsfield, (0.0, 1.0)).values.round(), hounsfield[0])
    flat = quantise("x", "truth", torch.full((1, 3, 3), 7.0), (0.0, 1.0))
    np.testing.assert_array_equal(flat.values, 7.0)


def test_a_page_holds_the_values_of_every_panel(pair):
    shown = data(report_page([read_run(pair[0])]))
    assert (shown["units"], shown["lower"], shown["upper"], shown["error_scale"]) == ("HU", -1000, 1000, 200)
    assert set(shown["presets"]) == {"lung", "soft tissue", "bone", "full"} and len(shown["images"]) == 6
    truth = smooth(6)
    for k, image in enumerate(shown["images"]):
        panels = {panel["kind"]: panel for panel in image["panels"]}
        assert [p["kind"] for p in image["panels"]] == ["truth", "degraded", "baseline", "estimate", "error"]
        assert panels["error"]["of"] == 3
        for kind, expected in {"truth": truth, "degraded": truth, "estimate": noisy(truth, 0.05, 1)}.items():
            values = HU.restore(expected[k, 0].double()).numpy()
            np.testing.assert_allclose(decoded(panels[kind]), values, atol=1e-3 + np.ptp(values) / 65535 / 2)


def test_a_page_names_nothing_outside_of_itself(pair):
    page = report_page([read_run(pair[0])])
    assert Resources(page).found == []
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_names_that_are_markup_stay_text(tmp_path):
    evil, truth = "</script><b onclick='x'>\"&", smooth(2)
    write_run(tmp_path, truth, truth, {evil: truth}, [evil, "b"], solver=evil, config=evil + ": 1\n")
    page = report_page([read_run(tmp_path)])
    parser = Resources(page)
    assert data(page)["images"][0]["panels"][3]["title"] == evil
    assert "b" not in parser.tags and parser.tags.count("script") == 2


def test_the_command_writes_the_page_that_predict_wrote(pair, tmp_path, capsys):
    main(["report", str(pair[0])])
    page = (pair[0] / "report.html").read_text()
    assert page == report_page([read_run(pair[0])]) and "6 images of a" in capsys.readouterr().out
    main(["report", *map(str, pair), "--output", str(tmp_path / "both.html")])
    assert data((tmp_path / "both.html").read_text())["images"][0]["panels"][1]["title"] == "a"


def test_images_without_pixels_are_in_the_table_and_the_page_says_so(tmp_path):
    truth = smooth(5)
    write_run(tmp_path, truth, noisy(truth, 0.05, 1), {}, list("abcde"), pictured=2)
    page = report_page([read_run(tmp_path)])
    assert [image["name"] for image in data(page)["images"]] == ["0000", "0001"]
    assert "2 of 5 images are here with their pixels; the others are in the table only." in page
    assert page.count("<tr data-name=") == 5


def test_a_page_is_never_larger_than_a_browser_holds(tmp_path, monkeypatch):
    truth = smooth(5)
    write_run(tmp_path, truth, noisy(truth, 0.05, 1), {}, list("abcde"))
    size = max(len(json.dumps(image)) for image in data(report_page([read_run(tmp_path)]))["images"])
    monkeypatch.setattr("padis_lightning.results.report.page.LARGEST", 3 * size)
    page = report_page([read_run(tmp_path)])
    assert len(data(page)["images"]) in (2, 3) and "of 5 images are here" in page and LARGEST <= 1e8


def test_the_paired_difference_is_the_one_computed_by_hand(pair):
    runs = read_runs(pair)
    truth = smooth(6)
    a, b = (metrics.psnr(noisy(truth, std, seed), truth).double().numpy() for std, seed in ((0.05, 1), (0.03, 2)))
    gains = b - a
    (difference,) = paired_differences(runs)
    assert (difference["of"], difference["over"]) == ("b", "a")
    assert difference["psnr"] == pytest.approx(gains.mean(), abs=1e-5)
    sums = {g: [gains[k] for k in range(6) if GROUPS[k] == g] for g in "abc"}
    draws = np.random.default_rng(0).integers(3, size=(2000, 3))  # whole groups, with replacement
    means = [sum(sum(sums["abc"[k]]) for k in d) / sum(len(sums["abc"[k]]) for k in d) for d in draws]
    assert difference["interval"] == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=1e-4)
    page = report_page(runs)
    low, high = difference["interval"]
    assert f"b over a: {gains.mean():+.2f} [{low:+.2f}, {high:+.2f}] dB" in page


def test_a_comparison_pairs_images_by_name_whatever_their_order(tmp_path):
    truth = smooth(4)
    order = torch.tensor([2, 0, 3, 1])
    names = ["p", "q", "r", "s"]
    write_run(tmp_path / "a", truth, noisy(truth, 0.05, 1), {}, list("wxyz"), names=names)
    other = noisy(truth, 0.02, 2)
    shuffled = [names[k] for k in order], ["wxyz"[k] for k in order]
    write_run(tmp_path / "b", truth[order], other[order], {}, shuffled[1], names=shuffled[0])
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    gains = metrics.psnr(other, truth) - metrics.psnr(noisy(truth, 0.05, 1), truth)
    (difference,) = paired_differences(runs)
    assert difference["psnr"] == pytest.approx(float(gains.mean()), abs=1e-5)
    assert difference["interval"] == pytest.approx(metrics.interval(gains[order].tolist(), shuffled[1]), abs=1e-5)
    image = data(report_page(runs))["images"][0]
    np.testing.assert_allclose(decoded(image["panels"][2]), HU.restore(other[0, 0].double()), atol=0.05)


def test_only_settings_that_differ_are_listed(pair):
    assert differing_settings(read_runs(pair)) == {"model.steps": ["50", "20"]}


def test_the_histogram_has_every_value_once():
    values = list(np.random.default_rng(0).normal(30, 4, 500))
    svg = histogram({"tv": values[:200], "DDS": [*values, float("inf")]}, "PSNR (dB)")
    counts = {name: sum(map(int, re.findall(rf"<title>{name}: (\d+) image", svg))) for name in ("tv", "DDS")}
    assert counts == {"tv": 200, "DDS": 500} and histogram({"tv": []}, "dB") == ""
    for count, low, high in re.findall(r"<title>DDS: (\d+) images? from (\S+) to (\S+) PSNR", svg):
        assert int(count) == sum(float(low) <= v < float(high) for v in values)


def test_data_without_truth_has_neither_errors_nor_a_histogram(pair, tmp_path):
    folder = shutil.copytree(pair[0], tmp_path / "a")
    kept = json.loads((folder / "report.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    for row in kept["images"]:
        row["psnr"] = row["ssim"] = row["baselines"]["tv"]["psnr"] = None
        path = folder / "panels" / f"{row['name']}.npz"
        save_panels(path, [panel for panel in read_panels(path) if panel.kind != "truth"])
    (folder / "report.json").write_text(json.dumps(kept))
    for means in (summary, summary["baselines"]["tv"]):
        means["psnr"] = means["ssim"] = None
        means["intervals"] = {}
    (folder / "summary.json").write_text(json.dumps({**summary, "gain": {}}))
    page = report_page([read_run(folder)])
    assert "<svg" not in page and [p["kind"] for p in data(page)["images"][0]["panels"]] == ["degraded", "baseline", "estimate"]


def bad(pair, tmp):
    a, b = pair
    for name in ("other", "renamed", "range", "json", "keys", "panels", "text"):
        write_run(tmp / name, smooth(6), smooth(6), {}, GROUPS, scale=Normalisation(0.0, 1.0) if name == "range" else HU)
    write_run(tmp / "other", smooth(6, seed=9), smooth(6), {}, GROUPS)
    write_run(tmp / "renamed", smooth(6), smooth(6), {}, GROUPS, names=[f"x{k}" for k in range(6)])
    (tmp / "json" / "report.json").write_text("{")
    (tmp / "keys" / "report.json").write_text('{"images": []}')
    (tmp / "panels" / "panels" / "0003.npz").unlink()
    (tmp / "text" / "panels" / "0003.npz").write_text("x")
    (tmp / "empty").mkdir()
    return {
        "nothing": ([], "the following arguments are required: DIR; wanted what report --help lists"),
        "missing": ([tmp / "nope"], "there is no folder .*nope'; wanted one that predict wrote"),
        "empty": ([tmp / "empty"], "empty has no summary.json; wanted a folder that predict wrote"),
        "json": ([tmp / "json"], r"report.json cannot be read \(.*\); wanted what predict writes"),
        "keys": ([tmp / "keys"], "report.json is not as predict writes it"),
        "panels": ([tmp / "panels"], "there is no file .*0003.npz'; wanted the panels that predict writes"),
        "text": ([tmp / "text"], r"0003.npz cannot be read \(.*\); wanted the panels that predict writes"),
        "images": (
            [a, tmp / "renamed"],
            r"renamed has 6 images, and '0000' of 'a' is in one folder only; wanted the 6 images of",
        ),
        "truth": ([a, tmp / "other"], "other has another truth of image 0000; wanted that of .*a"),
        "units": ([a, tmp / "range"], "range has data from 0 to 1; wanted from -1000 to 1000 HU, that of"),
        "twice": ([a, b, a], "a is named twice; wanted different folders"),
        "output": ([a, "--output", tmp / "empty"], "output is the folder .*empty'; wanted the name of a page to write"),
        "option": ([a, "--speed", "3"], "--speed 3; wanted what report --help lists"),
    }


def test_bad_folders_get_one_sentence_and_nothing_is_written(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (args, sentence) in bad(pair, tmp_path).items():
        with pytest.raises(SystemExit) as stop:
            main(["report", *map(str, args)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2 and len(lines) == 1, (name, lines)
        assert re.search(sentence, lines[0]), (name, lines[0])
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.part"))


def complex_images(count):
    """Images with magnitudes in [0, 1] whose phase runs more than once around, ``(count, 2, 24, 24)``."""
    turns = torch.linspace(-4, 4, 24) + torch.linspace(0, 3, 24)[:, None]
    return torch.cat([smooth(count) * turns.cos(), smooth(count) * turns.sin()], 1)


def test_complex_images_are_shown_by_magnitude_and_phase_with_errors_of_the_magnitude(tmp_path):
    truth = complex_images(2)
    estimate, scale = noisy(truth, 0.05, 1), Normalisation(0.0, 7.0)
    write_run(tmp_path, truth, estimate, {"tv": truth}, ["a", "b"], scale=scale)
    for k, image in enumerate(data(report_page([read_run(tmp_path)]))["images"]):
        kinds = [panel["kind"] for panel in image["panels"]]
        assert kinds == ["truth", "baseline", "estimate", "error", "phase", "phase"] and image["panels"][3]["of"] == 2
        for place, phase, one in ((0, 4, truth[k]), (2, 5, estimate[k])):
            size, panel = image["panels"][place], image["panels"][phase]
            assert panel["of"] == place and panel["title"] == f"phase of {size['title']}" and "dark where" in panel["note"]
            np.testing.assert_allclose(decoded(size), 7 * np.hypot(*one.numpy()), atol=1e-3)
            back = decoded(size) * np.exp(1j * decoded(panel))
            np.testing.assert_allclose(back, 7 * (one[0] + 1j * one[1]), atol=2e-3)
    assert all("phase" not in p["kind"] for p in data(report_page([read_run(tmp_path)] * 2))["images"][0]["panels"])


def test_phases_around_a_half_turn_are_averaged_around_it(monkeypatch):
    monkeypatch.setattr("padis_lightning.results.report.panels.MOST_PIXELS", 24)
    phase = torch.pi - 0.2 + 0.3 * torch.rand(8, 10, generator=torch.Generator().manual_seed(0))
    found = quantise("a", "phase", torch.stack([phase.cos(), phase.sin()]), (-torch.pi, torch.pi)).values
    means = phase.unflatten(1, (5, 2)).unflatten(0, (4, 2)).mean((1, 3))
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * means.numpy()), atol=0.01)


def test_pictures_of_many_pixels_are_averaged_for_the_page(caplog, monkeypatch):
    monkeypatch.setattr("padis_lightning.results.report.panels.MOST_PIXELS", 24)
    values = torch.arange(3 * 8 * 12.0).reshape(3, 8, 12) / 287
    panel = quantise("a", "truth", values, (0.0, 1.0))
    means = values.unflatten(2, (6, 2)).unflatten(1, (4, 2)).mean((2, 4))
    np.testing.assert_allclose(np.moveaxis(panel.values, -1, 0), means, atol=0.51 / 255)
    assert panel.codes.shape == (4, 6, 3) and "pictures of 8x12 by means of 2x2 pixels" in caplog.text
