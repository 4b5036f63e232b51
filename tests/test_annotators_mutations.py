"""Results of people, spoilt at random: each region is taken or refused with a reason; none crashes, none vanishes.

ALPIPE_MUTATIONS says how many of each kind are tried.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from alpipe import plugins, rle
from alpipe.annotators.studio import config, regions
from alpipe.errors import DataError
from alpipe.plugins import Kind
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.shapes import brush, drawn
from alpipe.types import Boxes, ImageClass, Item, Labels, Masks, Task

MUTATIONS = int(os.environ.get("ALPIPE_MUTATIONS", "150"))
many = settings(deadline=None, max_examples=MUTATIONS, suppress_health_check=list(HealthCheck))

CLASSES = ("cat", "dog")
WIDTH, HEIGHT = 12, 8
ITEM = Item("k" * 20, "image.png", WIDTH, HEIGHT)
CONTROLS = {task: config.read(config.write(task, CLASSES), task, "test") for task in Task}
FRAME = {"from_name": "label", "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT,
         "image_rotation": 0, "origin": "manual"}  # fmt: skip
SIDES = {"x": 10, "y": 20, "width": 40, "height": 30}


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    return FRAME | {"id": kind[:4] + label, "type": kind, "value": value | {kind: [label]}}


STROKE = brush.encode(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
ELLIPSE = region("ellipselabels", "dog", x=50, y=50, radiusX=30, radiusY=20, rotation=30)
POLYGON = region("polygonlabels", "cat", points=[[10, 10], [80, 20], [40, 90]], closed=True)
BRUSH = region("brushlabels", "dog", format="rle", rle=STROKE)
RESULTS = {
    Task.CLASSIFY: [region("choices", "cat")],
    Task.DETECT: [
        region("rectanglelabels", "cat", **SIDES, rotation=0),
        region("rectanglelabels", "dog", **SIDES, rotation=33.5),
        ELLIPSE, POLYGON, BRUSH,
    ],
    Task.SEGMENT: [BRUSH, POLYGON, ELLIPSE],
}  # fmt: skip

FOREIGN = [
    region("keypointlabels", "cat", x=1, y=1, width=1),
    region("rectanglelabels", "cow", **SIDES, rotation=0),
    {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    FRAME | {"id": "text", "type": "textarea", "value": {"text": ["hello"]}},
    FRAME | {"id": "text", "type": "textarea", "from_name": "other", "value": {"text": ["hello"]}},
    FRAME | {"id": "rectcat", "type": "rating", "from_name": "other", "value": SIDES | {"rating": 3}},
    FRAME | {"id": "bitm", "type": "bitmasklabels", "value": {"imageDataURL": "data:", "bitmasklabels": ["cat"]}},
    FRAME | {"id": "bare", "type": "rectangle", "value": SIDES},
]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6),
    st.sampled_from([*CLASSES, *(kind for kinds in drawn.KINDS.values() for kind in kinds), "relation"]),
    st.lists(st.floats() | st.integers(-300, 300), max_size=4), st.just({}), st.just([[]]), st.just([[1, 2]] * 3),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([path] if path else []) + [place for key, part in inner for place in places(part, (*path, key))]


@st.composite
def spoilt(draw: st.DrawFn, task: Task) -> list[Any]:
    """A result in which one to three things are changed, lost, doubled, exchanged or foreign."""
    result: list[Any] = copy.deepcopy(draw(st.lists(st.sampled_from(RESULTS[task]), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(1, 3))):
        where = places(result)
        if not where:
            break
        *way, last = draw(st.sampled_from(where))
        holder: Any = result
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["junk", "junk", "lose", "double", "foreign", "move"])):
            case "lose":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.insert(last, copy.deepcopy(holder[last]))
            case "foreign":
                result.insert(draw(st.integers(0, len(result))), copy.deepcopy(draw(st.sampled_from(FOREIGN))))
            case "move" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["value", "type", "rotation", "points", "rle"]))] = holder.pop(last)
            case _:
                holder[last] = copy.deepcopy(draw(JUNK))
    return result


def accounted(labels: Labels | None, result: list[Any], task: Task) -> bool:
    """Whether every region of the result has left its trace in the labels."""
    match labels:
        case Boxes(names=names):
            return len(names) == len(result)
        case ImageClass(name=name):
            return {region["value"]["choices"][0] for region in result} == {name}
        case Masks(by_name=by_name):
            for one in result:
                part = drawn.part(one, task, WIDTH, HEIGHT)
                assert not isinstance(part.shape, tuple) or hasattr(part.shape, "counts")
                if (
                    rle.area(part.shape)
                    and not (  # type: ignore[arg-type]  # a stroke that was rubbed out is none
                        rle.decode(part.shape) <= rle.decode(by_name[part.name])  # type: ignore[arg-type]
                    ).all()
                ):
                    return False
            return True
        case _:
            return not result


@pytest.mark.parametrize("task", list(Task))
@given(data=st.data())
@many
def test_a_pulled_result_is_taken_whole_or_refused_with_the_reason(task: Task, data: st.DataObject) -> None:
    result = data.draw(spoilt(task))
    before = copy.deepcopy(result)
    reason, labels = "", None
    try:
        labels = regions.decode(result, ITEM, CONTROLS[task], CLASSES)
    except DataError as refusal:
        reason = str(refusal)
    event("refused" if reason else "taken")
    left = regions.beside(result, CONTROLS[task])
    assert all(drawn.is_remark(result[at]) for at in left), "nothing that is drawn is left out"
    rest = [one for at, one in enumerate(result) if at not in left]
    assert accounted(labels, rest, task) if not reason else len(reason) > 10
    assert "\n" not in reason
    assert repr(result) == repr(before), "what is kept raw is what came"


@pytest.mark.parametrize("task", list(Task))
@given(data=st.data())
@many
def test_each_region_of_an_imported_result_is_taken_or_refused_by_itself(
    task: Task, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = export_folder(tmp_path_factory)
    result = data.draw(spoilt(task))
    answers = [{"id": 1, "result": result, "was_cancelled": False}]
    (folder / "tasks.json").write_text(json.dumps([{"id": 5, "data": {"image": "a.png"}, "annotations": answers}]))
    found = list(plugins.load(Kind.FORMAT, "labelstudio").read(folder, ReadRequest(task, CLASSES)))
    (file,) = (entry for entry in found if isinstance(entry, LabelledFile))
    refused = [entry for entry in found if not isinstance(entry, LabelledFile)]
    assert all(entry.reason and entry.source for entry in refused)
    event(f"taken: {file.labels is not None}, regions refused: {bool(refused)}")
    by_region = [entry for entry in refused if ", region " in entry.source]
    if isinstance(file.labels, Boxes):
        assert len(file.labels.names) + len(by_region) == len(result)
    elif file.labels is None:
        assert refused or not result, "an image without labels has a reason"
    elif len(by_region) == len(result):
        assert isinstance(file.labels, Masks)


_folders: list[Path] = []


def export_folder(factory: pytest.TempPathFactory) -> Path:
    if not _folders:
        _folders.append(factory.mktemp("export"))
        Image.new("RGB", (WIDTH, HEIGHT)).save(_folders[0] / "a.png")
    return _folders[0]


def test_an_ellipse_thinner_than_any_pixel_is_refused() -> None:
    thin = copy.deepcopy(ELLIPSE)
    thin["value"]["radiusX"] = 4.7e-160
    with pytest.raises(DataError, match="has no area"):
        regions.decode([thin], ITEM, CONTROLS[Task.SEGMENT], CLASSES)


def test_a_truth_value_is_no_size_of_an_image() -> None:
    assert drawn.stated_size(ELLIPSE) == (WIDTH, HEIGHT)
    assert drawn.stated_size(ELLIPSE | {"original_width": True}) is None
