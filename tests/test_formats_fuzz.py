"""Whatever a JSON file holds: labels, refusals with a reason, or one stated error, but no stack trace."""

import contextlib
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alpipe import plugins, rle
from alpipe.errors import DataError
from alpipe.plugins import Kind
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes import brush
from alpipe.types import Refusal, Task

MASK = np.zeros((8, 10), np.uint8)
MASK[1:4, 2:6] = 1

BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 4, 3], "iscrowd": 0}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [
        BOX | {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]},
        BOX | {"segmentation": {"size": [8, 10], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}},
        BOX | {"segmentation": {"size": [8, 10], "counts": rle.encode(MASK).counts}},
    ],
}
FRAME = {"original_width": 10, "original_height": 8, "image_rotation": 0}
SIDES = {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 5}
RESULTS = [
    FRAME | {"type": "rectanglelabels", "value": SIDES | {"rectanglelabels": ["cat"]}},
    FRAME | {"type": "brushlabels", "value": {"rle": brush.encode(MASK), "brushlabels": ["cat"]}},
    FRAME | {"type": "polygonlabels", "value": {"points": [[1, 2], [60, 2], [60, 50]], "polygonlabels": ["cat"]}},
    {"type": "choices", "value": {"choices": ["cat"]}},
]
LABELSTUDIO = [{"id": 5, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": RESULTS}, {"result": []}]}]

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[]])
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value within a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([path] if path else []) + [place for key, child in inner for place in places(child, (*path, key))]


def spoilt(data: st.DataObject, whole: Any) -> Any:
    """The document with junk at one or two places."""
    result = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(places(result)))
        target = result
        for key in way:
            target = target[key]
        target[last] = copy.deepcopy(data.draw(JUNK))  # st.just gives the same list each time
    return result


@pytest.mark.parametrize(("name", "whole"), [("coco", COCO), ("labelstudio", LABELSTUDIO)])
@settings(max_examples=300, deadline=None)
@given(data=st.data(), task=st.sampled_from(Task))
def test_a_spoilt_document(name: str, whole: Any, data: st.DataObject, task: Task) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (10, 8)).save(Path(folder) / "a.png")
        file = Path(folder) / "labels.json"
        file.write_text(json.dumps(spoilt(data, whole)))
        with contextlib.suppress(DataError):
            results = list(plugins.load(Kind.FORMAT, name).read(file, ReadRequest(task, ("cat",))))
            assert all(result.reason for result in results if isinstance(result, Refusal))
            assert [r.image.name for r in results if isinstance(r, LabelledFile)] in ([], ["a.png"])


@pytest.mark.parametrize(("name", "whole"), [("coco", COCO), ("labelstudio", LABELSTUDIO)])
@pytest.mark.parametrize("task", [Task.DETECT, Task.SEGMENT])
def test_the_documents_are_read_where_they_are_whole(name: str, whole: Any, task: Task, tmp_path: Path) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text(json.dumps(whole))
    results = list(plugins.load(Kind.FORMAT, name).read(tmp_path, ReadRequest(task, ("cat",))))
    assert [r.image.name for r in results if isinstance(r, LabelledFile)] == ["a.png"]
    assert all(r.labels for r in results if isinstance(r, LabelledFile))
