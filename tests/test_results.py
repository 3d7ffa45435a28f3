"""What a result folder holds: names, scores, JSON, records; and what is refused of it."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from padis_lightning.callbacks import Animation, Results
from padis_lightning.data.datamodule import ImageData
from padis_lightning.data.generators import PhantomSource
from padis_lightning.errors import InputError
from padis_lightning.files import safe_names
from padis_lightning.metrics import interval, ssim
from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.identity import Identity
from padis_lightning.results.pictures import ImageResult, comparison, to_pixels
from padis_lightning.results.records import Records
from padis_lightning.results.report.page import report_page
from padis_lightning.results.report.panels import read_panels
from padis_lightning.results.report.runs import read_run, read_runs
from padis_lightning.results.scores import failure, score, summarise, to_csv
from padis_lightning.results.summary import missing_sentence, read_results, write_summary
from padis_lightning.results.writer import ResultWriter
from padis_lightning.solvers.pseudo_inverse import PseudoInverse
from padis_lightning.solvers.tv import TotalVariation
from padis_lightning.types import Normalisation, Reconstruction
from tests.making import prepared
from tests.runs import noisy, smooth, write_run
from tests.test_formats import ORIGIN, Slices

HOSTILE = [
    "../../home/thesis", "/etc/passwd", "..", "", "a/b\\c", "x" * 300, "é" * 150, "\udcff raw", "nul\0", "line\nbreak",
    "-rf", "=1+1", "scan", "Scan", "scan", "scan_2", "e\u0301", "\u00e9",
]  # fmt: skip


def test_names_are_safe_and_unique_and_good_ones_stay():
    names = safe_names(HOSTILE)
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    for name in names:
        assert len(name.encode()) <= 200 and name == name.strip(". ") and not set(name) & set("/\\\0\n") and name
    assert names[HOSTILE.index("scan")] == "scan" and names[HOSTILE.index("scan_2")] == "scan_2"
    assert safe_names(good := ["0000", "chest_0001", "patient 7 (left)", "Müller", "a.b"]) == good
    assert safe_names(["x" * 200, "x" * 201, "X" * 200]) == ["x" * 200, "x" * 198 + "_2", "X" * 198 + "_3"]


def test_all_files_of_hostile_names_lie_in_the_folder_and_none_is_lost(tmp_path):
    folder, names = tmp_path / "a" / "b" / "out", safe_names(HOSTILE)
    operator = ParallelBeam(16, views=3)
    writer = ResultWriter(
        folder, operator, Normalisation(0.0, 1.0), ORIGIN, measurements=True, formats=["png16", "tiff"], pictured=names
    )
    images = smooth(len(names), 16)
    y = operator(images)
    files = [
        writer.write(k, name, ImageResult(images[k], images[k], {}, None, y[k], images[k : k + 1].expand(2, -1, -1, -1)))
        for k, name in enumerate(names)
    ]
    flat = [file for some in files for file in some]
    assert len(set(flat)) == len(flat) == 8 * len(names)
    assert sorted(flat) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for k, (array, *_) in enumerate(files):
        np.testing.assert_array_equal(np.load(array), images[k, 0].numpy())


def predict(solver, data, folder, *callbacks):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder, **options)
    with torch.no_grad():
        trainer.predict(solver, data, return_predictions=False)


def test_names_of_a_file_lead_neither_out_of_the_folder_nor_over_each_other_nor_into_a_formula(tmp_path):
    names, images = ["../../home/thesis", "scan", "scan", "=1+1"], smooth(4, 16)[:, 0].numpy()
    path = prepared(
        tmp_path / "p.h5", images, ["test"] * 4, ["a"] * 4, name=names, range=[0.0, 1.0], slope=1.0, intercept=0.0, units=""
    )
    out = tmp_path / "a" / "b" / "out"
    predict(TotalVariation(Identity((1, 16, 16)), iterations=2), ImageData(path=str(path)), out, Results(), Animation())
    assert {file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(out)} == {path}
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["name"] for row in rows][1:] == ["scan", "scan_2", "'=1+1"] and len({row["psnr"] for row in rows}) == 4
    stems = {row["name"].lstrip("'") for row in rows}
    for kind in ("arrays", "images", "panels", "records", "animations"):
        assert {file.stem for file in (out / kind).iterdir()} == stems and len(stems) == 4


def test_no_name_is_a_formula_in_the_table():
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "plain", "a=b"]
    rows = csv.DictReader(io.StringIO(to_csv([{"index": k, "name": name} for k, name in enumerate(names)])))
    assert [row["name"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "plain", "a=b"]


def test_a_baseline_named_truth_does_not_replace_the_truth():
    truth, other = smooth(2, 8)
    picture = np.asarray(comparison(ImageResult(other, truth, {"truth": other}, None, None), (0.0, 1.0), 0.1))
    np.testing.assert_array_equal(picture[14:, :8], to_pixels(truth))


# --- scores


def reconstruction(estimate):
    return Reconstruction(estimate, None, torch.zeros(len(estimate)), 0.5, 7)


def test_images_too_small_for_the_window_have_no_ssim():
    for side in range(1, 12):
        images = torch.rand(2, 1, side, 20, generator=torch.Generator().manual_seed(0))
        assert ssim(images, images).isnan().all() == (side < 6)
        assert [row["ssim"] for row in score(reconstruction(images), images)] == ([None] * 2 if side < 6 else [1.0] * 2)


@pytest.mark.parametrize("value", [1e30, -2e3, float("inf"), float("nan")])
def test_absurd_estimates_have_no_scores_and_a_reason(value):
    truth = torch.ones(2, 1, 16, 16)
    estimate = truth.clone() * 0.5
    estimate[1, 0, 3, 4] = value
    first, second = score(reconstruction(estimate), truth)
    assert first["psnr"] == pytest.approx(-10 * np.log10(0.25), abs=1e-4) and failure(estimate[0]) is None
    assert second["psnr"] is second["ssim"] is None and "times the range of the data" in failure(estimate[1])


def test_unknown_scores_make_unknown_means_and_json_stays_json(tmp_path):
    """The first estimate is the truth itself, whose PSNR is infinite."""
    truth = smooth(3)
    estimate = noisy(truth, 0.1, 1)
    estimate[0] = truth[0]
    rows = [
        {"index": k, "name": f"{k}", "group": "a", **row, "baselines": {"fbp": row}}
        for k, row in enumerate(score(reconstruction(estimate), truth))
    ]
    assert rows[0]["psnr"] is None and rows[1]["psnr"] > 0
    summary = summarise(rows)
    assert summary["psnr"] is None and summary["gain"] == {} and summary["ssim"] > 0 and "psnr" not in summary["intervals"]
    display = {"units": "", "lower": 0.0, "upper": 1.0, "window": [0.0, 1.0], "error_scale": float("inf")}
    records = Records(tmp_path)
    images = [[k, f"{k}", "a"] for k in range(3)]
    records.begin(
        {"settings": {}, "made": {"solver": "DDS"}, "shown": display | {"error_scale": 0.1}, "pictures": [], "images": images}
    )
    for row in rows:
        records.keep({**row, "residual": float("nan") if row["index"] else 1.0}, [])
    results = read_results(tmp_path)
    assert missing_sentence(results) == ""
    write_summary(tmp_path, results)

    def refuse(constant):
        raise AssertionError(constant)

    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    assert json.loads((tmp_path / "summary.json").read_text())["residual"] is None


def test_folders_with_infinities_of_earlier_versions_are_read(tmp_path):
    truth = smooth(2)
    write_run(tmp_path, truth, noisy(truth, 0.1, 1), {"tv": truth}, ["a", "b"])
    for name in ("report.json", "summary.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace("null", "Infinity"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["gain"] = {"tv": {"psnr": float("-inf"), "interval": [float("nan"), float("nan")]}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "NaN" in (tmp_path / "summary.json").read_text() and "Infinity" in (tmp_path / "report.json").read_text()
    page = report_page([read_run(tmp_path)])
    assert "nan" not in page.split("<script")[0].lower().replace("nanc", "") and "Infinity" not in page.split("<script")[1]


def test_intervals_of_many_groups_take_little_memory_and_are_the_same():
    values = np.random.default_rng(1).normal(size=400).tolist()
    groups = [str(k) for k in range(400)]
    picks = np.random.default_rng(0).integers(400, size=(2000, 400))  # at once; the interval draws them in blocks
    assert interval(values, groups) == pytest.approx(np.percentile(np.array(values)[picks].mean(1), (2.5, 97.5)), abs=1e-12)


class Absurd(PseudoInverse):
    """A solver whose second image is nothing that an image could be."""

    def solve(self, y, generator):
        return torch.cat([y[:1], torch.full_like(y[1:2], 1e30), y[2:]])


def test_a_run_names_absurd_estimates_as_failures(tmp_path, capsys):
    results = Results()
    predict(Absurd(Identity((1, 16, 16))), Slices(PhantomSource(3, 16, seed=0)), tmp_path, results)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["failed"]) == ["0001"] and summary["n"] == 2
    assert "1 images failed (0001; 0001: its largest value is 1e+30 times the range of the data" in results.lacking
    assert [row["psnr"] == "" for row in csv.DictReader((tmp_path / "metrics.csv").open())].count(True) >= 1


# --- folders that others have written


def places(value, path=()):
    """Every place in a nested value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def replaced(value, path, other):
    """The value with another one at a place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], other)
    return copy


OTHERS = [None, "x", [], {}, 3, 1e308, True, ["x"], "../b"]


def altered(path):
    """The JSON of a file with other values, one or two at each place in turn."""
    whole = json.loads(path.read_text())
    for k, place in enumerate(places(whole)):
        for other in {repr(x): x for x in (OTHERS[k % 9], OTHERS[5 * k % 9])}.values():
            yield json.dumps(replaced(whole, place, other))


@pytest.mark.parametrize("name", ["report.json", "summary.json"])
def test_json_of_any_other_shape_is_a_page_or_one_sentence(name, tmp_path):
    truth = smooth(2)
    write_run(tmp_path / "a", truth, noisy(truth, 0.1, 1), {"tv": noisy(truth, 0.2, 1)}, ["a", "b"], pictured=0)
    write_run(tmp_path / "b", truth, noisy(truth, 0.1, 1), {}, ["a", "b"], pictured=0)
    refused = 0
    for text in altered(tmp_path / "a" / name):
        (tmp_path / "a" / name).write_text(text)
        try:
            report_page([read_run(tmp_path / "a")])
            report_page(read_runs([tmp_path / "a", tmp_path / "b"]))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20
    for text in ("", "{", "[" * 100_000, '{"images": ' + "1" * 5000 + "}", "\x00", "null"):
        (tmp_path / "a" / name).write_text(text)
        with pytest.raises(InputError, match="as predict writes it|what predict writes"):
            read_run(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        {"described": "[" * 100_000},
        {"described": "{}"},
        {"described": json.dumps([["a", "truth", 0.0, "x"]])},
        {"described": json.dumps([["a", "script", 0.0, 1.0]])},
        {"described": json.dumps([[1, "truth", 0.0, 1.0]])},
        {"described": json.dumps([["a", "truth", 0.0, 1e999]])},
        {"codes0": np.zeros((2, 2))},
        {"codes0": np.zeros((2, 2, 5), np.uint8)},
        {"codes0": np.zeros((0, 3), np.uint16)},
        {"codes0": np.array([{}], dtype=object)},
    ],
)
def test_panels_of_any_other_shape_get_one_sentence(change, tmp_path):
    sound = {"described": json.dumps([["a", "truth", 0.0, 1.0]]), "codes0": np.zeros((2, 2), np.uint16)}
    np.savez(tmp_path / "sound.npz", **sound)
    (panel,) = read_panels(tmp_path / "sound.npz")
    assert np.array_equal(panel.codes, sound["codes0"]) and panel.extent == panel.voxels == ()  # as earlier versions wrote it
    np.savez(tmp_path / "x.npz", **{**sound, **change})
    with pytest.raises(InputError, match=r"x.npz cannot be read \(.*\); wanted the panels that predict writes"):
        read_panels(tmp_path / "x.npz")


def results_folder(folder):
    records = Records(folder)
    display = {"units": "HU", "lower": 0.0, "upper": 1.0, "window": [0.0, 1.0], "error_scale": 0.1}
    images = [[0, "a", "g"], [1, "b", "h"]]
    records.begin({"settings": {"x": "1"}, "made": {"solver": "DDS"}, "shown": display, "pictures": ["a"], "images": images})
    scores = {"psnr": 30.0, "ssim": 0.9, "residual": 0.1, "seconds": 1.0, "evaluations": 3}
    for index, name, group in images:
        records.keep({"index": index, "name": name, "group": group, **scores, "baselines": {"tv": scores}}, [])
    return records


@pytest.mark.parametrize("name", ["run.json", "records/b.json"])
def test_records_of_any_other_shape_are_results_or_one_sentence(name, tmp_path):
    records = results_folder(tmp_path)
    for text in altered(tmp_path / name):
        (tmp_path / name).write_text(text)
        assert not records.is_whole("b")  # it has no files
        try:
            results = read_results(tmp_path)
            if results.summary is not None:
                write_summary(tmp_path, results)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("change", [{"name": "a"}, {"psnr": "x"}, {"failed": 3}])
def test_the_record_of_another_image_or_of_another_shape_is_none(change, tmp_path):
    records = results_folder(tmp_path)
    path = tmp_path / "records" / "b.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "row": {**record["row"], **change}}))
    assert records.row("a") and records.row("b") is None and read_results(tmp_path).missing == ["b"]


@pytest.mark.parametrize("images", [[], [[0, "a", "g"], [0, "a", "g"]]])
def test_a_run_lists_every_image_once(images, tmp_path):
    records = results_folder(tmp_path)
    records.begin({**records.run(), "images": images})
    with pytest.raises(InputError, match=r"lists \d images, \d of which differ; wanted at least 1, each once"):
        read_results(tmp_path)


# --- overwriting


@pytest.mark.parametrize("linked", ["records", "arrays", "unfinished"])
def test_forgetting_removes_nothing_behind_a_link(linked, tmp_path):
    behind, out = tmp_path / "behind", tmp_path / "out"
    behind.mkdir()
    for name in ("a.json", "a.npy", "x.safetensors"):
        (behind / name).write_text(json.dumps({"row": {}, "files": {"arrays/a.npy": "", "images/a.png": ""}}))
    before = {path: path.read_bytes() for path in behind.iterdir()}
    for name in ("arrays", "records", "unfinished", "images"):
        if name == linked:
            out.mkdir(exist_ok=True)
            (out / name).symlink_to(behind)
        else:
            (out / name).mkdir(parents=True)
    (out / "images" / "a.png").write_text("x")
    if linked != "records":
        (out / "records" / "a.json").write_text((behind / "a.json").read_text())
    if linked == "arrays":
        Records(out).forget()
        assert not (out / "images" / "a.png").exists() and not list((out / "records").iterdir())
    else:
        with pytest.raises(InputError, match=f"{linked} is a link to .*; wanted a folder of its own, or another --output"):
            Records(out).forget()
    assert before == {path: path.read_bytes() for path in behind.iterdir()}


def test_forgetting_forgets_the_states_of_solves(tmp_path):
    records = results_folder(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "0123.safetensors").write_text("x")
    (tmp_path / "mine.txt").write_text("x")
    records.forget()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "mine.txt"]
