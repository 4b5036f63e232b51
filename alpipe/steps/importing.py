"""Labelled data into the pool and out of it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alpipe import boxes as arithmetic
from alpipe import plugins
from alpipe.errors import DataError
from alpipe.plugins import Kind
from alpipe.pool import ingest
from alpipe.project import Project
from alpipe.protocols import LabelledFile, ProgressCallback, ReadRequest, no_progress
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    ImageClass,
    Item,
    Labels,
    Masks,
    Progress,
    Refusal,
    Split,
    Task,
    is_empty,
)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took: images that are in the pool now, how many of them new, with labels, reviewed-empty and
    without any label; boxes cut at the image's edge; and every part refused.
    """

    images: int
    added: int
    labelled: int
    empty: int
    unlabelled: int
    clipped: int
    refused: tuple[Refusal, ...]


def import_labels(
    project: Project,
    format_name: str,
    path: Path,
    *,
    holdout: bool = False,
    as_truth: bool = False,
    subset: str | None = None,
    colours: tuple[tuple[str, tuple[int, int, int]], ...] = (),
    ignore_unknown: bool = False,
    group_of: Callable[[Path], str | None] | None = None,
    progress: ProgressCallback = no_progress,
) -> ImportReport:
    """Reads a labelled set into the pool. With ``as_truth`` the images enter unlabelled and the labels are kept aside.

    ``ignore_unknown`` leaves out labels that the project does not have, in silence; otherwise each is refused.
    Raises DataError where nothing can be read.
    """
    plugin = plugins.load(Kind.FORMAT, format_name, project.config.task)
    request = ReadRequest(project.config.task, project.classes, subset, colours)
    entries: list[LabelledFile] = []
    refused: list[Refusal] = []
    for entry in plugin.read(path, request):
        (entries if isinstance(entry, LabelledFile) else refused).append(entry)
        if len(entries) % 100 == 0:
            progress(Progress("reading labels", len(entries), 0))
    before = sum(project.store.items.counts().values())
    items = ingest.lookup(
        project.store,
        [entry.image for entry in entries],
        holdout=holdout,
        holdout_share=ingest_share(project),
        salt=str(project.config.seed),
        group_of=group_of,
        progress=progress,
    )
    if project.store.items.counts(Split.HOLDOUT) and holdout:
        project.store.meta.set("holdout", "by hand")
    tally: Counter[str] = Counter()
    annotations: dict[str, Annotation] = {}
    truths: dict[str, Labels] = {}
    taken: dict[str, tuple[str, Labels]] = {}
    for entry in entries:
        item = items[entry.image]
        if isinstance(item, Refusal):
            refused.append(item)
            continue
        if holdout and item.split is Split.POOL:
            refused.append(Refusal(entry.source, "the image is in the pool already and may be trained on: no hold-out"))
            continue
        tally["images"] += 1
        kept, faults, clipped = fit(entry, item, project.config.task, project.classes, ignore_unknown=ignore_unknown)
        refused += faults
        tally["clipped"] += clipped
        if kept is None:
            tally["unlabelled"] += 1
            continue
        earlier = taken.setdefault(item.key, (entry.source, kept))
        if earlier[1] != kept:
            refused.append(Refusal(entry.source, f"the same image as in {earlier[0]}, labelled otherwise"))
            continue
        tally["empty" if is_empty(kept) else "labelled"] += 1
        if as_truth:
            truths[item.key] = kept
        else:
            annotations[item.key] = annotation_of(item, kept, f"import:{format_name}")
    project.store.truth.put_all(truths)
    project.store.annotations.upsert(list(annotations.values()))
    added = sum(project.store.items.counts().values()) - before
    return ImportReport(
        tally["images"], added, tally["labelled"], tally["empty"], tally["unlabelled"], tally["clipped"], tuple(refused)
    )


class Exported(NamedTuple):
    """What an export wrote: images, and how many boxes that people turned stand there as the upright ones around them,
    since the format has no rotation.
    """

    images: int
    turned: int


def export_labels(project: Project, format_name: str, path: Path) -> Exported:
    """Writes what is labelled, pool and hold-out, reviewed-empty images included.

    Raises DataError where nothing is labelled yet or the folder holds something.
    """
    plugin = plugins.load(Kind.FORMAT, format_name, project.config.task)
    examples = [example for split in Split for example in project.store.annotations.examples(split)]
    if not examples:
        raise DataError("nothing is labelled yet: there is nothing to export")
    count: int = plugin.write(examples, path, project.config.task, project.classes)
    boxes = [example.labels for example in examples if isinstance(example.labels, Boxes)]
    turned = 0 if getattr(plugin, "KEEPS_ROTATION", False) else sum(int(found.rotated.sum()) for found in boxes)
    return Exported(count, turned)


