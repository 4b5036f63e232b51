"""A real Label Studio server that the whole test run shares, and small projects to use it with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from alpipe import rle
from alpipe.annotators.studio import install, server
from alpipe.annotators.studio.server import Server
from alpipe.pool.agreement import Rule
from alpipe.pool.store import LATEST, NewItem, PoolStore
from alpipe.protocols import AnnotatorContext
from alpipe.types import (
    Boxes,
    ImageClass,
    Item,
    ItemState,
    LabelRequest,
    Labels,
    Masks,
    Pulled,
    Receipt,
    Suggestion,
    Task,
)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, started at the first test that asks for it (about half a minute) and stopped with the last."""
    if install.find() is None:
        pytest.fail("no label-studio program: 'make test' installs it into .venv-labelstudio", pytrace=False)
    home = tmp_path_factory.mktemp("labelstudio")
    try:
        yield server.up(home, timeout=400)  # a loaded machine takes its time
    finally:
        server.down(home)


@pytest.fixture
def studio_server(label_studio: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with no other one named in the environment."""
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return label_studio


@pytest.fixture
def api(studio_server: Server) -> Iterator[httpx.Client]:
    """The server's REST API, as a browser would use it."""
    headers = {"Authorization": f"Token {studio_server.token}"}
    with httpx.Client(base_url=studio_server.url, headers=headers, trust_env=False, timeout=30) as http:
        yield http


@dataclass
class Case:
    """A project of small images with truth, and the requests to label them."""

    context: AnnotatorContext
    items: dict[str, Item]
    truth: dict[str, Labels]
    requests: list[LabelRequest]
    store: PoolStore
    answered: set[str] = field(default_factory=set)

    def note(self, receipts: list[Receipt]) -> dict[str, int]:
        """Files receipts as the loop does; the tasks' numbers by key."""
        self.store.tasks.put(receipts, "labelstudio", 1, "m1")
        return {receipt.item_key: int(receipt.external_id.partition("/")[2]) for receipt in receipts}

    def take(self, pulled: Pulled) -> Pulled:
        """Takes what was pulled into the store, as the loop does."""
        assert self.store.annotations.upsert(pulled.annotations).refused == ()
        self.store.annotations.withdraw(pulled.withdrawn)
        self.store.tasks.drop(pulled.gone, "labelstudio")
        return pulled

    def state(self, key: str) -> ItemState:
        item = self.store.items.get(key)
        assert item is not None
        return item.state


CLASSES = ("cat", "dög <&\"'>")
WIDTH, HEIGHT = 61, 47


def truth_of(task: Task, number: int) -> Labels:
    """Labels of a small image; every fourth holds no object."""
    if task is Task.CLASSIFY:
        return ImageClass(CLASSES[number % 2])
    objects = number % 4
    xyxy = np.asarray([[3 + 17 * at, 5, 15 + 17 * at, 20 + number] for at in range(objects)], np.float32)
    names = tuple(CLASSES[at % 2] for at in range(objects))
    if task is Task.DETECT:
        return Boxes(xyxy.reshape(-1, 4), names)
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for (x1, y1, x2, y2), name in zip(xyxy.astype(int), names, strict=True):
        image[y1:y2, x1:x2] = CLASSES.index(name) + 1
    return rle.from_class_map(image, CLASSES)


def suggestion_of(task: Task, number: int, model: str) -> Suggestion:
    """What a mediocre model would propose: close, off, wrong and missing objects."""
    if task is Task.CLASSIFY:
        return Suggestion(ImageClass(CLASSES[0]), (0.6,), model)
    truth = truth_of(task, number)
    if isinstance(truth, Boxes):
        shift = np.float32(number % 5)
        xyxy = np.concatenate([truth.xyxy[:2] + shift, np.asarray([[1, 38, 9, 46]], np.float32)])
        return Suggestion(Boxes(xyxy, (*truth.names[:2], CLASSES[1])), (0.7,) * len(xyxy), model)
    false = np.zeros((HEIGHT, WIDTH), np.uint8)
    false[40:46, 1 : 5 + number] = 1
    by_name = {CLASSES[1]: rle.encode(false)}
    if isinstance(truth, Masks) and CLASSES[0] in truth.by_name:
        by_name[CLASSES[0]] = rle.encode(np.roll(rle.decode(truth.by_name[CLASSES[0]]), number % 4, axis=1))
    return Suggestion(Masks(by_name), (0.7,) * len(by_name), model)


def make_case(folder: Path, task: Task, count: int = 8, name: str = "case", rule: Rule = LATEST) -> Case:
    """A project in the folder; nothing is shown for the first request."""
    rng = np.random.default_rng(0)
    items, truth, requests = {}, {}, []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
        item = Item(f"{name}{number:04d}", str(path), WIDTH, HEIGHT)
        items[item.key], truth[item.key] = item, truth_of(task, number)
        suggestion = suggestion_of(task, number, "m1") if number else None
        requests.append(LabelRequest(item, 1, "most uncertain", number / count if number else None, suggestion))
    answered: set[str] = set()
    store = PoolStore.open(f"sqlite:///{folder / 'pool.db'}", rule)
    store.items.add([NewItem(key, item.uri, WIDTH, HEIGHT) for key, item in items.items()])
    context = AnnotatorContext(
        project=f"{name} {task}",
        task=task,
        classes=CLASSES,
        folder=folder / "private",
        truth=truth.get,
        open_items=lambda: [item for key, item in items.items() if key not in answered],
        item=items.get,
        asked=lambda: store.tasks.asked("labelstudio"),
        standing=store.annotations.standing,
    )
    return Case(context, items, truth, requests, store, answered)
