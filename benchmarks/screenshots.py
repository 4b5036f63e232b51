"""Pictures of what people see in Label Studio, for the documentation.

    python -m benchmarks.screenshots [FOLDER] [--home SERVER]

writes hardest-first.png, boxes.png, masks.png and question.png into FOLDER (default docs/images). It starts a local
Label Studio of its own (or uses the one whose folder is given) and a headless Chromium by Selenium; without one of them
it says so and ends with status 1. The images are the built-in digits. No model is trained: the pre-annotations are the
true boxes and masks, slightly moved, and the confidences are made up.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from alpipe import rle
from alpipe.annotators import labelstudio
from alpipe.annotators.studio import install, server
from alpipe.annotators.studio import project as projects
from alpipe.annotators.studio.server import Server
from alpipe.datasets import digits
from alpipe.datasets.digits import CLASSES, MadeImage
from alpipe.errors import AlpipeError
from alpipe.protocols import AnnotatorContext
from alpipe.types import (
    Boxes,
    Item,
    LabelRequest,
    Labels,
    Masks,
    Question,
    QuestionKind,
    Suggestion,
    Task,
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1360,1200",
)  # fmt: skip
PATIENCE = 60
MOST_BYTES = 300_000
COUNT = 12
SEEN = 6
"""Images that are on the screen in the list at the least."""

MODEL = "r003-1f2e3d4c"


class Stage:
    """A project of digits in Label Studio, by its annotator, and its images."""

    def __init__(self, task: Task, folder: Path, home: Path) -> None:
        self.made = digits.make(folder / f"{task}-images", task=task, count=COUNT, seed=3, size=260)
        self.items = {f"{task}{at:04d}": _item(f"{task}{at:04d}", picture) for at, picture in enumerate(self.made)}
        self.task = task
        nouns = {Task.DETECT: "digits", Task.SEGMENT: "ink"}
        context = AnnotatorContext(
            nouns[task], task, CLASSES[task], folder / str(task), lambda _: None, list, self.items.get
        )
        self.annotator = labelstudio.build(labelstudio.Options(home=home), context)

    def push(self) -> dict[str, str]:
        """Sends all, the first the hardest; the tasks by the items' keys."""
        rng = np.random.default_rng(0)
        requests = []
        for at, (picture, item) in enumerate(zip(self.made, self.items.values(), strict=True)):
            uncertainty = 0.93 - 0.05 * at
            reason = f"entropy {uncertainty:.3f}, rank {at + 1} of 388"
            labels = _moved(digits.labels_for(picture, self.task), rng)
            count = len(labels.names) if isinstance(labels, Boxes) else len(labels.by_name)  # type: ignore[union-attr]
            scores = tuple(rng.uniform(0.35, 0.9, count).tolist())
            suggestion = Suggestion(labels, scores, MODEL)
            requests.append(LabelRequest(item, 3, reason, uncertainty, suggestion, blind=_blind(at)))
        return {receipt.item_key: receipt.external_id for receipt in self.annotator.push(requests)}

    def richest(self) -> Item:
        """The image with the most objects, of those that are shown with a pre-annotation."""
        rows = [at for at in range(COUNT) if not _blind(at)]
        return list(self.items.values())[max(rows, key=lambda at: _ink(self.made[at], self.task))]

    def ask(self) -> str:
        """Asks about an object that nobody marked, in the image with the most; the question's task."""
        item = self.richest()
        boxes = self.made[list(self.items).index(item.key)].boxes
        off = np.abs((boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2 - (item.width / 2, item.height / 2)).max(axis=1)
        at = int(off.argmin())
        others = [row for row in range(len(boxes.names)) if row != at]
        left, name = Boxes(boxes.xyxy[others], tuple(boxes.names[row] for row in others)), boxes.names[at]
        x1, y1, x2, y2 = boxes.xyxy[at].tolist()
        question = Question(
            "question", item, QuestionKind.MISSED, left, (x1, y1, x2, y2), None, name, 0.94, 3, MODEL, "sure of it"
        )
        [receipt] = self.annotator.ask([question])
        return receipt.external_id


def main(folder: Path, home: Path | None) -> None:
    """Writes the pictures. Raises AlpipeError where a part is missing."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing or install.find() is None:
        what = missing or ["the label-studio program"]
        raise AlpipeError(f"no {' and no '.join(what)}: install it, then run this again")
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        os.environ.pop(name, None)
    with TemporaryDirectory(prefix="alpipe-") as scratch, _server(home or Path(scratch) / "server") as running:
        boxes, masks = (Stage(task, Path(scratch), running.home) for task in (Task.DETECT, Task.SEGMENT))
        of_boxes, of_masks, question = boxes.push(), masks.push(), boxes.ask()
        with _browser(Path(scratch) / "chromium") as browser:
            _log_in(browser, running)
            view = _view(boxes)
            take = Camera(browser, folder)
            take(
                "hardest-first", f"{running.url}/projects/{of_boxes['detect0000'].split('/')[0]}/data?tab={view}", _rows
            )
            take("boxes", _address(running, of_boxes[boxes.richest().key]), _drawn)
            take("masks", _address(running, of_masks[masks.richest().key]), _drawn)
            take("question", _address(running, question), _drawn)


class Camera:
    """Takes pictures of pages, each once what is to be seen is there."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser = browser
        self.folder = folder

    def __call__(self, name: str, url: str, ready: Callable[[Any], bool]) -> None:
        self.browser.get(url)
        _wait(self.browser, lambda: ready(self.browser), name)
        before = b""
        while (now := self.browser.get_screenshot_as_png()) != before:  # until nothing moves any more
            before = now
            _wait(self.browser, lambda: ready(self.browser), name)
        picture = Image.open(io.BytesIO(now)).convert("RGB")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.png"
        picture.quantize(160, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path}: {size / 1000:.0f} kB" + ("; too large" if size > MOST_BYTES else ""))


def _blind(at: int) -> bool:
    return at % 10 == 4


def _ink(picture: MadeImage, task: Task) -> int:
    """How much there is to see: wide images with many objects first, since they fit the screen."""
    labels = digits.labels_for(picture, task)
    width, height = Image.open(picture.path).size
    masks = labels.by_name.values() if isinstance(labels, Masks) else ()
    found = sum(map(rle.area, masks)) if masks else len(picture.boxes.names)
    return found if width > height else 0


def _item(key: str, picture: MadeImage) -> Item:
    with Image.open(picture.path) as image:
        return Item(key, str(picture.path), *image.size)


def _moved(labels: Labels, rng: np.random.Generator) -> Labels:
    match labels:
        case Boxes():
            return Boxes(labels.xyxy + rng.uniform(-4, 4, labels.xyxy.shape).astype(np.float32), labels.names)
        case Masks():
            return Masks(
                {name: rle.encode(np.roll(rle.decode(mask), 2, axis=1)) for name, mask in labels.by_name.items()}
            )
        case _:
            return labels


def _view(stage: Stage) -> int:
    with stage.annotator.studio() as studio:
        project = projects.find(studio, stage.annotator.choice, stage.annotator.context)
        assert project is not None
        return studio._views(project.id, projects.VIEW)[0]


def _address(running: Server, external_id: str) -> str:
    project, task = external_id.split("/")
    return f"{running.url}/projects/{project}/data?task={task}"


def _rows(browser: Any) -> bool:
    script = "return [...document.images].filter(i => i.src.includes('local-files')).map(i => i.naturalWidth)"
    widths = browser.execute_script(script)
    return len(widths) >= SEEN and all(widths)


def _drawn(browser: Any) -> bool:
    """Whether the image and the list of regions are there."""
    text = browser.find_element("tag name", "body").text
    canvas = browser.find_elements("css selector", "canvas")
    return bool(canvas) and "Submit" in text and "Labeled regions will appear here" not in text and "By Time" in text


def _log_in(browser: Any, running: Server) -> None:
    browser.get(f"{running.url}/user/login/")
    browser.find_element("name", "email").send_keys(running.username)
    browser.find_element("name", "password").send_keys(running.password)
    browser.find_element("css selector", "[type=submit]").click()
    _wait(browser, lambda: "/user/login" not in browser.current_url, "the log-in")


def _wait(browser: Any, found: Callable[[], Any], what: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda _: found(), what)


@contextmanager
def _server(home: Path) -> Iterator[Server]:
    ours = not home.exists()
    running = server.up(home, timeout=400)
    try:
        yield running
    finally:
        if ours:
            server.down(home)


@contextmanager
def _browser(profile: Path) -> Iterator[Any]:
    try:
        from selenium import webdriver
    except ImportError as error:
        raise AlpipeError("no selenium: pip install 'alpipe[dev]', then run this again") from error
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"), log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1] / "docs" / "images")
    parser.add_argument("--home", type=Path, help="folder of a local Label Studio that is to be used")
    return parser.parse_args(given)


if __name__ == "__main__":
    arguments = _arguments()
    try:
        main(arguments.folder, arguments.home)
    except AlpipeError as error:
        sys.exit(f"error: {error}")
