"""The viewer's page in headless Chromium: what a user sees and does, by mouse and by keyboard."""

from __future__ import annotations

import base64
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import BrightEngine, disc, make_result, record_indices, video_frames, wait_until

from ssmt_edge.geometry import Roi
from ssmt_edge.health import Health
from ssmt_edge.segment import Segmenter
from ssmt_edge.sinks import SinkContext
from ssmt_edge.viewer import Viewer

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytest.importorskip("fastapi", reason="the extra `view` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(str(CHROMIUM)) is None, reason=f"{CHROMIUM} is not installed"),
]

Page = Any
ROI = Roi(40, 20, 80, 60)
RATE = 10


class Probe:
    """A viewer with one stream: a wandering disc, 10 times a second, until paused; cut to ROI."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = Viewer(port=0, folder=folder)
        self.viewer.start()
        self.segmenter = Segmenter(BrightEngine())
        self.health = Health()
        self.sink = self.viewer.sink(SinkContext(fps=RATE, segmenter=self.segmenter, health=self.health))
        self.running = threading.Event()
        self.running.set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        index = 0
        while not self._stopped.wait(1 / RATE):
            self.running.wait()
            mm = self.segmenter.mm_per_pixel
            spacing = None if mm is None else (mm, mm)
            result = make_result(index, disc(centre=(70 + index % 20, 50)))
            chosen = self.segmenter.roi
            roi = chosen if isinstance(chosen, Roi) else ROI
            self.sink.write(replace(result, roi=roi, spacing_mm=spacing))
            self.health.done += 1
            self.health.latency.add(12.5)
            index += 1

    def reset(self) -> None:
        """As at the beginning, for the next test."""
        self.segmenter.threshold, self.segmenter.roi, self.segmenter.mm_per_pixel = 0.5, "auto", None
        self.health.state = "running"
        self.running.set()
        if self.folder.is_file():
            self.folder.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()
        self.running.set()
        self._thread.join()
        self.viewer.close()


@pytest.fixture(scope="module")
def probes() -> Iterator[list[Probe]]:
    """The one that all tests share, last; another one after a test that stopped it."""
    probes: list[Probe] = []
    yield probes
    probes[-1].stop()


@pytest.fixture(scope="module")
def page_of_all() -> Iterator[Page]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_context(accept_downloads=True).new_page()
        page.set_default_timeout(8000)
        yield page
        browser.close()


@pytest.fixture
def probe(probes: list[Probe], tmp_path_factory: pytest.TempPathFactory) -> Probe:
    if not probes or probes[-1].stopped:
        probes.append(Probe(tmp_path_factory.mktemp("viewer") / "kept"))
    probes[-1].reset()
    return probes[-1]


@pytest.fixture
def page(page_of_all: Page, probe: Probe) -> Iterator[Page]:
    """The page, just loaded, with a picture; errors and requests to anywhere else fail the test."""
    page = page_of_all
    errors: list[str] = []
    addresses: list[str] = []
    listeners = {
        "pageerror": lambda error: errors.append(str(error)),
        "console": lambda said: errors.append(said.text) if said.type == "error" else None,
        "request": lambda request: addresses.append(request.url),
    }
    page.set_viewport_size({"width": 900, "height": 600})
    for name, listener in listeners.items():
        page.on(name, listener)
    show(page, probe)
    yield page
    page.evaluate("localStorage.clear()")
    page.goto("about:blank")
    for name, listener in listeners.items():
        page.remove_listener(name, listener)
    # tests that stop the server or make it answer that the disk is full
    errors = [error for error in errors if "ERR_CONNECTION_REFUSED" not in error and "status of 507" not in error]
    assert not errors
    assert all(address.startswith(("http://127.0.0.1:", "blob:", "about:blank")) for address in addresses)


def show(page: Page, probe: Probe) -> None:
    page.goto(probe.viewer.url)
    until(page, "document.querySelector('#state').textContent === 'running'")
    until(page, "document.querySelector('.pane canvas')?.getAttribute('aria-label').includes('number 1')")


def until(page: Page, script: str) -> None:
    """Asked again and again from here: the page's own policy forbids it to evaluate what it is handed."""
    wait_until(lambda: page.evaluate(script))


def text(page: Page, place: str) -> str:
    return str(page.locator(place).inner_text())


