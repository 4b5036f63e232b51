"""The labelling configuration: ours is read back, another's is checked with a list of what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe.annotators import labelstudio
from alpipe.annotators.studio import config
from alpipe.annotators.studio.config import Drawing
from alpipe.errors import AnnotatorError
from alpipe.protocols import AnnotatorContext
from alpipe.types import Task

CLASSES = ("cat", "dog")
IMAGE = '<Image name="i" value="$u"/>'
CAT, DOG, COW = ('<Label value="cat"/>', '<Label value="dog"/>', '<Label value="cow"/>')


def control(tag: str, *labels: str, name: str = "c", **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<{tag} name="{name}" toName="i"{more}>{"".join(labels)}</{tag}>'


def view(*parts: str) -> str:
    return f"<View>{''.join(parts)}</View>"


RECTANGLES = control("RectangleLabels", CAT, DOG)

plain_text = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=12)
names = st.lists(plain_text.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True)


@settings(deadline=None, max_examples=60)
@given(names, st.sampled_from(list(Task)), st.booleans(), st.sampled_from([None, "brush", "polygon"]))
def test_what_is_written_is_read_back_with_every_label(labels: list[str], task: Task, rotate: bool, shape: Any) -> None:
    drawing = Drawing(rotate, shape)
    found = config.read(config.write(task, labels, drawing), task, "test", drawing, labels)
    assert (found.labels, found.data_key, found.tag) == (tuple(labels), "image", drawing.tags(task)[0])


def test_people_can_turn_boxes_only_where_that_is_wanted() -> None:
    assert 'canRotate="true"' in config.write(Task.DETECT, CLASSES, Drawing(rotate=True))
    assert 'canRotate="false"' in config.write(Task.DETECT, CLASSES)


def test_labels_go_by_their_names_there() -> None:
    drawing = Drawing(names={"cat": "Felis catus"})
    xml = config.write(Task.DETECT, CLASSES, drawing)
    assert 'value="Felis catus"' in xml
    assert 'value="cat"' not in xml
    assert config.read(xml, Task.DETECT, "test", drawing, CLASSES).labels == ("Felis catus", "dog")


@pytest.mark.parametrize(
    ("task", "xml", "faults"),
    [
        (Task.DETECT, view(IMAGE), ["needs a <RectangleLabels> on the image, but its controls are none at all"]),
        (Task.DETECT, view(IMAGE, control("BrushLabels", CAT, DOG)), ['its controls are <BrushLabels name="c">: add']),
        (Task.SEGMENT, view(IMAGE, RECTANGLES), ["needs a <BrushLabels> or <PolygonLabels>"]),
        (
            Task.DETECT,
            view(IMAGE, RECTANGLES, control("RectangleLabels", CAT, DOG, name="d")),
            ["has 2 <RectangleLabels> (c, d) of which several offer all labels: put our labels into one"],
        ),
        (
            Task.DETECT,
            view(IMAGE, control("RectangleLabels", CAT), control("RectangleLabels", DOG, name="d")),
            ["has 2 <RectangleLabels> (c, d) of which none offers all labels"],
        ),
        (
            Task.DETECT,
            view(IMAGE, control("RectangleLabels", COW)),
            ["(1) <RectangleLabels name=\"c\"> does not offer the label 'cat'", "(2) <RectangleLabels"],
        ),
        (
            Task.DETECT,
            view(IMAGE, control("RectangleLabels", '<Label value="Cat"/>', DOG)),
            ["offers 'Cat' for 'cat': say so by the option label_names"],
        ),
        (
            Task.DETECT,
            view(IMAGE, control("RectangleLabels", CAT), control("PolygonLabels", DOG, name="p")),
            ['\'dog\' stands in <PolygonLabels name="p">, but detect needs it in <RectangleLabels name="c">'],
        ),
        (Task.DETECT, view('<Image name="i" value="http://a/b.png"/>', RECTANGLES), ["value must be a key such as"]),
        (Task.DETECT, view('<Image name="i" valueList="$u"/>', RECTANGLES), ["shows a list of images"]),
        (
            Task.DETECT,
            view(IMAGE, RECTANGLES, '<Text name="t" value="$caption"/>'),
            ["<Text> shows $caption, which alpipe's tasks do not have: remove it"],
        ),
        (Task.DETECT, view(IMAGE, RECTANGLES, '<Image name="j" value="$v"/>'), ["<Image> j is a second image"]),
        (
            Task.CLASSIFY,
            view(IMAGE, control("Choices", '<Choice value="cat"/>', '<Choice value="dog"/>', choice="multiple")),
            ['choice="multiple", but an image has one class: set choice="single"'],
        ),
        (
            Task.CLASSIFY,
            view(IMAGE, control("Choices", '<Choice value="cat"/>', '<Choice value="dog"/>', perRegion="true")),
            ['perRegion="true"'],
        ),
        (Task.DETECT, view('<Text name="t" value="$reason"/>'), ["it shows no <Image>"]),
    ],
)
def test_everything_that_does_not_fit_is_listed_with_what_to_do(task: Task, xml: str, faults: list[str]) -> None:
    with pytest.raises(AnnotatorError, match="labelling configuration does not fit") as refusal:
        config.read(xml, task, "project 3", classes=CLASSES)
    assert "\n" not in str(refusal.value)
    for fault in faults:
        assert fault in str(refusal.value)


@pytest.mark.parametrize("xml", ["", "<View>", "<View/>", "text", "<View>&nothing;</View>"])
def test_what_is_no_configuration_is_stated(xml: str) -> None:
    with pytest.raises(AnnotatorError, match="project 3: its labelling configuration"):
        config.read(xml, Task.DETECT, "project 3", classes=CLASSES)


def test_a_project_where_boxes_cannot_be_turned_does_not_fit_where_that_is_wanted() -> None:
    xml = view(IMAGE, control("RectangleLabels", CAT, DOG, canRotate="false"))
    with pytest.raises(AnnotatorError, match="canRotate"):
        config.read(xml, Task.DETECT, "p", Drawing(rotate=True), CLASSES)
    assert config.read(xml, Task.DETECT, "p", classes=CLASSES)


def test_of_several_controls_those_beside_are_no_hindrance() -> None:
    others = [control(tag, CAT, DOG, name=tag) for tag in ("EllipseLabels", "PolygonLabels", "BrushLabels")]
    xml = view(*others, '<Header value="$reason"/>', IMAGE, RECTANGLES, '<Text name="t" value="$reason"/>')
    assert config.read(xml, Task.DETECT, "p", classes=CLASSES).name == "c"
    assert config.read(xml, Task.SEGMENT, "p", classes=CLASSES).tag == "BrushLabels"
    assert config.read(xml, Task.SEGMENT, "p", Drawing(shape="polygon"), CLASSES).tag == "PolygonLabels"
    extra = ('<Choices name="q" toName="i"><Choice value="sharp"/></Choices>', '<TextArea name="t" toName="i"/>',
             '<Rating name="r" toName="i"/>', '<Number name="n" toName="i"/>', '<DateTime name="d" toName="i"/>',
             '<Taxonomy name="x" toName="i"><Choice value="a"/></Taxonomy>')  # fmt: skip
    for task, own in ((Task.DETECT, RECTANGLES), (Task.SEGMENT, others[2])):
        assert config.read(view(IMAGE, own, *extra), task, "p", classes=CLASSES).labels == CLASSES
    two = view(IMAGE, control("RectangleLabels", COW), control("RectangleLabels", CAT, DOG, name="d"))
    assert config.read(two, Task.DETECT, "p", classes=CLASSES).name == "d", "the one that offers our labels"


@settings(deadline=None, max_examples=60)
@given(names, names, st.sampled_from(list(Task)))
def test_labels_are_added_and_all_else_stays_as_it_is_written(old: list[str], new: list[str], task: Task) -> None:
    new = [name for name in new if name not in old]
    xml = config.write(task, old).replace("<View>", "<View><!-- ünsere  notes -->")
    found = config.read(xml, task, "test", classes=old)
    more = config.add(xml, found, new)
    assert config.read(more, task, "test", classes=[*old, *new]).labels == (*old, *new)
    added = [line for line in more.split("\n") if line not in xml.split("\n")]
    assert len(added) == len(new)
    assert [line for line in more.split("\n") if line not in added] == xml.split("\n")


@pytest.mark.parametrize(
    "written",
    [
        '<RectangleLabels name="c" toName="i"/>',
        '<RectangleLabels toName="i" name="c" ></RectangleLabels>',
        '<RectangleLabels name="c" toName="i"><Label value="/>"/><!-- </RectangleLabels> --></RectangleLabels>',
    ],
)
def test_labels_are_added_however_the_control_is_written(written: str) -> None:
    xml = view("<Style>.a { color: red }</Style>", written, IMAGE, control("BrushLabels", CAT, name="other"))
    found = config.read(xml, Task.DETECT, "test")
    more = config.read(config.add(xml, found, ["x < y"]), Task.DETECT, "test")
    assert more.labels == (*found.labels, "x < y")


def context() -> AnnotatorContext:
    return AnnotatorContext("p", Task.DETECT, CLASSES, None, lambda _: None, list, lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label_names", "fault"),
    [({"cow": "Bos"}, "'cow', which is no label"), ({"cat": "dog"}, "gives two labels the name 'dog'")],
)
def test_names_that_would_mix_labels_up_are_refused(label_names: dict[str, str], fault: str) -> None:
    with pytest.raises(AnnotatorError, match=fault):
        labelstudio.build(labelstudio.Options(label_names=label_names, home="/tmp"), context())  # noqa: S108


@pytest.mark.parametrize(
    "values",
    [
        {"uri_prefix": {"/data": "javascript:alert(1)"}},
        {"uri_prefix": {"/data": "file:///etc"}},
        {"uri_prefix": {"/data": "s3:bucket"}},
        {"uri_prefix": {"data": "s3://bucket"}},
        {"images": "uri"},
        {"shape": "circle"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"address|absolute|uri_prefix|brush"):
        labelstudio.Options(**values)
