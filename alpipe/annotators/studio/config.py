"""The labelling configuration of a project: written for ours, read and checked for one that is adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from alpipe.errors import AnnotatorError
from alpipe.types import Task

TAGS = {Task.CLASSIFY: ("Choices",), Task.DETECT: ("RectangleLabels",), Task.SEGMENT: ("BrushLabels", "PolygonLabels")}
"""The controls that pre-annotations of a task can be written to, the preferred one first."""

SENT = frozenset({"alpipe_key", "uncertainty", "reason", "round", "model", "blind"})
"""What a task of ours carries beside its image: a configuration may show these, but no other data."""

# Colours that stay apart for colour-blind people too (Okabe and Ito), then darker ones.
COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#7F3C8D",
    "#11A579", "#3969AC", "#E73F74", "#80BA5A", "#008695", "#CF1C90", "#F97B72", "#4B4B8F",
)  # fmt: skip


class Drawing(NamedTuple):
    """How people draw, and what labels are called there.

    ``rotate``: boxes can be turned. ``shape`` of masks: ``brush``, ``polygon``, or None for what a project offers
    (brush where alpipe makes it). ``tolerance`` is the share of a region's pixels that a polygon may miss. ``names``
    gives a label's name in Label Studio where it is not the one of the project.
    """

    rotate: bool = False
    shape: Literal["brush", "polygon"] | None = None
    tolerance: float = 0.01
    names: Mapping[str, str] = {}

    def tags(self, task: Task) -> tuple[str, ...]:
        """The controls that will do for pre-annotations."""
        if task is Task.SEGMENT and self.shape is not None:
            return ("BrushLabels",) if self.shape == "brush" else ("PolygonLabels",)
        return TAGS[task]

    def there(self, name: str) -> str:
        """The label's name in Label Studio."""
        return self.names.get(name, name)


PLAIN = Drawing()
"""Upright boxes, the brush, and the same names on both sides."""


class Control(NamedTuple):
    """Where labels of a task live in a project: the control tag's name, the image tag's name, the key in a task's data
    that holds the image's URL, and the labels that the control offers, by their names there.

    Pre-annotations go to this control; what people draw with others is read as well.
    """

    task: Task
    name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]
    tag: str = ""
    drawing: Drawing = PLAIN

    @property
    def region_type(self) -> str:
        """The ``type`` of a region in a result, which is also the key of its label."""
        return (self.tag or TAGS[self.task][0]).lower()


def write(task: Task, classes: Sequence[str], drawing: Drawing = PLAIN) -> str:
    """The XML for a task: one image, one control with a label a class, and above them why the image was chosen.

    The labels stand above the image, so that they are on the screen however high it is.
    """
    tag = drawing.tags(task)[0]
    labels = "\n".join(f"    {_entry(task, drawing.there(name), at)}" for at, name in enumerate(classes))
    extra = {
        "Choices": ' choice="single" showInline="true" required="true" requiredMessage="choose a class, or skip"',
        "RectangleLabels": f' canRotate="{str(drawing.rotate).lower()}" strokeWidth="2" opacity="0.1"',
        "PolygonLabels": ' strokeWidth="2" pointSize="small" opacity="0.2"',
    }.get(tag, "")
    return (
        f'<View>\n  <Header value="$reason" size="6"/>\n'
        f'  <{tag} name="label" toName="image"{extra}>\n{labels}\n  </{tag}>\n'
        '  <Image name="image" value="$image" zoom="true"/>\n</View>'
    )


def add(xml: str, control: Control, names: Sequence[str]) -> str:
    """The XML with labels more at the end of a control, by their names there; all else stays as it is written."""
    entries = [_entry(control.task, name, len(control.labels) + at) for at, name in enumerate(names)]
    raw = xml.encode()
    start, end = _extent(raw, control.name)
    if raw[start:end].rstrip().endswith(b"/>") and b"</" not in raw[start:end]:
        opening = raw[start:end].rstrip()[:-2].rstrip()
        body = "".join(f"\n    {entry}" for entry in entries)
        tag = control.tag or TAGS[control.task][0]
        return (raw[:start] + opening + f">{body}\n  </{tag}>".encode() + raw[end:]).decode()
    closing = raw.rindex(b"</", start, end)
    return (raw[:closing].rstrip() + "".join(f"\n    {entry}" for entry in entries).encode()
            + b"\n  " + raw[closing:]).decode()  # fmt: skip


def read(
    xml: str,
    task: Task,
    where: str,
    drawing: Drawing = PLAIN,
    classes: Sequence[str] = (),
) -> Control:
    """The control of a project's configuration that fits the task and offers the classes.

    Raises AnnotatorError that lists everything that does not fit, each with what to do.
    """
    from label_studio_sdk.label_interface.interface import LabelInterface

    try:
        interface = LabelInterface(xml)
        images = {image.name: image for image in interface.objects if image.tag == "Image"}
        controls = [control for control in interface.controls if set(control.to_name) & set(images)]
    except Exception as error:  # the SDK raises what its XML parser raises
        raise AnnotatorError(f"{where}: its labelling configuration cannot be read: {error}") from error
    faults = [] if images else ["it shows no <Image>"]
    fitting, found = _fitting(controls, task, drawing, classes)
    if images:
        faults += found
    faults += _foreign_data(interface.objects, set(images))
    chosen = fitting[0] if fitting else None
    if chosen is not None:
        to_name = next(name for name in chosen.to_name if name in images)
        faults += _image_faults(images[to_name])
        faults += _control_faults(chosen, controls, task, drawing, classes)
        if not faults:
            key = images[to_name].value_name
            return Control(task, chosen.name, to_name, key, tuple(chosen.labels), chosen.tag, drawing)
    listed = faults[0] if len(faults) == 1 else "; ".join(f"({at}) {fault}" for at, fault in enumerate(faults, 1))
    raise AnnotatorError(
        f"{where}: its labelling configuration does not fit: {listed}."
        " Change it in its settings under Labeling Interface, or let alpipe make a project"
    )


