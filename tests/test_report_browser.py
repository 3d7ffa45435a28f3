"""The report's page in a real browser: what is drawn, what moves, and that nothing leaves it."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from padis_lightning.operators.ct import ParallelBeam
from padis_lightning.operators.slices import Slices
from padis_lightning.operators.super_resolution import AveragePooling
from padis_lightning.random import seeded
from padis_lightning.results.pictures import error_pixels, to_pixels
from padis_lightning.results.report.page import report_page
from padis_lightning.results.report.runs import read_runs
from padis_lightning.types import Normalisation
from tests.browser import Browser
from tests.runs import noisy, smooth, write_run

pytestmark = pytest.mark.slow
HOSTILE = "</script><img src=x onerror=document.title='broken'>"
PIXELS = """[...document.querySelectorAll('#panels canvas')].map((canvas) => {
  const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let text = ''; for (const byte of data) text += String.fromCharCode(byte);
  return [width, height, btoa(text), canvas.closest('figure').className.split(' ')[0]];
})"""

NAMELESS = """[...document.querySelectorAll('input, select, button, canvas, svg')].filter((e) =>
  !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()).map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def known():
    """Three images of 24x24 in [0, 1], with what stands beside them."""
    truth = smooth(3)
    return {
        "truth": truth,
        "estimate": noisy(truth, 0.02, 1),
        "baselines": {"fbp": noisy(truth, 0.2, 2), "tv": noisy(truth, 0.05, 3)},
        "deviation": 0.05 * smooth(3, seed=4),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory, known):
    """Sinograms, samples, and names that would be markup if they could."""
    folder = tmp_path_factory.mktemp("run")
    write_run(
        folder, **known, groups=["b", HOSTILE, "a"], operator=ParallelBeam(24, views=5), names=["0000", "0001", "0002"],
        config=f"model: {json.dumps(HOSTILE)}\n",
    )  # fmt: skip
    (folder / "page.html").write_text(report_page(read_runs([folder])))
    return folder / "page.html"


def show(browser, page, **size):
    browser.open(page, **size)
    browser.wait("document.querySelector('#panels').dataset.image === '0000'")


def drawn(browser):
    """Pixels ``(H, W, 3)`` of every panel, by its kind; of several, the last."""
    out = {}
    for width, height, text, kind in browser.evaluate(PIXELS):
        rgba = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
        assert (rgba[..., 3] == 255).all()
        out[kind] = rgba[..., :3].astype(int)
    return out


def windowed(image, level, width):
    """The closed form: HU of a normalised image between the ends of a window as 8 bits."""
    return to_pixels(image, ((level - width / 2 + 1000) / 2000, (level + width / 2 + 1000) / 2000)).astype(int)


def same(seen, expected):
    assert seen.shape == expected.shape and np.abs(seen - expected).max() <= 1


def test_every_panel_shows_the_array_that_it_stands_for(browser, page, known):
    show(browser, page)
    seen = drawn(browser)
    for kind, image in {
        "truth": known["truth"][0], "baseline": known["baselines"]["tv"][0], "estimate": known["estimate"][0]
    }.items():  # fmt: skip
        same(seen[kind], to_pixels(image).astype(int))
    same(seen["error"], error_pixels(known["estimate"][0] - known["truth"][0], 0.1).astype(int))
    same(seen["deviation"], to_pixels(known["deviation"][0], (0.0, 0.1)).astype(int))
    sinogram = ParallelBeam(24, views=5)(known["truth"])[0]
    same(seen["measurement"], to_pixels(sinogram, (float(sinogram.min()), float(sinogram.max()))).astype(int))
    order = browser.evaluate("[...document.querySelectorAll('#panels figcaption')].map((c) => c.firstChild.textContent)")
    assert order == ["truth", "measurement", "fbp", "tv", "DDS", "error of DDS", "deviation"]