def seen(page: Page) -> np.ndarray[Any, Any]:
    """The canvas as gray levels."""
    data = page.evaluate("document.querySelector('.pane canvas').toDataURL()").partition(",")[2]
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE)


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the cut picture lies on the page."""
    box = page.locator(".pane canvas").first.bounding_box()
    scale = min(box["width"] / ROI.width, box["height"] / ROI.height)
    left = box["x"] + (box["width"] - ROI.width * scale) / 2
    top = box["y"] + (box["height"] - ROI.height * scale) / 2
    return left + x * scale, top + y * scale


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *start))
    page.mouse.down()
    page.mouse.move(*at(page, *end), steps=3)
    page.mouse.up()


def test_the_page_shows_the_stream_and_freezes_it(page: Page) -> None:
    assert "Research use only" in text(page, "header")
    until(page, "Math.abs(Number(document.querySelector('#fps').textContent) - 10) < 4")
    assert text(page, "#p50") == "12.5" and text(page, "#dropped") == "0"
    assert re.search(r"1\s+4\d . 4\d px", text(page, "#nodules"))
    screen = cv2.imdecode(np.frombuffer(page.screenshot(clip=page.locator(".pane").bounding_box()), np.uint8), 0)
    assert screen.std() > 20, "a bright disc on a dark ground"
    first = seen(page)
    time.sleep(0.3)
    assert (seen(page) != first).mean() > 0.005, "it moves"

    page.keyboard.press("f")
    assert page.locator(".badge").is_visible() and text(page, "#freeze span") == "Go on"
    time.sleep(0.2)
    frozen, points = seen(page), page.locator("#chart").get_attribute("aria-label")
    time.sleep(1.2)
    assert (seen(page) == frozen).all(), "the picture stands still"
    assert points and "no new frame" not in text(page, "#stage").lower(), "frozen on purpose is not stale"
    assert text(page, "#state") == "running" and float(text(page, "#fps")) > 3, "the numbers go on"
    page.locator("#freeze").click()
    time.sleep(0.3)
    assert (seen(page) != frozen).any() and not page.locator(".badge").is_visible()


def test_opacity_contour_and_threshold(page: Page, probe: Probe) -> None:
    probe.segmenter.threshold = 0.8  # set by another page
    until(page, "document.querySelector('#threshold-value').textContent === '80 %'")
    probe.segmenter.threshold = 0.5
    until(page, "document.querySelector('#threshold-value').textContent === '50 %'")
    page.keyboard.press("f")
    time.sleep(0.2)
    tinted = seen(page)
    page.locator("#opacity").fill("0")
    page.locator("#opacity").dispatch_event("input")
    page.locator("#contour").uncheck()
    page.locator("#diameters").uncheck()
    time.sleep(0.2)
    plain = seen(page)
    assert (plain != tinted).mean() > 0.03
    middle = (seen(page).shape[0] // 2, seen(page).shape[1] // 2)
    assert abs(int(plain[middle]) - 200) < 8 < abs(int(tinted[middle]) - 200), "bare gray, then none"
    page.keyboard.press("Escape")
    page.locator("#threshold").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_until(lambda: abs(probe.segmenter.threshold - 0.55) < 1e-6)
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press(",")
    wait_until(lambda: abs(probe.segmenter.threshold - 0.54) < 1e-6)


def test_a_snapshot_of_the_frozen_frame_is_saved_and_offered(page: Page, probe: Probe) -> None:
    page.keyboard.press("f")
    time.sleep(0.6)
    page.keyboard.press("s")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    (path,) = probe.folder.iterdir()
    assert download.value.suggested_filename == path.name and path.name in text(page, "#messages")
    assert Path(download.value.path()).read_bytes() == path.read_bytes()
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (ROI.height, ROI.width)
    shown = page.evaluate("document.querySelector('.pane canvas').getAttribute('aria-label')")
    assert "number 1" in shown


def test_recording_from_the_page(page: Page, probe: Probe) -> None:
    page.keyboard.press("r")
    until(page, "/Recording 0:0\\d, \\d+ frames/.test(document.querySelector('#recording').textContent)")
    assert page.locator("#record").get_attribute("aria-pressed") == "true"
    time.sleep(0.7)
    page.locator("#record").click()
    until(page, "document.querySelector('#messages').textContent.includes('Saved recording')")
    records, video = sorted(probe.folder.iterdir())
    assert video_frames(video) == len(record_indices(records)) >= 5
    shutil.rmtree(probe.folder)
    probe.folder.write_text("the disk is gone")
    page.locator("#record").click()
    until(page, "document.querySelector('.message.error')?.textContent.includes('cannot be written')")


def test_region_and_scale_by_mouse_and_by_keyboard(page: Page, probe: Probe) -> None:
    page.keyboard.press("g")
    page.locator("#roi-panel").wait_for()
    drag(page, (10, 12), (60, 48))
    page.get_by_role("button", name="Apply").click()
    wait_until(lambda: isinstance(probe.segmenter.roi, Roi))
    roi = probe.segmenter.roi
    assert isinstance(roi, Roi)
    assert np.abs(np.array([roi.x, roi.y, roi.width, roi.height]) - (50, 32, 50, 36)).max() <= 1
    page.locator("#roi-panel").wait_for(state="hidden")
    page.keyboard.press("a")
    wait_until(lambda: probe.segmenter.roi == "auto")
    time.sleep(0.3)  # the picture of the whole region is on its way
    page.keyboard.press("g")
    page.locator("#roi-panel").wait_for()
    for key in ("ArrowLeft", "ArrowUp", "Enter", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.locator("#roi-x").focus()
    page.keyboard.press("Enter")
    wait_until(lambda: probe.segmenter.roi == Roi(70, 40, 20, 20))
    page.locator("#roi-panel").wait_for(state="hidden")
    page.keyboard.press("a")
    wait_until(lambda: probe.segmenter.roi == "auto")
    page.keyboard.press("m")
    page.locator("#scale-value").fill("0.05")
    page.keyboard.press("Enter")
    wait_until(lambda: probe.segmenter.mm_per_pixel == 0.05)
    until(page, "document.querySelector('#spacing').textContent === '0.0500 mm per pixel (set)'")
    probe.segmenter.mm_per_pixel = None
    page.locator("#scale").click()
    drag(page, (10, 10), (50, 40))  # 50 pixels long
    page.locator("#scale-length").fill("10")
    page.get_by_role("button", name="Apply").click()
    wait_until(lambda: probe.segmenter.mm_per_pixel is not None)
    assert probe.segmenter.mm_per_pixel == pytest.approx(0.2, rel=0.02)
    page.locator("#scale").click()
    page.locator("#scale-value").fill("99")
    page.get_by_role("button", name="Apply").click()
    time.sleep(0.3)
    assert probe.segmenter.mm_per_pixel == pytest.approx(0.2, rel=0.02), "out of range"
    page.get_by_role("button", name="As the source says").click()
    wait_until(lambda: probe.segmenter.mm_per_pixel is None)


def test_an_old_picture_is_never_taken_for_a_new_one(page: Page, probe: Probe) -> None:
    warning = page.locator(".pane .warning")
    assert not warning.is_visible()
    probe.running.clear()
    until(page, "/No new frame for \\d/.test(document.querySelector('.warning:not([hidden])')?.textContent)")
    assert warning.is_visible() and text(page, "#state") == "no new frames"
    assert "Warning" in text(page, "#said")
    probe.health.state = "lost"
    until(page, "/Source lost for/.test(document.querySelector('.warning:not([hidden])')?.textContent)")
    probe.health.state = "running"
    probe.running.set()
    until(page, "document.querySelector('.warning').hidden")
    probe.stop()
    until(page, "/No connection to ssmt-edge for/.test(document.querySelector('.warning:not([hidden])')?.textContent)")
    assert warning.is_visible() and text(page, "#state") == "no connection to ssmt-edge"


def test_every_control_is_reached_by_tab_and_named_and_readable(page: Page) -> None:
    wanted = set(page.evaluate(CONTROLS))
    page.locator("body").click(position={"x": 2, "y": 2})
    reached, unnamed, unseen = set(), [], []
    for _ in range(40):
        page.keyboard.press("Tab")
        said = page.evaluate(FOCUSED)
        if said[0] == "BODY":
            continue
        reached.add(said[0])
        unnamed += [] if said[1] else [said[0]]
        unseen += [] if said[2] else [said[0]]
    assert wanted <= reached and not unnamed and not unseen
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("?")
    assert "freeze the picture" in text(page, "#help")
    page.get_by_label("single-key shortcuts are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    assert not page.locator(".badge").is_visible(), "shortcuts are off"
    for theme in ("light", "dark"):
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.evaluate(CONTRASTS) == []


CONTROLS = """[...document.querySelectorAll('main button, main input, header button, canvas[tabindex]')]
    .filter((element) => element.checkVisibility()).map((element) => element.id || element.tagName)"""

# what has the focus, whether it has a name, whether one sees that it has the focus
FOCUSED = """(() => {
    const element = document.activeElement, style = getComputedStyle(element);
    const label = element.labels?.[0]?.textContent.trim();
    const name = element.getAttribute('aria-label') || element.textContent.trim() || label;
    const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
    return [element.id || element.tagName, Boolean(name), outlined];
})()"""

# every text against the ground that it stands on: 4.5 to 1, or 3 to 1 for large letters (WCAG 2.2, 1.4.3)
CONTRASTS = """(() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const bad = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest('#said')) continue;
        let ground = element;
        while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) < 1) ground = ground.parentElement;
        const style = getComputedStyle(element);
        const a = light(parse(style.color)), b = light(parse(getComputedStyle(ground).backgroundColor));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        if (ratio < (large ? 3 : 4.5)) bad.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
    }
    return bad;
})()"""


# left, top, right, bottom and name of what is visible
BOXES = """(...places) => Object.fromEntries(places.flat().flatMap((place) => [...document.querySelectorAll(place)]
    .filter((element) => element.checkVisibility())
    .map((element, i) => [place, i, element.getBoundingClientRect()])
    .map(([place, i, box]) => [`${place} ${i}`, [box.left, box.top, box.right, box.bottom]])))"""


def boxes(page: Page, *places: str) -> dict[str, list[float]]:
    return dict(page.evaluate(BOXES, list(places)))


def overlap(a: list[float], b: list[float]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_the_picture_is_large_and_nothing_covers_it(page: Page) -> None:
    page.keyboard.press("s")
    page.locator(".message").wait_for()
    for width, height in ((1280, 800), (800, 1280), (1920, 1080), (900, 600), (420, 800)):
        page.set_viewport_size({"width": width, "height": height})
        check_layout(page, width, height)


def check_layout(page: Page, width: int, height: int) -> None:
    roomy = width * height >= 1280 * 800
    first = [".research", ".pane", ".pane canvas", "#freeze", "#scale", "#fps", ".message"]
    for place, box in boxes(page, *first, *(["#chart", "#threshold", "#diameters"] if roomy else [])).items():
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height, place
    for place, (left, top, right, bottom) in boxes(page, "main button", "header button").items():
        assert min(right - left, bottom - top) >= 44, f"{place} is too small for a finger"
    canvas, message, research = boxes(page, ".pane canvas", ".message", ".research").values()
    shown_width, shown_height = canvas[2] - canvas[0], canvas[3] - canvas[1]
    assert shown_width >= 400 and shown_height >= 290
    assert shown_width * shown_height > (0.4 if roomy else 0.3) * width * height, "most of the screen is the picture"
    assert not any(overlap(a, b) for a, b in ((canvas, message), (research, message), (canvas, research)))
    page.locator("#diameters").scroll_into_view_if_needed()
    (box,) = boxes(page, "#diameters").values()
    assert box[1] >= 0 and box[3] <= height, "the last control cannot be reached"


def test_the_number_stands_at_the_end_of_the_diameters(page: Page) -> None:
    page.locator("#contour").uncheck()
    page.locator("#opacity").fill("0")
    page.keyboard.press("f")
    time.sleep(0.3)
    drawn = page.evaluate(YELLOW)
    assert drawn["count"] > 20
    assert drawn["gap"] < 30, "beside the diameters, not at the corner of the box"


# where the yellow number is, and how far from the nearest cyan pixel of a diameter
YELLOW = """(() => {
    const canvas = document.querySelector('.pane canvas'), { width, height } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
    const yellow = [], cyan = [];
    for (let i = 0; i < data.length; i += 4) {
        const [r, g, b] = [data[i], data[i + 1], data[i + 2]], at = [(i / 4) % width, Math.floor(i / 4 / width)];
        if (r > 200 && g > 150 && b < 60) yellow.push(at);
        if (r < 60 && g > 200 && b > 200) cyan.push(at);
    }
    const gap = Math.min(...yellow.map((y) => Math.min(...cyan.map((c) => Math.hypot(y[0] - c[0], y[1] - c[1])))));
    return { count: yellow.length, gap };
})()"""
