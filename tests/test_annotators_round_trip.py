"""Annotations through a real Label Studio and back, on images of every EXIF orientation: nothing moves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from alpipe import boxes, images, plugins, rle
from alpipe.annotators import labelstudio
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import client
from alpipe.annotators.studio.server import Server
from alpipe.plugins import Kind
from alpipe.protocols import AnnotatorContext, LabelledFile, ReadRequest
from alpipe.steps import importing
from alpipe.types import AnswerState, Boxes, ImageClass, Item, LabelRequest, Labels, Masks, Suggestion, Task, is_empty

pytestmark = pytest.mark.server

CLASSES = ("cat", "dog")
ORIENTATIONS = range(1, 9)
KINDS = ("boxes", "turned boxes", "brush", "polygon", "choices")
TASKS = {"boxes": Task.DETECT, "turned boxes": Task.DETECT, "brush": Task.SEGMENT, "polygon": Task.SEGMENT,
         "choices": Task.CLASSIFY}  # fmt: skip


def turned_images(folder: Path) -> list[Item]:
    """A photo for each EXIF orientation, and a PNG; 90×50 pixels in the file, so four are shown upright."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    items = []
    for orientation in (*ORIENTATIONS, None):
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        path = folder / (f"orientation {orientation}.jpg" if orientation else "plain.png")
        Image.fromarray(rng.integers(0, 256, (50, 90, 3), np.uint8)).save(path, exif=exif)
        facts = images.inspect(path)
        items.append(Item(f"{folder.parent.name[-9:]}{orientation}", str(path), facts.width, facts.height))
    assert {(item.width, item.height) for item in items} == {(90, 50), (50, 90)}
    return items


def labels_for(kind: str, item: Item, rng: np.random.Generator) -> Labels:
    width, height = item.width, item.height
    if kind == "choices":
        return ImageClass(CLASSES[int(rng.integers(2))])
    if kind in ("boxes", "turned boxes"):
        x1, y1 = rng.uniform(0, width / 2, 3), rng.uniform(0, height / 2, 3)
        sides = rng.uniform(5, min(width, height) / 2, (2, 3))
        xyxy = np.stack([x1, y1, x1 + sides[0], y1 + sides[1]], axis=1).astype(np.float32)
        if kind == "boxes":
            return Boxes(xyxy, ("cat", "dog", "cat"))
        degrees = (0, *rng.uniform(-180, 180, 2))
        corners = np.stack([boxes.turn(*one, turn) for *one, turn in zip(x1, y1, *sides, degrees, strict=True)])
        around = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return Boxes(np.clip(around, 0, (width, height) * 2), ("cat", "dog", "cat"), corners)
    ys, xs = np.mgrid[:height, :width] + 0.5
    ring = np.hypot(xs - width / 3, (ys - height / 2) * 1.3)
    class_map = np.where((ring < 14) & (ring > 5), 1, 0)
    class_map[(xs * 2 + ys > 1.5 * width) & (ys > height / 4) & (class_map == 0)] = 2
    class_map[int(rng.integers(height)), int(rng.integers(width))] = 1
    return rle.from_class_map(class_map, CLASSES)


@dataclasses.dataclass
class Trip:
    """What was sent, what came back, and the server's own export."""

    sent: dict[str, Labels]
    items: dict[str, Item]
    back: dict[str, Labels | None]
    states: dict[str, AnswerState]
    export: list[dict[str, object]]


def travel(kind: str, folder: Path, api: httpx.Client, server: Server) -> Trip:
    """Labels as pre-annotations to the server, submitted as they are (the last one emptied), pulled and exported."""
    rng = np.random.default_rng(1)
    items = turned_images(folder / "images")
    sent: dict[str, Labels] = {item.key: labels_for(kind, item, rng) for item in items}
    by_key = {item.key: item for item in items}
    context = AnnotatorContext(
        f"trip {folder.name[-20:]}", TASKS[kind], CLASSES, folder / "private", sent.get, list, by_key.get
    )
    options = labelstudio.Options(
        home=server.home, rotate=kind == "turned boxes", shape="polygon" if kind == "polygon" else None
    )
    annotator: LabelStudioAnnotator = labelstudio.build(options, context)
    requests = [LabelRequest(i, 1, "chosen", 0.5, Suggestion(sent[i.key], (0.9,) * 3, "m1")) for i in items]
    annotator.push(requests)
    number = annotator.choice.known()["project"]
    with annotator.studio() as studio:
        rows = studio.tasks(number, include=client.OPEN)
    assert len(rows) == len(items)
    for row in rows:
        (shown,) = row["predictions"]
        result = [] if row["data"]["alpipe_key"] == items[-1].key else shown["result"]
        answer = {"result": result, "lead_time": 2, "parent_prediction": shown["id"]}
        assert api.post(f"/api/tasks/{row['id']}/annotations/", json=answer).is_success
    pulled = annotator.pull(None)
    assert pulled.refused == ()
    export = api.get(f"/api/projects/{number}/export", params={"exportType": "JSON"}).json()
    back = {answer.item_key: answer.labels for answer in pulled.annotations}
    return Trip(sent, by_key, back, {answer.item_key: answer.state for answer in pulled.annotations}, export)


def assert_same(kind: str, found: Labels | None, sent: Labels) -> None:
    match sent:
        case Boxes():
            assert isinstance(found, Boxes)
            assert found.names == sent.names
            np.testing.assert_allclose(found.xyxy, sent.xyxy, atol=1e-3)
            assert found.rotated.tolist() == sent.rotated.tolist()
            if sent.corners is not None and found.corners is not None:
                np.testing.assert_allclose(found.corners, sent.corners, atol=1e-3)
        case Masks(by_name=by_name):
            assert isinstance(found, Masks)
            if kind == "brush":
                assert found == sent
            for name, mask in by_name.items():
                a, b = rle.decode(mask), rle.decode(found.by_name[name])
                assert (a & b).sum() >= 0.99 * (a | b).sum()
        case _:
            assert found == sent


@pytest.mark.parametrize("kind", KINDS)
def test_labels_come_back_as_they_were_from_images_of_every_orientation(
    kind: str, tmp_path: Path, api: httpx.Client, studio_server: Server
) -> None:
    trip = travel(kind, tmp_path, api, studio_server)
    assert set(trip.back) == set(trip.sent)
    *whole, emptied = trip.sent
    assert trip.states[emptied] is AnswerState.EMPTY
    assert trip.back[emptied] is None or is_empty(trip.back[emptied])  # type: ignore[arg-type]
    for key in whole:
        assert_same(kind, trip.back[key], trip.sent[key])

    # The server's own export, read by the format, images found by their names: the same, without our key.
    folder = tmp_path / "export"
    folder.mkdir()
    for task in trip.export:
        data = task["data"]
        assert isinstance(data, dict)
        served = api.get(data["image"])
        (folder / Path(data["image"].partition("?d=")[2]).name).write_bytes(served.content)
        data.pop("alpipe_key")
    (folder / "tasks.json").write_text(json.dumps(trip.export))
    by_name = {item.key: item for item in trip.items.values()}
    found = list(plugins.load(Kind.FORMAT, "labelstudio").read(folder, ReadRequest(TASKS[kind], CLASSES)))
    assert len(found) == len(trip.sent)
    for entry in found:
        assert isinstance(entry, LabelledFile), entry
        item = by_name[entry.image.stem]
        labels, faults, _ = importing.fit(entry, item, TASKS[kind], CLASSES, ignore_unknown=False)
        assert faults == []
        if item.key == emptied:
            assert labels is None or is_empty(labels)
        else:
            assert_same(kind, labels, trip.sent[item.key])