def test_colours_and_degraded_images(browser, tmp_path):
    truth = smooth(1, channels=3)
    estimate = noisy(truth, 0.05, 1).clamp(0, 1)
    unit = Normalisation(0.0, 1.0)
    write_run(tmp_path, truth, estimate, {}, ["a"], operator=AveragePooling((3, 24, 24), 4), scale=unit)
    (tmp_path / "page.html").write_text(report_page(read_runs([tmp_path])))
    show(browser, tmp_path / "page.html")
    seen = drawn(browser)
    same(seen["truth"], to_pixels(truth[0]).astype(int))
    same(seen["degraded"], to_pixels(torch.nn.functional.avg_pool2d(truth, 4)[0]).astype(int))
    stored = (255 * torch.stack([truth[0], estimate[0]])).round() / 255
    same(seen["error"], error_pixels(stored[1] - stored[0], 0.1).astype(int))
    assert browser.evaluate("[...document.querySelectorAll('#presets button')].map((b) => b.textContent)") == ["full"]


def test_phases_have_colours_that_close_and_are_dark_where_there_is_nothing(browser, tmp_path):
    turns = torch.linspace(-3.1, 3.1, 24)
    truth = torch.linspace(0, 1, 24)[:, None] * torch.stack([turns.cos(), turns.sin()])[:, None]
    write_run(tmp_path, truth[None], truth[None], {}, ["a"], scale=Normalisation(0.0, 1.0))
    (tmp_path / "page.html").write_text(report_page(read_runs([tmp_path])))
    show(browser, tmp_path / "page.html")
    light = torch.linspace(0, 4, 24).clamp(0, 1)[:, None, None]
    expected = 255 * light * (0.5 + 0.5 * torch.cos(turns[:, None] - torch.arange(3) * 2 * torch.pi / 3))
    same(drawn(browser)["phase"], expected.round().numpy().astype(int))
    assert browser.evaluate("document.querySelector('figure.phase .below').textContent") == "\u2212\u03c0\u03c0"