def ingest_share(project: Project) -> float:
    """The share of new images that goes to the hold-out: none where a hold-out was given by hand."""
    return 0.0 if project.store.meta.get("holdout") == "by hand" else project.config.holdout.share


def fit(
    entry: LabelledFile, item: Item, task: Task, classes: Sequence[str], *, ignore_unknown: bool
) -> tuple[Labels | None, list[Refusal], int]:
    """The labels of an entry as they fit the image and the project: (labels, what was refused, boxes clipped).

    Labels of which nothing is left because of a fault become None, not "reviewed and empty": nobody said that.
    """
    size = entry.size if entry.size is not None and 0 not in entry.size else (item.width, item.height)
    if entry.labels is not None and size != (item.width, item.height):
        reason = f"labels for {size[0]}×{size[1]} pixels, but the image has {item.width}×{item.height} as displayed"
        return None, [Refusal(entry.source, reason)], 0
    match entry.labels, task:
        case None, _:
            return None, [], 0
        case Boxes() as boxes, Task.DETECT:
            return _fit_boxes(boxes, entry.source, item, classes, ignore_unknown)
        case Masks() as masks, Task.SEGMENT:
            kept, faults = _fit_masks(masks, entry.source, item, classes, ignore_unknown)
            return kept, faults, 0
        case ImageClass(name=name), Task.CLASSIFY:
            if name in classes:
                return entry.labels, [], 0
            return None, [] if ignore_unknown else [_unknown(entry.source, name, classes)], 0
    kind = type(entry.labels).__name__
    return None, [Refusal(entry.source, f"holds {kind}, which does not fit the task {task}")], 0


def write_refusals(path: Path, refused: Iterable[Refusal]) -> None:
    """One line a refusal: where, and why. Replaces the file whole."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "reason"])
        writer.writerows(refused)
    temporary.replace(path)


def _fit_boxes(
    boxes: Boxes, source: str, item: Item, classes: Sequence[str], ignore_unknown: bool
) -> tuple[Boxes | None, list[Refusal], int]:
    faults: list[Refusal] = []
    limits = np.asarray([item.width, item.height, item.width, item.height], np.float32)
    clipped = np.clip(boxes.xyxy, 0, limits)
    keep = []
    for at, name in enumerate(boxes.names):
        where = f"{source}, box {at + 1}"
        x1, y1, x2, y2 = clipped[at]
        if name not in classes:
            if not ignore_unknown:
                faults.append(_unknown(where, name, classes))
        elif x2 - x1 < 1e-3 or y2 - y1 < 1e-3:
            given = ", ".join(f"{value:g}" for value in boxes.xyxy[at])
            faults.append(Refusal(where, f"({given}) lies outside the image of {item.width}×{item.height} pixels"))
        else:
            keep.append(at)
    if faults and not keep:
        return None, faults, 0
    moved = int((np.abs(clipped[keep] - boxes.xyxy[keep]) > 1.0).any(axis=1).sum()) if keep else 0
    return arithmetic.pick(boxes, keep, clipped[keep]), faults, moved


def _fit_masks(
    masks: Masks, source: str, item: Item, classes: Sequence[str], ignore_unknown: bool
) -> tuple[Masks | None, list[Refusal]]:
    faults: list[Refusal] = []
    kept = {}
    for name, encoded in masks.by_name.items():
        if name not in classes:
            if not ignore_unknown:
                faults.append(_unknown(source, name, classes))
        elif (encoded.width, encoded.height) != (item.width, item.height):
            size = f"{encoded.width}×{encoded.height}"
            faults.append(
                Refusal(source, f"mask of {size} pixels for an image of {item.width}×{item.height} (as displayed)")
            )
        else:
            kept[name] = encoded
    return (None if faults and not kept else Masks(kept)), faults


def _unknown(where: str, name: str, classes: Sequence[str]) -> Refusal:
    return Refusal(where, f"unknown label {name!r}; the project's labels are {', '.join(classes)}")


def annotation_of(item: Item, kept: Labels, annotator: str) -> Annotation:
    """What a file says of an item, as an answer that any answer of a person replaces."""
    return Annotation(
        item_key=item.key,
        state=AnswerState.EMPTY if is_empty(kept) else AnswerState.LABELLED,
        labels=kept,
        annotator=annotator,
        external_id=f"{annotator}:{item.key}",
    )
