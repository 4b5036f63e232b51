"""Real annotations through a real Label Studio and back: how far boxes move, how much of a mask is lost.

Each image is pushed with its true labels as the pre-annotation, submitted as it is shown, and pulled.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from alpipe import boxes, images, plugins, rle
from alpipe.annotators import labelstudio
from alpipe.annotators.studio import client, server
from alpipe.plugins import Kind
from alpipe.protocols import AnnotatorContext, LabelledFile, ReadRequest
from alpipe.steps import importing
from alpipe.types import Boxes, Example, ImageClass, Item, LabelRequest, Masks, Suggestion, Task

DUBAI = {
    "water": (0xE2, 0xA9, 0x29), "land": (0x84, 0x29, 0xF6), "road": (0x6E, 0xC1, 0xE4),
    "building": (0x3C, 0x10, 0x98), "vegetation": (0xFE, 0xDD, 0x3A), "unlabelled": (0x9B, 0x9B, 0x9B),
    "background": (0, 0, 0),
}  # fmt: skip
CELLS = ("RBC", "WBC", "Platelets")
KINDS = {
    "BCCD boxes": ("voc", "bccd", ReadRequest(Task.DETECT, CELLS), {}),
    "BCCD boxes, turned": ("voc", "bccd", ReadRequest(Task.DETECT, CELLS), {"rotate": True}),
    "nuclei, brush": ("masks", "nuclei", ReadRequest(Task.SEGMENT, ("nucleus",)), {"shape": "brush"}),
    "nuclei, polygons": ("masks", "nuclei", ReadRequest(Task.SEGMENT, ("nucleus",)), {"shape": "polygon"}),
    "Dubai, brush": (
        "masks", "dubai", ReadRequest(Task.SEGMENT, tuple(DUBAI)[:5], colours=tuple(DUBAI.items())), {"shape": "brush"},
    ),
    "Dubai, polygons": (
        "masks", "dubai", ReadRequest(Task.SEGMENT, tuple(DUBAI)[:5], colours=tuple(DUBAI.items())),
        {"shape": "polygon"},
    ),
    "sign digits, choices": ("folders", "sign_digits", ReadRequest(Task.CLASSIFY, tuple("0123456789")), {}),
}  # fmt: skip


def examples(name: str, path: Path, request: ReadRequest, count: int, seed: int) -> Iterator[Example]:
    """Some images of a set, chosen at random, with their labels as the pool would hold them."""
    entries = [e for e in plugins.load(Kind.FORMAT, name).read(path, request) if isinstance(e, LabelledFile)]
    turned = [e for e in entries if e.image.stat().st_size > 10**6]  # the photos of sign digits that EXIF turns
    chosen = random.Random(seed).sample(entries, min(count, len(entries)))  # noqa: S311
    for at, entry in enumerate({entry.image: entry for entry in [*turned[:3], *chosen]}.values()):
        facts = images.inspect(entry.image)
        item = Item(f"{path.name}{at}", str(entry.image), facts.width, facts.height)
        labels, _, _ = importing.fit(entry, item, request.task, request.classes, ignore_unknown=True)
        if labels is not None:
            yield Example(item, labels)


def turn(example: Example, rng: np.random.Generator) -> Example:
    """Every box turned about its middle by a random angle."""
    assert isinstance(example.labels, Boxes)
    corners = []
    for x1, y1, x2, y2 in example.labels.xyxy.tolist():
        flat = boxes.turn(0, 0, x2 - x1, y2 - y1, float(rng.uniform(0, 360)))
        corners.append(flat - flat.mean(axis=0) + ((x1 + x2) / 2, (y1 + y2) / 2))
    stacked = np.asarray(corners, np.float32).reshape(-1, 4, 2)
    around = np.concatenate([stacked.min(axis=1), stacked.max(axis=1)], axis=1)
    limits = np.asarray([example.item.width, example.item.height] * 2)
    return Example(example.item, Boxes(np.clip(around, 0, limits), example.labels.names, stacked))


def travel(
    sent: list[Example], task: Task, classes: tuple[str, ...], options: dict[str, Any], home: server.Server
) -> dict[str, Any]:
    """The labels that come back, by item."""
    by_key = {example.item.key: example for example in sent}
    with tempfile.TemporaryDirectory() as scratch:
        context = AnnotatorContext(
            "round trip", task, classes, Path(scratch), lambda _: None, list, lambda key: by_key[key].item
        )
        annotator = labelstudio.build(labelstudio.Options(home=home.home, batch=5, **options), context)
        annotator.push(
            [
                LabelRequest(e.item, 1, "benchmark", 0.5, Suggestion(e.labels, (0.9,) * 999, "truth"))
                for e in sent
            ]
        )  # fmt: skip
        number = annotator.choice.known()["project"]
        with annotator.studio() as studio:
            rows = studio.tasks(number, include=client.OPEN)
        headers = {"Authorization": f"Token {home.token}"}
        with httpx.Client(base_url=home.url, headers=headers, trust_env=False, timeout=60) as http:
            for row in rows:
                answer = {"result": row["predictions"][0]["result"], "lead_time": 1}
                http.post(f"/api/tasks/{row['id']}/annotations/", json=answer).raise_for_status()
        pulled = annotator.pull(None)
        assert not pulled.refused, pulled.refused[:3]
        regions = sum(len(row["predictions"][0]["result"]) for row in rows)
        return {answer.item_key: answer.labels for answer in pulled.annotations} | {"regions": regions}


def compare(sent: list[Example], back: dict[str, Any]) -> str:
    """The worst of all images."""
    moved, overlaps, same, worst_corner = 0.0, [], 0, 0.0
    for example in sent:
        found = back[example.item.key]
        same += found == example.labels
        match example.labels, found:
            case Boxes() as before, Boxes() as after:
                assert before.names == after.names
                moved = max(moved, float(np.abs(before.xyxy - after.xyxy).max(initial=0)))
                if before.corners is not None:
                    assert after.corners is not None
                    for one, other in zip(before.corners, after.corners, strict=True):  # whichever comes first
                        off = min(float(np.abs(one - np.roll(other, first, axis=0)).max()) for first in range(4))
                        worst_corner = max(worst_corner, off)
            case Masks() as before, Masks() as after:
                for name, mask in before.by_name.items():
                    a, b = rle.decode(mask), rle.decode(after.by_name[name])
                    overlaps.append(float((a & b).sum() / (a | b).sum()))
            case ImageClass() as before, after:
                assert before == after
    if overlaps:
        return f"least IoU {min(overlaps):.4f}, mean {np.mean(overlaps):.4f}; {same} of {len(sent)} images identical"
    if worst_corner:
        return f"boxes move {moved:.1e} px at most, their corners {worst_corner:.1e} px"
    return f"boxes move {moved:.1e} px at most" if moved else f"{same} of {len(sent)} images identical"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the real data sets")
    parser.add_argument("--images", type=int, default=25, help="of each set, at random")
    parser.add_argument("--only", default="", help="sets whose title begins so")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="of a local server to use; default: one of its own, stopped again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = server.up(arguments.home or Path(scratch) / "labelstudio", timeout=400)
        try:
            for title, (name, folder, request, options) in KINDS.items():
                if not title.startswith(arguments.only):
                    continue
                rng, begun = np.random.default_rng(arguments.seed), time.monotonic()
                sent = list(examples(name, arguments.data / folder, request, arguments.images, arguments.seed))
                if options.get("rotate"):
                    sent = [turn(example, rng) for example in sent]
                back = travel(sent, request.task, request.classes, options, home)
                took = time.monotonic() - begun
                regions = back.pop("regions")
                print(
                    f"{title}: {len(sent)} images, {regions} regions, {took:.0f} s: {compare(sent, back)}", flush=True
                )
        finally:
            if not arguments.home:
                server.down(home.home)


if __name__ == "__main__":
    main()