def test_sliders_numbers_and_presets_set_the_window(browser, page, known):
    show(browser, page)

    def put(element, value):
        browser.evaluate(f"{element}.value = {value}, {element}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    put("document.getElementById('level')", 150)
    same(drawn(browser)["estimate"], windowed(known["estimate"][0], 150, 2000))
    put("document.getElementById('width').nextElementSibling", 700)
    assert browser.evaluate("document.getElementById('width').value") == "700"
    seen = drawn(browser)
    same(seen["estimate"], windowed(known["estimate"][0], 150, 700))
    same(seen["truth"], windowed(known["truth"][0], 150, 700))
    for name, (level, width) in {"lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800), "full": (0, 2000)}.items():
        pressed = f"[...document.querySelectorAll('#presets button')].find((b) => b.textContent === '{name}')"
        browser.evaluate(f"{pressed}.click()")
        same(drawn(browser)["truth"], windowed(known["truth"][0], level, width))
        assert browser.evaluate(f"{pressed}.getAttribute('aria-pressed')") == "true"
    put("document.getElementById('scale')", 50)
    same(drawn(browser)["error"], error_pixels(known["estimate"][0] - known["truth"][0], 50 / 2000).astype(int))
    browser.press("e")
    same(drawn(browser)["baseline"], error_pixels(known["baselines"]["tv"][0] - known["truth"][0], 50 / 2000).astype(int))
    browser.press("e")
    same(drawn(browser)["baseline"], windowed(known["baselines"]["tv"][0], 0, 2000))


REGIONS = """[...document.querySelectorAll('#panels .frame')].map((frame) => {
  const f = frame.getBoundingClientRect(), c = frame.querySelector('canvas').getBoundingClientRect();
  const place = [(f.left - c.left) / c.width, (f.top - c.top) / c.height, f.width / c.width, f.height / c.height];
  return [frame.parentNode.className.split(' ')[0], ...place];
})"""


def region(browser):
    """Left, top, width and height of what is visible, as shares of the image: the same in all panels but the sinogram."""
    parts = {kind: place for kind, *place in browser.evaluate(REGIONS)}
    np.testing.assert_allclose(parts.pop("measurement"), [0, 0, 1, 1], atol=1e-6)
    places = np.array(list(parts.values()))
    assert len(places) >= 5 and np.ptp(places, 0).max() < 1e-5
    return places[0]


def box(browser, kind):
    """Left, top, width and height of a panel in the window."""
    return browser.evaluate(
        f"(({{x, y, width, height}}) => [x, y, width, height])"
        f"(document.querySelector('#panels .{kind} .frame').getBoundingClientRect())"
    )


def test_zoom_and_pan_move_all_panels_together(browser, page):
    show(browser, page, height=1400)
    np.testing.assert_allclose(region(browser), [0, 0, 1, 1], atol=1e-6)
    x, y, width, height = box(browser, "estimate")
    at = round(x + 0.25 * width), round(y + 0.75 * height)  # the browser counts in whole pixels
    shares = (at[0] - x) / width, (at[1] - y) / height
    browser.mouse("mouseWheel", *at, deltaX=0, deltaY=-120)
    browser.wait("document.querySelector('#panels').classList.contains('zoomed')")
    left, top, across, down = region(browser)
    assert across == pytest.approx(np.exp(-120 / 300), abs=1e-4) and down == pytest.approx(across, abs=1e-5)
    assert left + shares[0] * across == pytest.approx(shares[0], abs=1e-4)  # what was under the pointer still is
    assert top + shares[1] * down == pytest.approx(shares[1], abs=1e-4)
    browser.mouse("mousePressed", *at, button="left", clickCount=1)
    browser.mouse("mouseMoved", at[0] + 20, at[1] - 10, button="left")
    browser.mouse("mouseReleased", at[0] + 20, at[1] - 10, button="left", clickCount=1)
    moved = [left - 20 / width * across, top + 10 / height * down, across, down]
    np.testing.assert_allclose(region(browser), moved, atol=1e-4)
    browser.press("0")
    browser.press("+")
    np.testing.assert_allclose(region(browser), [0.25, 0.25, 0.5, 0.5], atol=1e-5)
    browser.press("ArrowRight", modifiers=8)
    np.testing.assert_allclose(region(browser), [0.3125, 0.25, 0.5, 0.5], atol=1e-5)
    browser.press("-")
    np.testing.assert_allclose(region(browser), [0, 0, 1, 1], atol=1e-6)
    browser.evaluate("document.getElementById('in').click()")
    assert browser.evaluate("document.getElementById('zoom').textContent").startswith("200")
    browser.evaluate("document.getElementById('next').click()")
    browser.wait("document.querySelector('#panels').dataset.image === '0001'")
    np.testing.assert_allclose(region(browser), [0.25, 0.25, 0.5, 0.5], atol=1e-5)  # another image, the same place


def test_the_values_under_the_pointer_are_those_of_the_arrays(browser, page, known):
    show(browser, page, height=1400)
    browser.press("+")
    x, y, width, height = box(browser, "estimate")
    browser.mouse("mouseMoved", x + 0.3 * width, y + 0.6 * height)
    row, column = int((0.25 + 0.6 / 2) * 24), int((0.25 + 0.3 / 2) * 24)
    assert browser.evaluate("document.getElementById('pointer').textContent") == f"row {row}, column {column}"
    texts = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#panels figure')]"
        ".map((f) => [f.className.split(' ')[0], f.querySelector('.read').textContent]))"
    )
    seen = {kind: text.removesuffix(" HU").replace("\u2212", "-") for kind, text in texts.items()}
    estimate, truth = (2000 * float(known[key][0, 0, row, column]) - 1000 for key in ("estimate", "truth"))
    assert seen["measurement"] == "" and texts["truth"].endswith(" HU")
    assert float(seen["estimate"]) == pytest.approx(estimate, abs=0.11) and float(seen["truth"]) == pytest.approx(truth, abs=0.11)
    assert float(seen["error"]) == pytest.approx(estimate - truth, abs=0.11) and seen["error"][0] in "+-"


def test_images_are_chosen_by_keys_list_and_table(browser, page, known):
    show(browser, page)

    def chosen(name):
        browser.wait(f"document.querySelector('#panels').dataset.image === '{name}'")
        same(drawn(browser)["truth"], to_pixels(known["truth"][int(name)]).astype(int))
        rows = browser.evaluate("[...document.querySelectorAll('#scores [aria-current]')].map((row) => row.dataset.name)")
        assert rows == [name] and browser.evaluate("document.getElementById('list').value") == name

    browser.press("ArrowRight")
    chosen("0001")
    browser.press("ArrowRight")
    chosen("0002")
    browser.press("ArrowRight")  # there is none
    browser.press("ArrowLeft")
    chosen("0001")
    browser.evaluate("document.querySelector('#scores tr[data-name=\"0002\"] td').click()")
    chosen("0002")
    browser.evaluate("document.querySelector('#scores tr[data-name=\"0000\"] button').focus()")
    browser.press("Enter")
    chosen("0000")
    browser.evaluate("document.getElementById('list').focus()")
    browser.press("ArrowDown")
    chosen("0001")


def test_headers_sort_by_keyboard_and_say_so(browser, page, known):
    show(browser, page)
    rows = read_runs([page.parent])[0].rows
    by_quality = [row["name"] for row in sorted(rows, key=lambda row: row["psnr"])]
    names = "[...document.querySelectorAll('#scores tbody tr')].map((row) => row.dataset.name)"
    sorts = "[...document.querySelectorAll('#scores thead th')].map((th) => th.getAttribute('aria-sort'))"
    browser.evaluate("document.querySelector('#scores thead th:nth-child(3) button').focus()")
    browser.press("Enter")
    assert browser.evaluate(names) == by_quality
    assert browser.evaluate(sorts)[:4] == [None, None, "ascending", None]
    browser.press("Enter")
    assert browser.evaluate(names) == by_quality[::-1] and browser.evaluate(sorts)[2] == "descending"
    browser.evaluate("document.querySelector('#scores thead th:nth-child(2) button').click()")
    assert browser.evaluate(names) == ["0001", "0002", "0000"]  # the hostile group, a, b
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_histogram_counts_every_image_of_every_method(browser, page):
    show(browser, page)
    titles = browser.evaluate("[...document.querySelectorAll('.histogram rect title')].map((t) => t.textContent)")
    counts = {}
    for title in titles:
        method, rest = title.split(": ")
        counts[method] = counts.get(method, 0) + int(rest.split()[0])
    assert counts == {"fbp": 3, "tv": 3, "DDS": 3}
    fill = "getComputedStyle(document.querySelector('.histogram .rank{} rect')).fill"
    assert [browser.evaluate(fill.format(k)) for k in (0, 1)] == ["rgb(0, 90, 181)", "rgb(220, 90, 0)"]


def test_nothing_leaves_the_page_and_nothing_goes_wrong(browser, page):
    show(browser, page)
    for key in ("ArrowRight", "+", "-", "e", "ArrowLeft"):
        browser.press(key)
    browser.wait("document.querySelector('#panels').dataset.image === '0000'")
    urls = [told["request"]["url"] for told in browser.told("Network.requestWillBeSent")]
    assert urls and all(url.startswith("data:image/png;base64,") or url == page.as_uri() for url in urls)
    assert not browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert browser.evaluate("document.title") == page.parent.name and not browser.evaluate(
        "document.querySelectorAll('img').length"
    )
    assert browser.evaluate("document.querySelector('#scores tr[data-name=\"0001\"] td').textContent") == HOSTILE
    assert HOSTILE in browser.evaluate("document.querySelector('pre').textContent")
    blocked = "new Promise((done) => document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective)))"
    assert (
        browser.evaluate(f"(() => {{ const told = {blocked}; new Image().src = 'http://127.0.0.1:9/x'; return told; }})()")
        == "img-src"
    )


def test_everything_to_operate_has_a_name(browser, page):
    show(browser, page)
    assert browser.evaluate(NAMELESS) == []


@pytest.mark.parametrize("width", [375, 700, 1280])
def test_no_width_scrolls_sideways(browser, page, width):
    show(browser, page, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    lefts = browser.evaluate("[...new Set([...document.querySelectorAll('#panels figure')].map((f) => f.offsetLeft))].length")
    assert (lefts == 1) == (width <= 700)


def test_two_runs_side_by_side(browser, tmp_path, known):
    write_run(tmp_path / "a", known["truth"], known["estimate"], {}, ["x", "y", "z"])
    write_run(tmp_path / "b", known["truth"], known["baselines"]["tv"], {}, ["x", "y", "z"])
    (tmp_path / "page.html").write_text(report_page(read_runs([tmp_path / "a", tmp_path / "b"])))
    show(browser, tmp_path / "page.html")
    order = browser.evaluate("[...document.querySelectorAll('#panels figcaption')].map((c) => c.firstChild.textContent)")
    assert order == ["truth", "a", "b", "error of a", "error of b"]
    seen = drawn(browser)
    same(seen["estimate"], to_pixels(known["baselines"]["tv"][0]).astype(int))
    same(seen["error"], error_pixels(known["baselines"]["tv"][0] - known["truth"][0], 0.1).astype(int))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A page of a black measurement of fewer pixels, a white estimate and a grey truth, in colour."""
    folder, shape = tmp_path_factory.mktemp("colours"), (2, 3, 24, 32)
    truth, white = torch.full(shape, 0.5), torch.ones(shape)
    operator = AveragePooling(shape[1:], 4)
    operator.forward = lambda x: torch.zeros(len(x), 3, 6, 8)
    write_run(folder, truth, white, {"tv": truth}, ["x", "y"], operator=operator, scale=Normalisation(0.0, 1.0))
    (folder / "page.html").write_text(report_page(read_runs([folder])))
    return folder / "page.html"


LINE = "document.querySelector('.slider .line')"


def sides(browser):
    """The colours at both ends of the middle row under the slider, and the share of its width where the right one begins."""
    x, y, width, height = box(browser, "slider")
    row = screenshot(browser)[round(y + height / 2), math.ceil(x) : math.floor(x + width)].astype(int)
    return row[0].tolist(), row[-1].tolist(), np.flatnonzero((row != row[-1]).any(1)).max() / len(row)


def screenshot(browser):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))).convert("RGB"))


def test_two_panels_lie_under_a_slider_that_keys_and_fingers_move(browser, colours):
    show(browser, colours, height=1200)
    assert browser.evaluate("[...document.querySelectorAll('.slider select')].map((s) => s.value)") == ["measurement", "DDS"]
    left, right, at = sides(browser)
    assert left == [0] * 3 and right == [255] * 3 and at == pytest.approx(0.5, abs=0.01)
    browser.evaluate(f"{LINE}.focus()")
    for _ in range(20):
        browser.press("ArrowRight")
    assert sides(browser)[2] == pytest.approx(0.7, abs=0.01) and browser.evaluate(f"{LINE}.value") == "70"
    said = browser.evaluate(f"{LINE}.getAttribute('aria-valuetext')")
    assert said == "measurement on the left 70\u2009%, DDS on the right"
    assert browser.evaluate("document.querySelector('#panels').dataset.image") == "0000"  # arrows move the line only
    for zoom in range(2):
        x, y, width, height = box(browser, "slider")
        browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
        for kind, share in (("touchStart", 0.7), ("touchMove", 0.5), ("touchMove", 0.3), ("touchEnd", None)):
            points = [] if share is None else [{"x": x + share * width, "y": y + 0.4 * height}]
            browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
        assert float(browser.evaluate(f"{LINE}.value")) == pytest.approx(30, abs=1), zoom
        browser.evaluate(f"{LINE}.value = 70, {LINE}.dispatchEvent(new Event('input')), document.getElementById('in').click()")
    for _, *place in browser.evaluate(REGIONS):  # it moved nothing but the line
        np.testing.assert_allclose(place, [0.375, 0.375, 0.25, 0.25], atol=1e-5)


def test_any_two_panels_are_compared_and_stay_chosen(browser, colours):
    show(browser, colours, height=1200)
    choose = "(() => {{ const s = document.querySelectorAll('.slider select')[{}]; s.value = '{}'; {} }})()"
    tell = "s.dispatchEvent(new Event('change'));"
    browser.evaluate(choose.format(0, "DDS", tell) + "," + choose.format(1, "truth", tell))
    assert sides(browser)[0] == [255] * 3 and sides(browser)[1][0] in (127, 128)
    browser.evaluate("document.activeElement.blur()")
    browser.press("ArrowRight")
    browser.wait("document.querySelector('#panels').dataset.image === '0001'")
    assert sides(browser)[0] == [255] * 3 and sides(browser)[1][0] in (127, 128)
    browser.evaluate("document.getElementById('sliding').click()")
    assert not browser.evaluate("document.querySelectorAll('.slider').length")
    assert len(browser.evaluate("[...document.querySelectorAll('#panels figure')].map(() => 0)")) == 5


@pytest.mark.parametrize("width", [375, 1280])
def test_pages_with_a_slider_fit_and_name_all_their_parts(browser, colours, width):
    show(browser, colours, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(NAMELESS) == []
    assert not browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


def test_grey_images_have_the_slider_on_request_and_volumes_have_none(browser, page, volumes):
    show(browser, page)
    assert not browser.evaluate("document.querySelectorAll('.slider').length")
    browser.evaluate("document.getElementById('sliding').click()")
    assert browser.evaluate("[...document.querySelectorAll('.slider select')].map((s) => s.value)") == ["fbp", "DDS"]
    show(browser, volumes[0])
    assert browser.evaluate("document.getElementById('comparing').hidden")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two volumes of 7 slices of 24x20 that are three pixels apart, and a page of them."""
    folder, operator = tmp_path_factory.mktemp("volumes"), Slices(ParallelBeam((24, 20), views=5), 7)
    truth = torch.rand(2, 1, 7, 24, 20, generator=seeded(0))
    known = {"truth": truth, "estimate": noisy(truth, 0.03, 1), "baseline": noisy(truth, 0.1, 2)}
    rest = {"deviation": 0.1 * truth.flip(2), "operator": operator, "spacing": (3.0, 1.0, 1.0)}
    write_run(folder / "a", truth, known["estimate"], {"tv": known["baseline"]}, ["x", "y"], **rest)
    (folder / "page.html").write_text(report_page(read_runs([folder / "a"])))
    return folder / "page.html", known


VIEWS = {"axial": 2, "coronal": 3, "sagittal": 4}


def plane(volume, view, k):
    """``(1, H, W)``, the last slice on top."""
    cut = volume[:1].select(VIEWS[view], k)[0]
    return cut if view == "axial" else cut.flip(1)


def seen_views(browser):
    """Pixels of every panel of a volume, by kind and view."""
    kinds = browser.evaluate("""[...document.querySelectorAll('#panels canvas')].map((canvas) =>
      canvas.parentNode.classList.contains('linked') ? canvas.parentNode.classList[2] : '')""")
    out = {}
    for (width, height, text, kind), view in zip(browser.evaluate(PIXELS), kinds, strict=True):
        rgba = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
        out[kind, view] = rgba[..., :3].astype(int)
    return out


def same_planes(browser, known, numbers):
    """All panels show these planes, to the rounding of their 256 steps."""
    seen = seen_views(browser)
    for view, k in numbers.items():
        stored = {kind: (255 * v.clamp(0, 1)).round() / 255 for kind, v in known.items()}
        for kind in ("truth", "baseline", "estimate"):
            same(seen[kind, view], to_pixels(plane(stored[kind], view, k)).astype(int))
        error = plane(stored["estimate"], view, k) - plane(stored["truth"], view, k)
        same(seen["error", view], error_pixels(error, 0.1).astype(int))
        spread = plane(0.1 * known["truth"].flip(2), view, k)
        assert np.abs(seen["deviation", view] - to_pixels(spread, (0.0, 0.1)).astype(int)).max() <= 2


def test_sliders_show_every_plane_of_a_volume_in_all_panels(browser, volumes):
    page, known = volumes
    show(browser, page, height=1400)
    numbers = {"axial": 3, "coronal": 12, "sagittal": 10}
    same_planes(browser, known, numbers)
    for view, key, change in (("axial", "ArrowRight", 1), ("coronal", "ArrowLeft", -1), ("sagittal", "ArrowUp", 1)):
        browser.evaluate(f"document.getElementById('{view}').focus()")
        for _ in range(2):
            browser.press(key)
        numbers[view] += 2 * change
        assert browser.evaluate(f"document.getElementById('{view}').nextElementSibling.value") == str(numbers[view])
        same_planes(browser, known, numbers)
    for view, last in (("axial", 6), ("coronal", 23), ("sagittal", 19)):
        slider = f"document.getElementById('{view}')"
        assert browser.evaluate(f"[{slider}.min, {slider}.max]") == ["0", str(last)]
        for k in (0, last):
            number = f"{slider}.nextElementSibling"
            browser.evaluate(f"{number}.value = {k}, {number}.dispatchEvent(new Event('input', {{bubbles: true}}))")
            numbers[view] = k
            assert browser.evaluate(f"{slider}.value") == str(k)
            same_planes(browser, known, numbers)
    browser.evaluate("document.activeElement.blur()")
    browser.press("ArrowRight")  # the next volume, at the same planes
    browser.wait("document.querySelector('#panels').dataset.image === '0001'")
    same_planes(browser, {kind: v[1:] for kind, v in known.items()}, numbers)


def frames(browser, kind="estimate"):
    """Left, top, width and height of the visible views of a panel."""
    places = browser.evaluate(
        f"[...document.querySelectorAll('#panels .{kind} .frame:not([hidden])')].map((frame) => {{"
        "const box = frame.getBoundingClientRect(); return [frame.classList[2], box.x, box.y, box.width, box.height]; })"
    )
    return {view: place for view, *place in places}


def test_views_lie_beside_each_other_in_the_proportions_of_the_patient(browser, volumes):
    show(browser, volumes[0], height=1400)
    places = frames(browser)
    assert list(places) == list(VIEWS) and len({round(top) for _, top, _, _ in places.values()}) == 1
    sides = {"axial": (20, 24), "coronal": (20, 21), "sagittal": (24, 21)}
    scale = places["axial"][2] / 20
    for view, (width, height) in sides.items():
        assert places[view][2:] == pytest.approx([scale * width, scale * height], rel=5e-3)  # a ball is round in all of them
    assert places["axial"][0] + places["axial"][2] < places["coronal"][0] < places["sagittal"][0]
    for view in VIEWS:
        browser.evaluate(f"[...document.querySelectorAll('#views button')].find((b) => b.textContent === '{view}').click()")
        places = frames(browser)
        assert list(places) == [view]
        width, height = sides[view]
        assert places[view][2] / places[view][3] == pytest.approx(width / height, rel=5e-3)
        assert len(browser.evaluate("[...document.querySelectorAll('.frame:not([hidden])')].map(() => 0)")) == 6
    browser.evaluate("document.querySelector('#views button').click()")
    assert list(frames(browser)) == list(VIEWS)


def test_voxels_under_the_pointer_and_their_zoom_are_those_of_the_view(browser, volumes):
    page, known = volumes
    show(browser, page, height=1400)
    x, y, width, height = frames(browser)["coronal"]
    at = round(x + 0.33 * width), round(y + 0.2 * height)
    browser.mouse("mouseMoved", *at)
    column, from_top = int((at[0] - x) / width * 20), int((at[1] - y) / height * 7)
    assert browser.evaluate("document.getElementById('pointer').textContent") == f"slice {6 - from_top}, row 12, column {column}"
    told = browser.evaluate("document.querySelector('#panels .estimate .read').textContent")
    value = 2000 * float(known["estimate"][0, 0, 6 - from_top, 12, column].clamp(0, 1)) - 1000
    assert float(told.removesuffix(" HU").replace("\u2212", "-")) == pytest.approx(value, abs=2000 / 255 / 2 + 0.51)
    assert browser.evaluate("document.querySelectorAll('.pointed').length") == 5  # the coronal views of all panels
    browser.mouse("mouseWheel", *at, deltaX=0, deltaY=-120)
    browser.wait("document.querySelector('#panels').classList.contains('zoomed')")
    shown = browser.evaluate(REGIONS.replace("frame.parentNode.className.split(' ')[0]", "frame.classList[2]"))
    parts = {view: place for view, *place in shown if view}
    across = np.exp(-120 / 300)
    shares = (at[0] - x) / width, (at[1] - y) / height
    left, top, middle = *((1 - across) * s for s in shares), (1 - across) / 2
    expected = {"axial": (left, middle), "coronal": (left, top), "sagittal": (middle, top)}
    for view, corner in expected.items():
        np.testing.assert_allclose(parts[view], [*corner, across, across], atol=1e-3)


@pytest.mark.parametrize("width", [375, 1280])
def test_pages_of_volumes_fit_and_keep_to_themselves(browser, volumes, width):
    show(browser, volumes[0], width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    urls = [told["request"]["url"] for told in browser.told("Network.requestWillBeSent")]
    assert urls and all(url.startswith("data:image/png;base64,") or url == volumes[0].as_uri() for url in urls)
    assert not browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
