"""The store: made and migrated, its items, scores, models and negatives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from alpipe.errors import StoreError
from alpipe.pool import schema
from alpipe.pool.database import CHUNK
from alpipe.pool.store import NewItem, PoolStore
from alpipe.pool.tables import metadata
from alpipe.types import ItemState, Negative, NegativeState, Refusal, RegionAnswer, Score, Split


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'pool.db'}"


@pytest.fixture
def store(url: str) -> Iterator[PoolStore]:
    with PoolStore.open(url) as opened:
        yield opened


def key(number: int) -> str:
    return f"{number:020x}"


def new(number: int, split: Split = Split.POOL, **more: object) -> NewItem:
    return NewItem(key(number), f"/images/{number}.jpg", 640, 480, split=split, **more)  # type: ignore[arg-type]


# ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrations_from_nothing_give_the_tables_that_the_code_uses(store: PoolStore) -> None:
    def ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind == "table" and name == schema.VERSION_TABLE)

    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_store_is_in_wal_mode_with_foreign_keys_and_patience(store: PoolStore) -> None:
    with store.database.read() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 1, 30_000]


def test_opening_a_current_store_imports_no_alembic(store: PoolStore, url: str) -> None:
    code = f"import sys; from alpipe.pool.store import PoolStore; PoolStore.open({url!r}).close(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert not modules & {"alembic", "torch", "pandas", "sklearn", "prefect"}


def test_what_was_kept_is_there_when_opened_again(url: str) -> None:
    with PoolStore.open(url) as store:
        store.items.add([new(1)])
        store.meta.set("watermark", "12")
        store.meta.set("watermark", "13")
    with PoolStore.open(url) as store:
        assert store.items.get(key(1)) is not None
        assert store.meta.get("watermark") == "13"
        assert store.meta.get("other") is None


def test_many_may_open_a_new_store_at_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = [*pool.map(PoolStore.open, [url] * 8)]
    for number, store in enumerate(stores):
        store.items.add([new(number)])
    assert stores[0].items.counts() == {"unlabelled": 8}
    for store in stores:
        store.close()


def test_a_store_of_a_newer_alpipe_is_refused(store: PoolStore, url: str) -> None:
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE alpipe_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer alpipe"):
        PoolStore.open(url)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE items (id INTEGER)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="something else"):
        PoolStore.open(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("pool.db", "no URL"),
        ("nosuch:///pool.db", "no URL"),
        ("sqlite://", "in memory"),
        ("mysql://localhost/pool", "SQLite or PostgreSQL"),
        ("sqlite:////no/such/folder/pool.db", "unable to open"),
    ],
)
def test_a_url_that_cannot_be_opened_is_a_stated_failure(bad: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        PoolStore.open(bad)


def test_a_file_that_is_no_database_is_a_stated_failure(tmp_path: Path) -> None:
    (tmp_path / "pool.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="not a database"):
        PoolStore.open(f"sqlite:///{tmp_path / 'pool.db'}")


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adding_again_adds_nothing_but_remembers_further_files(store: PoolStore) -> None:
    assert store.items.add([new(1), new(2)]) == {key(1), key(2)}
    again = NewItem(key(1), "/elsewhere/1.jpg", 1, 1, split=Split.HOLDOUT)
    assert store.items.add([again]) == set()
    item = store.items.get(key(1))
    assert item is not None
    assert (item.uri, item.width, item.split) == ("/images/1.jpg", 640, Split.POOL)
    assert store.items.paths(key(1)) == ["/images/1.jpg", "/elsewhere/1.jpg"]


def test_items_are_listed_in_the_order_of_their_keys_or_of_the_keys_given(store: PoolStore) -> None:
    store.items.add(new(number, Split.HOLDOUT if number % 3 == 0 else Split.POOL) for number in (5, 3, 1, 4, 2))
    store.items.set_state([key(4)], ItemState.SELECTED)

    def listed(**wanted: object) -> list[int]:
        return [int(item.key, 16) for item in store.items.list(**wanted)]  # type: ignore[arg-type]

    assert listed() == [1, 2, 3, 4, 5]
    assert listed(split=Split.POOL, states=[ItemState.UNLABELLED]) == [1, 2, 5]
    assert listed(states=ItemState.SELECTED) == [4]
    assert listed(limit=2, offset=1) == [2, 3]
    assert listed(offset=3) == [4, 5]
    assert listed(keys=[key(3), key(9), key(1)]) == [3, 1]
    assert listed(keys=[key(4), key(2), key(5)], split=Split.POOL, limit=2) == [4, 2]
    assert [*store.items.iterate(split=Split.POOL, batch=2)] == store.items.list(split=Split.POOL)


def test_iterating_goes_on_while_the_items_change(store: PoolStore) -> None:
    store.items.add(map(new, range(10)))
    seen = []
    for item in store.items.iterate(states=ItemState.UNLABELLED, batch=3):
        seen.append(item.key)
        store.items.set_state([item.key], ItemState.SKIPPED)
    assert len(seen) == 10


def test_states_are_counted_by_split_and_moved_only_from_where_they_should_be(store: PoolStore) -> None:
    store.items.add(new(number, Split.HOLDOUT if number < 2 else Split.POOL) for number in range(5))
    assert store.items.set_state([key(1), key(2)], ItemState.SELECTED) == 2
    moved = store.items.set_state(map(key, range(5)), ItemState.PUSHED, where=[ItemState.SELECTED])
    assert moved == 2
    assert store.items.counts() == {"unlabelled": 3, "pushed": 2} == store.items.count_by_state()
    assert store.items.counts(Split.HOLDOUT) == {"unlabelled": 1, "pushed": 1}


def test_quarantined_items_are_listed_with_every_path_and_the_reason(store: PoolStore) -> None:
    store.items.add([new(1), new(2)])
    store.items.add([NewItem(key(1), "/elsewhere/1.jpg", 1, 1)])
    store.items.quarantine([Refusal(key(1), "the file is gone")])
    reason = "the file is gone"
    assert store.items.quarantined() == [("/elsewhere/1.jpg", reason), ("/images/1.jpg", reason)]
    details = store.items.details(key(1))
    assert details is not None
    assert details.refusal == reason


def test_more_keys_than_a_statement_holds(store: PoolStore) -> None:
    keys = [key(number) for number in range(3 * CHUNK + 7)]
    store.items.add(NewItem(name, f"/{name}", 10, 10) for name in keys)
    assert [item.key for item in store.items.list(keys=reversed(keys))] == keys[::-1]
    assert store.items.set_state(keys, ItemState.SELECTED) == len(keys)
    store.scores.put("m", [Score(name, 0.5) for name in keys])
    assert len(store.scores.of("m", keys)) == len(keys)
    assert store.annotations.latest(keys) == {}


# ── scores, negatives, models ───────────────────────────────────────────────────────────────────────────────────────


def test_scores_are_replaced_and_what_has_none_is_missing(store: PoolStore) -> None:
    store.items.add([*map(new, range(4)), new(9, Split.HOLDOUT)])
    store.scores.put("m", [Score(key(1), 0.2), Score(key(2), 0.9)])
    store.scores.put("m", [Score(key(1), 0.9)])
    assert store.scores.of("m") == [Score(key(1), 0.9), Score(key(2), 0.9)]
    assert store.scores.of("m", [key(2), key(3)]) == [Score(key(2), 0.9)]
    assert store.scores.top("m", 1) == [Score(key(1), 0.9)]
    assert [item.key for item in store.scores.missing("m")] == [key(0), key(3)]
    assert [item.key for item in store.scores.missing("m", split=None)] == [key(0), key(3), key(9)]
    assert [item.key for item in store.scores.missing("other")] == [key(n) for n in range(4)]
    store.items.set_state([key(1)], ItemState.SELECTED)
    assert store.scores.top("m", 5) == [Score(key(2), 0.9)]


def negative(number: int, left: float, name: str = "cell") -> Negative:
    return Negative(key(number), (left, 0.0, left + 10.0, 10.0), name, 0.75, 0.125)


def test_a_round_mined_again_replaces_its_negatives(store: PoolStore) -> None:
    store.items.add(map(new, range(3)))
    store.negatives.replace(1, "m1", [negative(0, 0), negative(1, 0)])
    store.negatives.replace(1, "m1", [negative(0, 50)])
    assert store.negatives.all() == [negative(0, 50)]
    assert store.negatives.count(1) == 1


def entries(store: PoolStore) -> dict[float, tuple[str, int, float]]:
    """Of each entry of the bank by its left edge: state, round, newest score."""
    return {e.negative.box[0]: (str(e.state), e.round, e.score) for e in store.negatives.entries()}


def test_a_later_round_scores_anew_and_lets_go_what_became_easy(store: PoolStore) -> None:
    store.items.add(map(new, range(3)))
    store.negatives.replace(1, "m1", [negative(0, 0), negative(0, 100)])
    first, second = (entry.key for entry in store.negatives.entries())
    store.negatives.replace(2, "m2", [negative(0, 200)], scores={first: 0.9, second: 0.1}, evicted=[second])
    assert entries(store) == {0: ("hard", 1, 0.9), 100: ("easy", 1, 0.1), 200: ("hard", 2, 0.75)}
    assert [one.box[0] for one in store.negatives.all()] == [0, 200]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 5), max_size=4, unique=True), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_a_round_mined_again_leaves_the_bank_as_if_mined_once(mined, evicted, first_evicted) -> None:
    with TemporaryDirectory() as folder, PoolStore.open(f"sqlite:///{folder}/pool.db") as store:
        store.items.add([new(0)])
        store.negatives.replace(1, "m1", [negative(0, 50.0 * at) for at in range(6)])
        keys = [entry.key for entry in store.negatives.entries()]
        started = [entry.key for entry in store.negatives.before(2)]

        def mine(gone: set[int]) -> None:
            found = [negative(0, 1000 + 50.0 * at) for at in mined]
            questions = {negative(0, 2000.0): "looks like one"}
            scores = dict.fromkeys(keys, 0.5)
            store.negatives.replace(2, "m2", found, questions=questions, scores=scores, evicted=[keys[n] for n in gone])

        mine(evicted)
        once = store.negatives.entries()
        mine(first_evicted)
        assert [entry.key for entry in store.negatives.before(2)] == started
        mine(evicted)
        assert store.negatives.entries() == once


def test_a_question_is_not_trained_on_until_a_person_says_that_no_object_is_there(store: PoolStore) -> None:
    store.items.add([new(0)])
    store.negatives.replace(
        1, "m", [], questions={negative(0, 0): "sure", negative(0, 50): "sure", negative(0, 90): ""}
    )
    assert store.negatives.all() == []
    assert len(store.negatives.all(questions=True)) == 3
    empty, full, open_ = store.negatives.questions()
    assert (empty.item.key, empty.name, empty.reason) == (key(0), "cell", "sure")
    said = [RegionAnswer(empty.key, False, "labelstudio:3"), RegionAnswer(full.key, True, "labelstudio:3")]
    assert store.negatives.settle([*said, RegionAnswer("gone", True, "x")]) == (2, ("gone",))
    assert [one.box for one in store.negatives.all()] == [empty.box]
    assert store.negatives.questions() == [open_]
    store.negatives.replace(1, "m", [], questions={Negative(key(0), empty.box, "cell", 0.75, 0.125): "sure"})
    assert {e.key: (e.state, e.settled_by) for e in store.negatives.entries()} == {
        empty.key: (NegativeState.CONFIRMED, "labelstudio:3"),
        full.key: (NegativeState.OBJECT, "labelstudio:3"),
    }  # what people said stays when the round is mined again
    store.negatives.replace(2, "m2", [], scores={empty.key: 0.0}, evicted=[empty.key])
    assert [one.box for one in store.negatives.all()] == [empty.box]


def test_questions_that_the_newest_model_has_given_up_are_not_asked(store: PoolStore) -> None:
    store.items.add([new(0)])
    store.negatives.replace(1, "m", [], questions={negative(0, 0): "sure"})
    (question,) = store.negatives.questions(0.3)
    store.negatives.replace(2, "m2", [], scores={question.key: 0.1})
    assert store.negatives.questions(0.3) == []
    assert len(store.negatives.questions()) == 1


OLD_BANK = (
    "ALTER TABLE round_items DROP COLUMN control",
    "ALTER TABLE round_items DROP COLUMN error",
    "ALTER TABLE annotations DROP COLUMN edits",
    "DROP TABLE questions",
    "DROP TABLE embeddings",
    "DROP TABLE negatives",
    """CREATE TABLE negatives (
        id INTEGER NOT NULL, round INTEGER NOT NULL, model TEXT NOT NULL, item_key VARCHAR(20) NOT NULL,
        x1 FLOAT NOT NULL, y1 FLOAT NOT NULL, x2 FLOAT NOT NULL, y2 FLOAT NOT NULL, name TEXT NOT NULL,
        score FLOAT NOT NULL, iou FLOAT NOT NULL, active BOOLEAN NOT NULL, CONSTRAINT pk_negatives PRIMARY KEY (id),
        CONSTRAINT fk_negatives_item_key FOREIGN KEY(item_key) REFERENCES items (key)
    )""",
    "CREATE INDEX ix_negatives_item_key ON negatives (item_key)",
    "CREATE INDEX ix_negatives_round ON negatives (round)",
    "UPDATE alpipe_version SET version_num = '0003'",
)
"""The table as it was before the bank."""


def test_a_bank_of_before_is_taken_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with PoolStore.open(url) as store:
        store.items.add([new(0)])
        with store.database.write() as connection:
            for statement in OLD_BANK:
                connection.exec_driver_sql(statement)
            rows = [
                (1, 3, "m", key(0), 0, 0, 9, 9, "cell", 0.5, 0, 1),
                (2, 4, "m", key(0), 50, 0, 59, 9, "cell", 0.6, 0, 0),
            ]
            connection.exec_driver_sql(f"INSERT INTO negatives VALUES ({', '.join('?' * 12)})", rows)  # noqa: S608
    with PoolStore.open(url) as store:
        assert entries(store) == {0: ("hard", 3, 0.5), 50: ("stale", 4, 0.6)}
        store.negatives.replace(5, "m", [negative(0, 0)])
        assert len(store.negatives.all()) == 2


def test_the_model_of_the_highest_round_is_the_latest(store: PoolStore) -> None:
    assert store.models.latest() is None
    for number in (2, 10, 9):
        store.models.put(
            name=f"round-{number}",
            round=number,
            folder=f"models/{number}",
            learner="detector",
            sha256="a" * 64,
            data_hash="b",
            description={"classes": ["cell"]},
        )
    latest = store.models.latest()
    assert latest is not None
    assert (latest.name, latest.description) == ("round-10", {"classes": ["cell"]})
    assert store.models.get("round-9") == store.models.list()[1]
    assert store.models.get("none") is None
