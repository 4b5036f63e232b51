"""What people see: a pushed task in a real browser, for an image that EXIF turns, with the box where the object is."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from alpipe import images
from alpipe.annotators import labelstudio
from alpipe.annotators.studio.server import Server
from alpipe.protocols import AnnotatorContext
from alpipe.types import Boxes, Edits, Item, LabelRequest, Question, QuestionKind, Reply, Suggestion, Task

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'alpipe[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
)  # fmt: skip
PATIENCE = 60
ORIENTATIONS = (1, 6, 7)
SUBMIT = "//button[contains(., 'Submit')]"
WIDTH, HEIGHT = 300, 200
OBJECT = (40, 30, 100, 60)
"""A green rectangle on red, as displayed: x1, y1, x2, y2."""
RED, GREEN, OUTLINE, FRAME = (200, 20, 20), (20, 200, 20), (230, 159, 0), (224, 33, 138)


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=DRIVER, log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def photo(path: Path, orientation: int) -> Item:
    """The same picture whatever the orientation, stored as a camera held otherwise would."""
    shown = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    shown[:] = RED
    x1, y1, x2, y2 = OBJECT
    shown[y1:y2, x1:x2] = GREEN
    undo = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a), 8: lambda a: np.rot90(a, -1),
            2: lambda a: a[:, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
            7: lambda a: np.rot90(a, 2).transpose(1, 0, 2)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(undo(shown))).save(path, exif=exif, quality=95)
    assert abs(images.read(path).astype(int) - shown).mean() < 4
    facts = images.inspect(path)
    return Item(f"exif{orientation}", str(path), facts.width, facts.height)


def log_in(browser: Any, server: Server) -> None:
    browser.get(f"{server.url}/user/login/")
    browser.find_element("name", "email").send_keys(server.username)
    browser.find_element("name", "password").send_keys(server.password)
    browser.find_element("css selector", "[type=submit]").click()
    wait(browser, lambda: "/user/login" not in browser.current_url, "the log-in")


def wait(browser: Any, found: Any, what: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(lambda _: found(), what)


def place(screen: np.ndarray[Any, Any], colour: tuple[int, int, int], within: Any = None) -> tuple[int, ...] | None:
    """The box around the largest patch of a colour on the screen (x1, y1, x2, y2), in a part of it."""
    near = (np.abs(screen.astype(int) - colour) < 45).all(axis=2)
    if within is not None:
        x1, y1, x2, y2 = within
        inside = np.zeros_like(near)
        inside[y1:y2, x1:x2] = True
        near &= inside
    count, _, patches, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    x, y, width, height, pixels = (int(side) for side in max(patches[1:], key=lambda patch: patch[4]))
    return (x, y, x + width, y + height) if pixels > 40 else None


def look(browser: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Where the image, the object and the outline of the box are on the screen; None while one of them is not."""
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
        screen = np.asarray(picture.convert("RGB"))
    image = place(screen, RED)
    thing = place(screen, GREEN, image) if image else None
    outline = place(screen, OUTLINE, image) if image else None
    return (image, thing, outline) if image and thing and outline else None


def test_the_box_lies_where_the_object_is_whatever_the_camera_said(
    browser: Any,
    label_studio: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    items = [photo(tmp_path / f"{orientation}.jpg", orientation) for orientation in ORIENTATIONS]
    by_key = {item.key: item for item in items}
    context = AnnotatorContext(
        "in the browser", Task.DETECT, ("thing",), tmp_path / "private", lambda _: None, list, by_key.get
    )
    annotator = labelstudio.build(labelstudio.Options(home=label_studio.home), context)
    boxes = Boxes(np.asarray([OBJECT], np.float32), ("thing",))
    receipts = annotator.push([LabelRequest(item, 1, "why", 0.5, Suggestion(boxes, (0.9,), "m1")) for item in items])
    log_in(browser, label_studio)
    for receipt in receipts:
        project, task = receipt.external_id.split("/")
        browser.get(f"{label_studio.url}/projects/{project}/data?task={task}")
        image, thing, outline = wait(browser, lambda: look(browser), "the image with its box")
        assert thing[0] + thing[2] < image[0] + image[2], "left, as the picture is read; Label Studio may zoom a little"
        assert thing[1] + thing[3] < image[1] + image[3], "and above the middle"
        assert (thing[2] - thing[0]) / (thing[3] - thing[1]) == pytest.approx(2, abs=0.15), "not on its side"
        np.testing.assert_allclose(outline, thing, atol=4, err_msg="the box lies around the object")
        browser.find_element("xpath", SUBMIT).click()
        wait(browser, lambda: not browser.find_elements("xpath", SUBMIT), "the submission")
    pulled = annotator.pull(None)
    assert {answer.item_key for answer in pulled.annotations} == set(by_key)
    for answer in pulled.annotations:
        assert isinstance(answer.labels, Boxes)
        np.testing.assert_allclose(answer.labels.xyxy, [OBJECT], atol=0.5)
        assert answer.edits == {"thing": Edits(objects=1, accepted=1)}, "submitted as it was shown"
        assert answer.lead_time is not None


def test_a_question_shows_its_frame_and_is_answered_by_two_clicks(
    browser: Any,
    label_studio: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    item = photo(tmp_path / "1.jpg", 1)
    context = AnnotatorContext(
        "asked in the browser", Task.DETECT, ("thing",), tmp_path / "private", lambda _: None, list, lambda _: item
    )
    annotator = labelstudio.build(labelstudio.Options(home=label_studio.home), context)
    box = tuple(float(side) for side in OBJECT)
    asked = Question(
        "q",
        item,
        QuestionKind.MISSED,
        Boxes.none(),
        (box[0], box[1], box[2], box[3]),
        None,
        "thing",
        0.9,
        1,
        "m",
        "why",
    )
    [receipt] = annotator.ask([asked])
    project, task = receipt.external_id.split("/")
    log_in(browser, label_studio)
    browser.get(f"{label_studio.url}/projects/{project}/data?task={task}")

    def framed() -> tuple[int, ...] | None:
        with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
            screen = np.asarray(picture.convert("RGB"))
        image = place(screen, RED)
        thing = place(screen, GREEN, image) if image else None
        frame = place(screen, FRAME, image) if image else None
        inside = thing and frame and all(np.sign((1, 1, -1, -1)) * (np.subtract(thing, frame)) >= 0)
        return frame if inside else None

    wait(browser, framed, "the frame around the object")
    browser.find_element("xpath", "//*[text()='the model is right']").click()
    browser.find_element("xpath", SUBMIT).click()
    wait(browser, lambda: not browser.find_elements("xpath", SUBMIT), "the submission")
    [reply] = annotator.replies([asked])
    assert isinstance(reply, Reply)
    assert (reply.model_is_right, reply.labels) == (True, Boxes.none())
