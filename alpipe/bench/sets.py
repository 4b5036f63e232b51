"""The labelled set of a bench: taken once from a project, its test set frozen and hashed before anything is trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from alpipe.acquisition.batch.duplicates import alike as alike_hashes
from alpipe.config import Config
from alpipe.errors import ConfigError, DataError
from alpipe.pool.store import NewItem
from alpipe.project import Project
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.steps.candidates import hashes_of
from alpipe.steps.importing import annotation_of
from alpipe.steps.models import hash_of_labels
from alpipe.types import AnswerState, Item, ItemState, Labels, Split

FACTS = "set.json"

TEST_IMAGES = "bench_test_images"
"""In the source's store: keys of the images of a set's own test part, where it has one. Others of the hold-out came
there by their groups, and belong to neither side.
"""

Alike = Callable[[Sequence[Item]], Iterable[Iterable[str]]]
"""Finds images that are nearly the same: groups of item keys. Such a group is then never on both sides of the test."""


ALIKE = 2
"""Bits in which hashes of near-duplicates differ at most, unless it is said. Groups are closed over chains, so that
with more bits images of one kind (hands before a wall, cells on black) soon hang together.
"""


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What the set holds, and what was left out of it: images without labels, unreadable ones, and pool images that
    belong with a test image (same group, or nearly the same). ``test_hash`` is over test images and their labels.
    """

    test: int
    pool: int
    test_hash: str
    unlabelled: int
    unreadable: int
    beside_test: int
    alike_searched: bool


def make(source: Project, folder: Path, config: Config, *, test_share: float | None, alike: Alike | None) -> SetFacts:
    """The set in the folder; one that is there stays as it is, whatever became of the project since.

    Test images are the project's labelled hold-out (of it those that TEST_IMAGES names, where it does), or with
    ``test_share`` that share of all labelled images, whole groups at a time, by a hash. Raises DataError where one of
    the sides would be empty.
    """
    if (folder / FACTS).is_file():
        return facts_of(folder)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    known, unlabelled, unreadable = _known(source)
    units = _units([item for item, _ in known], alike)
    if test_share is None:
        named = json.loads(source.store.meta.get(TEST_IMAGES) or "null")
        held_out = {item.key for item, _ in known if item.split is Split.HOLDOUT}
        test = held_out if named is None else held_out & set(named)
        if not test:
            raise DataError(
                f"{source.root} has no labelled hold-out to test on: say --test-share 0.3 to set images aside"
            )
    else:
        test = {item.key for item, _ in known if _fraction(units[item.key]) < test_share}
    test_units = {units[key] for key in test}
    beside = {item.key for item, _ in known if item.key not in test and units[item.key] in test_units}
    if test_share is None:
        beside |= held_out - test
    with Project.create(temporary, config) as project:
        kept = [(item, labels) for item, labels in known if item.key not in beside]
        project.store.items.add(_new(source, item, held_out=item.key in test) for item, _ in kept)
        items = {item.key: item for item in project.store.items.list()}
        answers = [annotation_of(items[item.key], labels, "import:bench") for item, labels in kept if item.key in test]
        project.store.annotations.upsert(answers)
        project.store.truth.put_all({item.key: labels for item, labels in kept if item.key not in test})
        project.store.meta.set("holdout", "by hand")
        digest = hash_of_labels(project.store.annotations.examples(Split.HOLDOUT))[:16]
    facts = SetFacts(
        len(test), len(kept) - len(test), digest, unlabelled, unreadable, len(beside), alike_searched=alike is not None
    )
    if not facts.test or not facts.pool:
        raise DataError(f"{facts.test} test images and {facts.pool} to choose from: both are needed")
    (temporary / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
    temporary.replace(folder)
    return facts


def near_duplicates(source: Project, bits: int, progress: ProgressCallback = no_progress) -> Alike:
    """Finds images by their perceptual hashes, which are kept in the source's store: each is read for it once."""

    def find(items: Sequence[Item]) -> Iterable[Iterable[str]]:
        groups = alike_hashes(hashes_of(source, items, progress), bits)
        return [[items[row].key for row in rows] for rows in groups]

    return find


def facts_of(folder: Path) -> SetFacts:
    """What a set that was made holds. Raises ConfigError where it is damaged."""
    try:
        return SetFacts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder / FACTS}: damaged ({error}); choose another --out") from error


def _known(source: Project) -> tuple[list[tuple[Item, Labels]], int, int]:
    """The images whose labels are known, by an answer or by the truth kept aside, in the order of their keys."""
    answers = source.store.annotations.latest()
    known, counts = [], Counter[str]()
    for item in source.store.items.iterate():
        if item.state is ItemState.QUARANTINED:
            counts["unreadable"] += 1
            continue
        answer = answers.get(item.key)
        said = answer is not None and answer.state in (AnswerState.LABELLED, AnswerState.EMPTY)
        labels = answer.labels if said and answer is not None else source.store.truth.get(item.key)
        if labels is None:
            counts["unlabelled"] += 1
        else:
            known.append((item, labels))
    return known, counts["unlabelled"], counts["unreadable"]


def _units(items: Sequence[Item], alike: Alike | None) -> dict[str, str]:
    """Key → name of what must stay on one side: groups, and what is nearly the same, joined where they overlap."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    def join(a: str, b: str) -> None:
        first, second = sorted((root(a), root(b)))
        parent[second] = first

    for item in items:
        join(f"item {item.key}", f"item {item.key}" if item.group is None else f"group {item.group}")
    for group in alike(items) if alike is not None else ():
        keys = [*group]
        for key in keys[1:]:
            join(f"item {keys[0]}", f"item {key}")
    return {item.key: root(f"item {item.key}") for item in items}


def _fraction(unit: str) -> float:
    digest = hashlib.blake2b(f"bench test:{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _new(source: Project, item: Item, *, held_out: bool) -> NewItem:
    details = source.store.items.details(item.key)
    more = (
        {} if details is None else {name: getattr(details, name) for name in ("format", "mode", "orientation", "note")}
    )
    split = Split.HOLDOUT if held_out else Split.POOL
    return NewItem(item.key, item.uri, item.width, item.height, item.group, split, **more)
