"""The labelling configuration of a project: written for ours, read and checked for one that is adopted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from alpipe.errors import AnnotatorError
from alpipe.types import Task

TAGS = {Task.CLASSIFY: "Choices", Task.DETECT: "RectangleLabels", Task.SEGMENT: "BrushLabels"}

# Colours that stay apart for colour-blind people too (Okabe and Ito), then darker ones.
COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#7F3C8D",
    "#11A579", "#3969AC", "#E73F74", "#80BA5A", "#008695", "#CF1C90", "#F97B72", "#4B4B8F",
)  # fmt: skip


class Control(NamedTuple):
    """Where labels of a task live in a project: the control tag's name, the image tag's name, the key in a task's data
    that holds the image's URL, and the labels that the control offers.
    """

    task: Task
    name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]

    @property
    def region_type(self) -> str:
        """The ``type`` of a region in a result, which is also the key of its label."""
        return TAGS[self.task].lower()


def write(task: Task, classes: Sequence[str]) -> str:
    """The XML for a task: one image, one control with a label a class, and above them why the image was chosen.

    The labels stand above the image, so that they are on the screen however high it is.
    """
    tag, entry = TAGS[task], "Choice" if task is Task.CLASSIFY else "Label"
    labels = "\n".join(
        f"    <{entry} value={quoteattr(name)}"
        + (f' background="{COLOURS[at % len(COLOURS)]}"/>' if task is not Task.CLASSIFY else "/>")
        for at, name in enumerate(classes)
    )
    extra = {
        Task.CLASSIFY: ' choice="single" showInline="true" required="true" requiredMessage="choose a class, or skip"',
        Task.DETECT: ' canRotate="false" strokeWidth="2" opacity="0.1"',
        Task.SEGMENT: "",
    }[task]
    return (
        f'<View>\n  <Header value="$reason" size="6"/>\n'
        f'  <{tag} name="label" toName="image"{extra}>\n{labels}\n  </{tag}>\n'
        '  <Image name="image" value="$image" zoom="true"/>\n</View>'
    )


def read(xml: str, task: Task, where: str) -> Control:
    """The control of a project's configuration that fits the task. Raises AnnotatorError where there is none, or
    several.
    """
    from label_studio_sdk.label_interface.interface import LabelInterface

    try:
        interface = LabelInterface(xml)
        controls = [control for control in interface.controls if control.tag == TAGS[task]]
        images = {image.name: image.value_name for image in interface.objects if image.tag == "Image"}
    except Exception as error:  # the SDK raises what its XML parser raises
        raise AnnotatorError(f"{where}: its labelling configuration cannot be read: {error}") from error
    fitting = [control for control in controls if set(control.to_name) & set(images)]
    if len(fitting) != 1:
        raise AnnotatorError(
            f"{where} has {len(fitting)} <{TAGS[task]}> controls on an image, but {task} needs exactly one:"
            " change its labelling configuration, or let alpipe make a project"
        )
    chosen = fitting[0]
    to_name = next(name for name in chosen.to_name if name in images)
    return Control(task, chosen.name, to_name, images[to_name], tuple(chosen.labels))


def missing(control: Control, classes: Sequence[str]) -> list[str]:
    """The classes that the control does not offer."""
    return [name for name in classes if name not in control.labels]


def faults(xml: str, prediction: dict[str, Any]) -> list[str]:
    """What the SDK finds wrong with a prediction for this configuration; the server itself accepts anything."""
    from label_studio_sdk.label_interface.interface import LabelInterface

    interface = LabelInterface(xml)
    found: list[str] = interface.validate_prediction(prediction, return_errors=True)  # type: ignore[no-untyped-call]
    return found