def missing(control: Control, classes: Sequence[str]) -> list[str]:
    """The classes, by their names there, that the control does not offer."""
    return [there for name in classes if (there := control.drawing.there(name)) not in control.labels]


def faults(xml: str, prediction: dict[str, Any]) -> list[str]:
    """What the SDK finds wrong with a prediction for this configuration; the server itself accepts anything."""
    from label_studio_sdk.label_interface.interface import LabelInterface

    interface = LabelInterface(xml)
    found: list[str] = interface.validate_prediction(prediction, return_errors=True)  # type: ignore[no-untyped-call]
    return found


# ── what does not fit ───────────────────────────────────────────────────────────────────────────────────────────────


def _fitting(
    controls: Sequence[Any], task: Task, drawing: Drawing, classes: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """The controls that pre-annotations may go to, at best one, and what is wrong where there is none or several."""
    for tag in drawing.tags(task):
        same = [control for control in controls if control.tag == tag]
        wanted = {drawing.there(name) for name in classes}
        fitting = [control for control in same if wanted <= set(control.labels)] if len(same) > 1 else same
        if len(fitting) == 1:
            return fitting, []
        if same:
            names = ", ".join(control.name for control in same)
            offer = "of which several offer" if fitting else "of which none offers"
            return [], [f"it has {len(same)} <{tag}> ({names}) {offer} all labels: put our labels into one of them"]
    wanted_tags = " or ".join(f"<{tag}>" for tag in drawing.tags(task))
    there = ", ".join(f"<{control.tag} name={quoteattr(control.name)}>" for control in controls) or "none at all"
    hint = ""
    if task is Task.SEGMENT and any(control.tag in TAGS[task] for control in controls):
        hint = " (or change the option shape)"
    return [], [f"{task} needs a {wanted_tags} on the image, but its controls are {there}: add one{hint}"]


def _foreign_data(objects: Sequence[Any], images: set[str]) -> list[str]:
    """Other things to show, whose data our tasks do not have: the server refuses tasks without."""
    others = [thing for thing in objects if thing.name not in images and str(thing.value or "").startswith("$")]
    found = [f"<{thing.tag}> shows ${thing.value_name}" for thing in others if thing.value_name not in SENT]
    found += [f"<Image> {sorted(images)[1]} is a second image"] if len(images) > 1 else []
    return [f"{fault}, which alpipe's tasks do not have: remove it" for fault in found]


def _image_faults(image: Any) -> list[str]:
    listed = "valueList" in image.attr
    if image.value_is_variable and not listed:
        return []
    value = "a list of images" if listed else image.value
    return [f'<Image name={quoteattr(image.name)}> shows {value}: its value must be a key such as "$image"']


def _control_faults(
    chosen: Any, controls: Sequence[Any], task: Task, drawing: Drawing, classes: Sequence[str]
) -> list[str]:
    what = f"<{chosen.tag} name={quoteattr(chosen.name)}>"
    found = []
    for name in classes:
        there = drawing.there(name)
        if there in chosen.labels:
            continue
        label = repr(there) if there == name else f"{there!r} (label_names calls {name!r} so)"
        holders = [f"<{other.tag} name={quoteattr(other.name)}>" for other in controls if there in other.labels]
        alike = [offered for offered in chosen.labels if offered.casefold() == there.casefold()]
        if holders:
            found.append(f"the label {label} stands in {holders[0]}, but {task} needs it in {what}: add it there")
        elif alike:
            found.append(f"{what} offers {alike[0]!r} for {label}: say so by the option label_names, or add the label")
        else:
            found.append(f"{what} does not offer the label {label}: add it, or name its equal by label_names")
    if drawing.rotate and str(chosen.attr.get("canRotate", "true")).lower() == "false":
        found.append(f'{what} has canRotate="false", but rotate is true: change one of them')
    if task is Task.CLASSIFY and chosen.attr.get("choice", "single") not in ("single", "single-radio"):
        found.append(f'{what} has choice="{chosen.attr["choice"]}", but an image has one class: set choice="single"')
    if task is Task.CLASSIFY and str(chosen.attr.get("perRegion", "false")).lower() == "true":
        found.append(f'{what} has perRegion="true", so it does not speak of the whole image: remove that')
    return found


def _entry(task: Task, name: str, at: int) -> str:
    if task is Task.CLASSIFY:
        return f"<Choice value={quoteattr(name)}/>"
    return f'<Label value={quoteattr(name)} background="{COLOURS[at % len(COLOURS)]}"/>'


def _extent(raw: bytes, name: str) -> tuple[int, int]:
    """Where in the XML the element with this name starts and ends."""
    parser = expat.ParserCreate()
    depth = 0
    found: dict[str, int] = {}
    inside: list[int] = []

    def opened(_: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if attributes.get("name") == name and "toName" in attributes and "start" not in found:
            found["start"] = parser.CurrentByteIndex
            inside.append(depth)

    def closed(_: str) -> None:
        nonlocal depth
        if inside and depth == inside[0] and "end" not in found:
            at = parser.CurrentByteIndex  # of an element that closes itself the end, of others the closing tag
            found["end"] = raw.index(b">", at) + 1 if raw[at : at + 2] == b"</" else at
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    parser.Parse(raw, True)
    return found["start"], found["end"]
