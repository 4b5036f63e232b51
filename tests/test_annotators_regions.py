"""Labels ⇄ Label Studio's regions: nothing is lost or bent on the way, and nothing that comes back can crash us."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alpipe import rle
from alpipe.annotators.studio import config, regions
from alpipe.annotators.studio.config import Control
from alpipe.errors import DataError
from alpipe.shapes import brush
from alpipe.types import Boxes, ImageClass, Item, Labels, Masks, Task

CLASSES = ("cat", "dog", "ünïcode \"<&>'")
quick = settings(deadline=None, max_examples=60)


def control(task: Task) -> Control:
    return config.read(config.write(task, CLASSES), task, "test")


CONTROLS = {task: control(task) for task in Task}
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
small_sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
coordinates = st.floats(0, 1, allow_nan=False, width=32)


def item(size: tuple[int, int]) -> Item:
    return Item("k" * 20, "image.png", *size)


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[Item, Boxes]:
    width, height = draw(sizes)
    found = []
    for _ in range(draw(st.integers(0, 5))):
        xs = sorted(np.float32(draw(coordinates)) * np.float32(width) for _ in range(2))
        ys = sorted(np.float32(draw(coordinates)) * np.float32(height) for _ in range(2))
        if xs[1] - xs[0] > 1e-2 and ys[1] - ys[0] > 1e-2:
            found.append([xs[0], ys[0], xs[1], ys[1]])
    names = tuple(draw(st.sampled_from(CLASSES)) for _ in found)
    return item((width, height)), Boxes(np.asarray(found, np.float32).reshape(-1, 4), names)


@st.composite
def masks_in_images(draw: st.DrawFn) -> tuple[Item, Masks]:
    width, height = draw(small_sizes)
    names = draw(st.lists(st.sampled_from(CLASSES), unique=True))
    masks = {name: draw(hnp.arrays(np.bool_, (height, width))) for name in names}
    return item((width, height)), Masks({name: rle.encode(mask) for name, mask in masks.items() if mask.any()})


@quick
@given(boxes_in_images())
def test_boxes_return_within_a_thousandth_of_a_pixel(case: tuple[Item, Boxes]) -> None:
    image, boxes = case
    encoded = regions.encode(boxes, image, CONTROLS[Task.DETECT], "m1", (0.5,) * len(boxes.names))
    assert regions.check(encoded, CONTROLS[Task.DETECT]) == []
    assert config.faults(config.write(Task.DETECT, CLASSES), {"score": 0.5, "result": encoded}) == []
    decoded = regions.decode(encoded, image, CONTROLS[Task.DETECT], CLASSES)
    assert isinstance(decoded, Boxes)
    assert decoded.names == boxes.names
    np.testing.assert_allclose(decoded.xyxy, boxes.xyxy, atol=1e-3, rtol=0)


@quick
@given(masks_in_images())
def test_masks_return_identical(case: tuple[Item, Masks]) -> None:
    image, masks = case
    encoded = regions.encode(masks, image, CONTROLS[Task.SEGMENT], "m1")
    assert regions.check(encoded, CONTROLS[Task.SEGMENT]) == []
    assert config.faults(config.write(Task.SEGMENT, CLASSES), {"score": 0.5, "result": encoded}) == []
    assert regions.decode(encoded, image, CONTROLS[Task.SEGMENT], CLASSES) == masks


@pytest.mark.parametrize("name", CLASSES)
def test_classes_return_identical(name: str) -> None:
    encoded = regions.encode(ImageClass(name), item((5, 7)), CONTROLS[Task.CLASSIFY], "m1", (0.9,))
    assert config.faults(config.write(Task.CLASSIFY, CLASSES), {"score": 0.5, "result": encoded}) == []
    assert regions.decode(encoded, item((5, 7)), CONTROLS[Task.CLASSIFY], CLASSES) == ImageClass(name)


def test_region_ids_stay_the_same_and_differ_between_models() -> None:
    boxes = Boxes(np.asarray([[0, 0, 2, 2], [1, 1, 3, 3]], np.float32), ("cat", "cat"))
    first, again, other = (
        [region["id"] for region in regions.encode(boxes, item((9, 9)), CONTROLS[Task.DETECT], model)]
        for model in ("m1", "m1", "m2")
    )
    assert first == again
    assert len({*first, *other}) == 4


def box_region(**value: Any) -> dict[str, Any]:
    shape = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
    return {"id": "a", "type": "rectanglelabels", "value": shape | value}


def decoded_boxes(region: dict[str, Any]) -> Labels | None:
    return regions.decode([region], item((200, 100)), CONTROLS[Task.DETECT], CLASSES)


def test_a_rotated_box_becomes_the_upright_box_around_it() -> None:
    # turned by 90° about its top left corner: the width goes down, the height to the left
    upright = decoded_boxes(box_region(x=50, y=20, width=10, height=20, rotation=90))
    assert isinstance(upright, Boxes)
    np.testing.assert_allclose(upright.xyxy, [[80, 20, 100, 40]], atol=1e-4)


def test_a_box_over_the_edge_is_clipped() -> None:
    clipped = decoded_boxes(box_region(x=-5, y=90, width=10, height=20))
    assert isinstance(clipped, Boxes)
    np.testing.assert_allclose(clipped.xyxy, [[0, 90, 10, 100]], atol=1e-4)


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (box_region(width=0), "no area"),
        (box_region(x=120), "no area"),
        (box_region(x=float("nan")), "finite"),
        (box_region(x="left"), "x is 'left', expected a number"),
        (box_region(x=1e9), "far outside"),
        (box_region(rectanglelabels=["cow"]), "unknown label 'cow'"),
        (box_region(rectanglelabels=["cat", "dog"]), "expected one"),
        (box_region(rectanglelabels=[]), "no label, expected one"),
        ({"id": "a", "type": "keypointlabels", "value": {}}, "'keypointlabels' is no rectangle"),
        (box_region() | {"image_rotation": 90}, "rotated by 90°"),
        ({"id": "a"}, "has no value"),
        ("text", "has no value"),
    ],
)
def test_a_region_that_cannot_be_understood_is_refused_with_the_reason(region: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decoded_boxes(region)


def test_two_classes_for_one_image_are_refused() -> None:
    answer = [{"type": "choices", "value": {"choices": [name]}} for name in ("cat", "dog")]
    with pytest.raises(DataError, match=r"several classes \(cat, dog\)"):
        regions.decode(answer, item((4, 4)), CONTROLS[Task.CLASSIFY], CLASSES)


def test_several_brush_regions_of_a_name_are_one_mask_and_erased_ones_are_none() -> None:
    image = item((4, 2))
    parts = [np.asarray([[1, 0, 0, 0], [0, 0, 0, 0]], np.uint8), np.asarray([[0, 0, 1, 0], [0, 0, 0, 1]], np.uint8)]
    pieces = [regions.encode(Masks({"cat": rle.encode(part)}), image, CONTROLS[Task.SEGMENT], "m")[0] for part in parts]
    erased = copy.deepcopy(pieces[0])
    erased["value"] |= {"rle": brush.encode(np.zeros((2, 4), np.uint8)), "brushlabels": ["dog"]}
    decoded = regions.decode([*pieces, erased], image, CONTROLS[Task.SEGMENT], CLASSES)
    assert decoded == Masks({"cat": rle.encode(parts[0] | parts[1])})


def test_a_mask_for_an_image_of_another_size_is_refused() -> None:
    encoded = regions.encode(
        Masks({"cat": rle.encode(np.ones((2, 4), np.uint8))}), item((4, 2)), CONTROLS[Task.SEGMENT], "m"
    )
    with pytest.raises(DataError, match="for 4×2 pixels, but the image has 2×4"):
        regions.decode(encoded, item((2, 4)), CONTROLS[Task.SEGMENT], CLASSES)


def test_a_polygon_is_filled() -> None:
    region = {"id": "a", "type": "polygonlabels", "value": {"points": [[0, 0], [50, 0], [50, 100], [0, 100]]}}
    region["value"]["polygonlabels"] = ["cat"]  # type: ignore[index]
    decoded = regions.decode([region], item((100, 50)), CONTROLS[Task.SEGMENT], CLASSES)
    assert isinstance(decoded, Masks)
    assert abs(rle.area(decoded.by_name["cat"]) - 50 * 50) <= 50


def test_nothing_submitted_means_no_object_or_no_class() -> None:
    assert regions.decode([], item((3, 3)), CONTROLS[Task.DETECT], CLASSES) == Boxes.none()
    assert regions.decode([], item((3, 3)), CONTROLS[Task.SEGMENT], CLASSES) == Masks({})
    assert regions.decode([], item((3, 3)), CONTROLS[Task.CLASSIFY], CLASSES) is None


GOOD: dict[Task, Labels] = {
    Task.CLASSIFY: ImageClass("cat"),
    Task.DETECT: Boxes(np.asarray([[1, 1, 3, 4]], np.float32), ("dog",)),
    Task.SEGMENT: Masks({"dog": rle.encode(np.eye(6, dtype=np.uint8))}),
}


@pytest.mark.parametrize("task", list(Task))
def test_our_configuration_is_read_back_with_every_label(task: Task) -> None:
    found = CONTROLS[task]
    assert found == Control(task, "label", "image", "image", CLASSES, config.TAGS[task][0])
    assert config.missing(found, ("cat", "cow")) == ["cow"]


def test_a_faulty_pre_annotation_is_found_before_it_is_sent() -> None:
    good = regions.encode(GOOD[Task.DETECT], item((6, 6)), CONTROLS[Task.DETECT], "m", (0.5,))[0]
    for change in ({"x": -1}, {"width": 0}, {"width": 101}, {"x": float("nan")}, {"rectanglelabels": ["cow"]}):
        assert regions.check([good | {"value": good["value"] | change}], CONTROLS[Task.DETECT])
    assert regions.check([good | {"score": 1.2}], CONTROLS[Task.DETECT])
    assert regions.check([good, good], CONTROLS[Task.DETECT])


def drawn_on(size: tuple[int, int], **more: Any) -> list[dict[str, Any]]:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["cat"]}
    frame = {"original_width": size[0], "original_height": size[1]}
    return [{"id": "r", "type": "rectanglelabels", "value": value} | frame | more]


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (213, 160), (107, 80)])
def test_a_box_drawn_on_a_smaller_copy_is_where_it_was_drawn(size: tuple[int, int]) -> None:
    found = regions.decode(drawn_on(size), item((640, 480)), CONTROLS[Task.DETECT], CLASSES)
    assert isinstance(found, Boxes)
    np.testing.assert_allclose(found.xyxy, [[64, 48, 192, 144]])


@pytest.mark.parametrize("size", [(480, 640), (640, 640), (1920, 1080)])
def test_a_box_drawn_on_a_turned_or_another_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"drawn on a picture of .* the browser shows is turned or another image"):
        regions.decode(drawn_on(size), item((640, 480)), CONTROLS[Task.DETECT], CLASSES)


@pytest.mark.parametrize("task", [Task.DETECT, Task.SEGMENT])
def test_a_shape_without_a_label_is_named_as_such(task: Task) -> None:
    with pytest.raises(DataError, match="a polygon has no label; give it one or delete it"):
        regions.decode(drawn_on((640, 480), type="polygon"), item((640, 480)), CONTROLS[task], CLASSES)


# ── what other controls say ─────────────────────────────────────────────────────────────────────────────────────────


def remark(kind: str, said: Any, name: str = "other", **more: Any) -> dict[str, Any]:
    key = "text" if kind == "textarea" else kind
    return {"id": "b", "type": kind, "from_name": name, "to_name": "image", "value": {key: said}} | more


REMARKS = [
    remark("choices", ["sharp"]), remark("textarea", ["two of them"]), remark("rating", 4), remark("number", 2),
    remark("datetime", "2026-01-01"), remark("taxonomy", [["a", "b"]]),
    {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    remark("choices", ["sharp"], value={**box_region()["value"], "choices": ["sharp"]}, id="a"),  # of region a
]  # fmt: skip


def test_what_other_controls_say_is_left_out_and_the_shapes_are_taken() -> None:
    shapes = [box_region(), box_region(x=50) | {"id": "c"}]
    alone = regions.decode(shapes, item((200, 100)), CONTROLS[Task.DETECT], CLASSES)
    mixed = [REMARKS[0], shapes[0], *REMARKS[1:], shapes[1]]
    both = regions.decode(mixed, item((200, 100)), CONTROLS[Task.DETECT], CLASSES)
    assert isinstance(alone, Boxes)
    assert alone == both
    assert regions.beside(mixed, CONTROLS[Task.DETECT]) == [0, *range(2, 2 + len(REMARKS) - 1)]
    classes = [{"type": "choices", "from_name": "label", "value": {"choices": ["dog"]}}, *REMARKS[:-1]]
    assert regions.decode(classes, item((5, 7)), CONTROLS[Task.CLASSIFY], CLASSES) == ImageClass("dog")


@pytest.mark.parametrize(
    ("task", "drawing", "reason"),
    [
        (Task.DETECT, remark("choices", ["sharp"], value={**box_region()["value"], "choices": ["sharp"]}), "no rect"),
        (Task.DETECT, remark("choices", ["cat"], name="label"), "is no rectangle"),
        (Task.DETECT, remark("keypointlabels", ["cat"]), "is no rectangle"),
        (Task.DETECT, remark("rectangle", [1]), "has no label"),
        (Task.DETECT, remark("video", [1]), "is no rectangle"),
        (Task.CLASSIFY, remark("rectanglelabels", ["cat"]), "is no class"),
        (Task.CLASSIFY, remark("choices", ["cat"]), "'cat' was given with the control 'other', and none with 'label'"),
    ],
    ids=str,
)
def test_what_is_drawn_or_may_be_a_label_is_never_left_out(task: Task, drawing: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        regions.decode([drawing], item((200, 100)), CONTROLS[task], CLASSES)
