"""Images into the pool: adding again adds nothing, the split never moves, and no file disappears in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alpipe.errors import ConfigError, DataError
from alpipe.pool import ingest
from alpipe.pool.ingest import AddReport
from alpipe.pool.store import PoolStore
from alpipe.types import Annotation, AnswerState, ImageClass, Item, ItemState, Progress, Refusal, Split


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PoolStore]:
    with PoolStore.open(f"sqlite:///{tmp_path / 'pool.db'}") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def image(path: Path, seed: int, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def images(folder: Path, count: int, name: Callable[[int], str] = "{}.png".format) -> list[Path]:
    return [image(folder / name(number), number) for number in range(count)]


def total(report: AddReport) -> int:
    return report.added + report.duplicates + report.already_known + len(report.quarantined)


# ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_folders_are_searched_deeply_and_what_is_no_image_is_counted(folder: Path) -> None:
    wanted = [folder / name for name in ("a.JPG", "b/c.png", "b/d/e.tiff")]
    for path in [*wanted, folder / "b/labels.xml", folder / "readme", folder / ".hidden.png", folder / ".git/x.png"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = ingest.find_images([folder])
    assert (set(found.files), found.ignored) == (set(wanted), 2)
    assert set(ingest.find_images([f"{folder}/**/*.png", folder / "a.JPG"]).files) == {wanted[0], wanted[1]}
    assert ingest.find_images([folder / "readme"]).files == (folder / "readme",)
    assert ingest.find_images([folder, folder]).files == found.files


def test_links_in_a_circle_are_walked_once(folder: Path) -> None:
    images(folder, 2)
    (folder / "again").symlink_to(folder)
    (folder / "sub").mkdir()
    (folder / "sub/up").symlink_to(folder)
    assert len(ingest.find_images([folder]).files) == 2


def test_a_path_that_gives_nothing_is_a_stated_failure(folder: Path) -> None:
    (folder / "labels.txt").touch()
    for name, reason in (
        ("none", "no such"),
        ("*.png", "nothing matches"),
        ("", "no file"),
        ("labels.txt", "no file"),
    ):
        with pytest.raises(DataError, match=reason):
            ingest.find_images([folder / name])


# ── adding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adding_again_adds_nothing_and_reads_nothing(
    store: PoolStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(folder, 7)
    assert ingest.add(store, [folder]) == AddReport(added=7)
    before = store.items.list()

    def unread(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(ingest, "content_key", unread)
    assert ingest.add(store, [folder]) == AddReport(already_known=7)
    assert store.items.list() == before


def test_the_key_is_the_hash_of_the_bytes_and_the_facts_are_kept(store: PoolStore, folder: Path) -> None:
    path = image(folder / "a.png", 1, (8, 6))
    ingest.add(store, [path])
    [item] = store.items.list()
    key = blake2b(path.read_bytes(), digest_size=10).hexdigest()
    assert item == Item(key, str(path), 8, 6, None, Split.POOL, ItemState.UNLABELLED)
    details = store.items.details(key)
    assert details is not None
    assert (details.format, details.mode, details.frames, details.note) == ("PNG", "RGB", 1, "")


def test_files_of_the_same_bytes_are_one_item_with_all_its_paths(store: PoolStore, folder: Path) -> None:
    for name in ("a.png", "b.png", "c/d.png"):
        image(folder / name, 1)
    report = ingest.add(store, [folder])
    assert report == AddReport(added=1, duplicates=2)
    [item] = store.items.list()
    assert store.items.paths(item.key) == [str(folder / name) for name in ("a.png", "b.png", "c/d.png")]


def test_files_that_cannot_be_read_are_quarantined_with_the_reason_until_they_change(
    store: PoolStore, folder: Path
) -> None:
    good, cut = images(folder, 2)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    for _ in range(2):
        report = ingest.add(store, [folder])
        assert {refusal.source for refusal in report.quarantined} == {str(cut), str(folder / "empty.jpg")}
        assert total(report) == 3
    assert store.items.counts() == {"unlabelled": 1, "quarantined": 2}
    assert [path for path, _ in store.items.quarantined()] == [str(cut), str(folder / "empty.jpg")]
    cut.write_bytes(whole)
    report = ingest.add(store, [folder])
    assert (report.added, report.already_known, len(report.quarantined)) == (1, 1, 1)
    assert store.items.counts() == {"unlabelled": 2, "quarantined": 1}
    assert good.exists()


def test_every_file_is_counted_once(store: PoolStore, folder: Path) -> None:
    images(folder, 3)
    image(folder / "copy.png", 0)
    (folder / "bad.png").write_bytes(b"bad")
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    (folder / "notes.txt").touch()
    assert total(ingest.add(store, [folder])) == total(ingest.add(store, [folder])) == 6
    assert ingest.add(store, [folder]).ignored == 1


def test_a_file_that_may_not_be_read_is_looked_at_again_each_time(
    store: PoolStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    [path] = images(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "content_key", forbidden)  # root may read every file, so no mode would do
        for _ in range(2):
            report = ingest.add(store, [folder])
            assert report.quarantined == (Refusal(str(path), "it cannot be read: permission denied"),)
    assert store.items.counts() == {"quarantined": 1}
    assert ingest.add(store, [folder]).added == 1
    assert store.items.counts() == {"unlabelled": 1}


def test_a_pipe_is_refused_and_not_waited_for(store: PoolStore, folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    assert ingest.add(store, [folder]).quarantined == (Refusal(str(folder / "pipe.jpg"), "it is not a file"),)


def test_a_name_that_is_no_utf8_is_refused_in_words_that_can_be_printed(store: PoolStore, folder: Path) -> None:
    path = os.fsencode(folder) + b"/\xff\xfe.png"
    try:
        Path(os.fsdecode(path)).write_bytes(image(folder / "a.png", 1).read_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    report = ingest.add(store, [folder])
    assert report.added == 1
    [refusal] = report.quarantined
    assert refusal.source.endswith("\\xff\\xfe.png")
    assert "not UTF-8" in refusal.reason


def test_an_image_whose_file_was_replaced_is_quarantined_with_its_labels_until_its_bytes_return(
    store: PoolStore, folder: Path
) -> None:
    [path] = images(folder, 1)
    ingest.add(store, [folder])
    [old] = store.items.list()
    store.annotations.upsert([Annotation(old.key, AnswerState.LABELLED, ImageClass("cat"), "labelstudio:1", "1")])
    original = path.read_bytes()
    image(path, 99, (9, 9))
    assert ingest.add(store, [folder]).added == 1
    assert store.annotations.examples(Split.POOL) == []  # the labels are not those of what is there now
    assert [path for path, _ in store.items.quarantined()] == [old.uri]
    (folder / "back.png").write_bytes(original)
    assert ingest.add(store, [folder]) == AddReport(already_known=1, duplicates=1)
    [example] = store.annotations.examples(Split.POOL)
    assert (example.item.key, example.item.uri) == (old.key, str(folder / "back.png"))


def test_an_image_goes_on_with_another_file_of_its_bytes_when_one_is_replaced(store: PoolStore, folder: Path) -> None:
    image(folder / "a.png", 1)
    image(folder / "b.png", 1)
    ingest.add(store, [folder])
    image(folder / "a.png", 2)
    ingest.add(store, [folder])
    assert {Path(item.uri).name for item in store.items.list(states=ItemState.UNLABELLED)} == {"a.png", "b.png"}


def test_a_folder_that_was_moved_is_found_again(store: PoolStore, folder: Path) -> None:
    images(folder, 3)
    ingest.add(store, [folder])
    moved = folder.rename(folder.with_name("moved"))
    assert ingest.add(store, [moved]) == AddReport(duplicates=3, moved=3)
    assert all(item.path.parent == moved for item in store.items.list())
    assert store.items.counts() == {"unlabelled": 3}


# ── the split ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), cut=st.integers(1, 11), share=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_the_split_does_not_depend_on_the_order_and_groups_never_straddle_it(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int, share: float
) -> None:
    folder = tmp_path_factory.mktemp("split")
    paths = images(folder, 12, lambda number: f"video{number % 4}_{number}.png")
    group_of = ingest.group_by_regex(r"(video[012])_")  # video3 has no group: each frame goes by itself
    with PoolStore.open(f"sqlite:///{folder / 'pool.db'}") as store:
        for part in (order[:cut], order[cut:]):
            chosen = [paths[at] for at in part]
            ingest.add_files(store, chosen, holdout_share=share, salt="s", group_of=group_of, workers=1)
        items = store.items.list()
    held_out = {item.path.name for item in items if item.split is Split.HOLDOUT}
    for item in items:
        unit = item.group or item.key
        fraction = int.from_bytes(blake2b(f"s{unit}".encode(), digest_size=8).digest(), "big") / 2**64
        assert (item.path.name in held_out) == (fraction < share)
    for video in range(3):
        assert len({item.split for item in items if item.group == f"video{video}"}) == 1
    assert sum(item.group is None for item in items) == 3


def test_the_share_of_the_hold_out_is_about_what_was_asked() -> None:
    from alpipe.pool.arrivals import SplitRule

    sides = [SplitRule(False, 0.2, "1").side(str(number)) for number in range(5000)]
    assert abs(sides.count(Split.HOLDOUT) / 5000 - 0.2) < 0.02
    assert sides != [SplitRule(False, 0.2, "2").side(str(number)) for number in range(5000)]


def test_the_side_of_what_is_known_never_changes(store: PoolStore, folder: Path) -> None:
    old = images(folder / "old", 3, "cat_{}.png".format)
    ingest.add(store, old, group_of=ingest.group_by_regex("cat|dog"))
    new = [image(folder / "new" / f"{name}_9.png", seed) for seed, name in ((50, "cat"), (51, "dog"))]
    report = ingest.add(store, [*old, *new], holdout=True, group_of=ingest.group_by_regex("cat|dog"))
    assert report == AddReport(added=2, holdout_added=1, already_known=3, stayed_in_pool=4)
    assert [item.path for item in store.items.list(split=Split.HOLDOUT)] == [new[1]]
    ingest.add(store, [image(folder / "dog_1.png", 60)], group_of=ingest.group_by_regex("cat|dog"))
    assert store.items.counts(Split.HOLDOUT) == {"unlabelled": 2}


def test_of_two_groups_with_the_same_bytes_the_first_has_them(store: PoolStore, folder: Path) -> None:
    paths = [image(folder / name / "a.png", 1) for name in ("x", "y")]
    ingest.add_files(store, paths, group_of=lambda path: path.parent.name)
    assert [item.group for item in store.items.list()] == ["x"]


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(store: PoolStore, folder: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        ingest.add(store, images(folder, 1), holdout_share=share)


def test_a_group_expression_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        ingest.group_by_regex("(")


# ── looking up, progress, being killed ──────────────────────────────────────────────────────────────────────────────


def test_lookup_gives_each_path_its_item_or_the_reason(
    store: PoolStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, fresh = images(folder, 2)
    ingest.add(store, [known])
    bad = folder / "bad.png"
    bad.write_bytes(b"bad")
    twin = image(folder / "twin.dat", 0)
    monkeypatch.chdir(folder)
    paths = [known, fresh, Path("1.png"), twin, bad, folder / "none.png"]
    for _ in range(2):
        found = ingest.lookup(store, paths)
        assert [*found] == paths
        assert found[known] == found[twin] != found[fresh] == found[Path("1.png")]
        assert found[folder / "none.png"] == Refusal(str(folder / "none.png"), "there is no such file")
        refusal = found[bad]
        assert isinstance(refusal, Refusal)
        assert "not an image" in refusal.reason


def test_progress_counts_every_file_to_the_end(store: PoolStore, folder: Path) -> None:
    paths = images(folder, 5)
    ingest.add(store, paths[:2])
    told: list[Progress] = []
    ingest.add(store, [folder], progress=told.append)
    assert [step.done for step in told] == [2, 3, 4, 5]
    assert {step.total for step in told} == {5}


KILLED = """
import os, signal, sys
from alpipe.pool import ingest
from alpipe.pool.store import PoolStore
ingest.BATCH = 4
def progress(step):
    if step.done == 10:
        os.kill(os.getpid(), signal.SIGKILL)
with PoolStore.open(sys.argv[1]) as store:
    ingest.add(store, [sys.argv[2]], progress=progress)
"""


def test_an_addition_that_was_killed_goes_on_where_it_was(tmp_path: Path, folder: Path) -> None:
    images(folder, 15)
    url = f"sqlite:///{tmp_path / 'pool.db'}"
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    with PoolStore.open(url) as store:
        assert store.items.counts() == {"unlabelled": 8}
        assert ingest.add(store, [folder]) == AddReport(added=7, already_known=8)
