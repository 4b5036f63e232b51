"""The ledger of rounds: a step is done by one run at a time, and a run that died is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alpipe.errors import DataError, StoreError
from alpipe.pool.lease import keep_alive, owner_id, owner_is_dead
from alpipe.pool.store import NewItem, PoolStore, Round
from alpipe.types import ItemState

ME, OTHER = "elsewhere:1:5-abc", "elsewhere:2:6-abc"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'pool.db'}"


@pytest.fixture
def store(url: str) -> Iterator[PoolStore]:
    with PoolStore.open(url) as opened:
        opened.items.add([NewItem(key(number), f"/{number}.jpg", 9, 9) for number in range(5)])
        opened.rounds.open(0, "train", seed=7, config={"batch": 5}, versions={"python": "3.11"})
        yield opened


def key(number: int) -> str:
    return f"{number:020x}"


def current(store: PoolStore) -> Round:
    found = store.rounds.current()
    assert found is not None
    return found


# ── the state machine ───────────────────────────────────────────────────────────────────────────────────────────────


def test_opening_a_round_again_leaves_it_as_it_is(store: PoolStore) -> None:
    store.rounds.open(0, "score", seed=9, config={}, versions={})
    round_ = current(store)
    assert (round_.number, round_.step, round_.seed, round_.config) == (0, "train", 7, {"batch": 5})
    store.rounds.open(1, "train", seed=8, config={}, versions={})
    assert [round_.number for round_ in store.rounds.list()] == [0, 1]
    assert current(store).number == 1


def test_a_step_is_claimed_by_one_and_only_while_it_is_the_next(store: PoolStore) -> None:
    assert not store.rounds.claim(0, "score", ME, 60)
    assert store.rounds.claim(0, "train", ME, 60)
    assert store.rounds.claim(0, "train", ME, 60)
    assert not store.rounds.claim(0, "train", OTHER, 60)
    assert not store.rounds.claim(1, "train", OTHER, 60)
    assert store.rounds.owner(0) == ME
    store.rounds.release(0, OTHER)
    assert store.rounds.owner(0) == ME
    store.rounds.release(0, ME)
    assert store.rounds.claim(0, "train", OTHER, 60)


def test_a_lease_that_ran_out_is_taken_over_and_its_owner_can_finish_no_more(store: PoolStore) -> None:
    assert store.rounds.claim(0, "train", ME, -1)
    assert store.rounds.claim(0, "train", OTHER, 60)
    assert not store.rounds.renew(0, ME, 60)
    assert not store.rounds.finish(0, "train", "evaluate", ME, seconds=1)
    assert store.rounds.renew(0, OTHER, 60)
    assert store.rounds.finish(0, "train", "evaluate", OTHER, seconds=1)
    assert not store.rounds.finish(0, "train", "evaluate", OTHER, seconds=1)


def test_a_finished_step_leaves_its_facts_and_lets_go(store: PoolStore) -> None:
    store.rounds.claim(0, "train", ME, 60)
    facts = {"model": "round-0", "model_hash": "ab", "data_hash": "cd", "labelled": 12, "counts": {"trained": 12}}
    assert store.rounds.finish(0, "train", "evaluate", ME, seconds=2.5, **facts)
    assert current(store).owner is None
    store.rounds.claim(0, "evaluate", OTHER, 60)
    facts = {"metric": "mAP", "value": 0.5, "metrics": {"AP50": 0.75}, "holdout_count": 3, "counts": {"judged": 3}}
    assert store.rounds.finish(0, "evaluate", None, OTHER, seconds=1, **facts)
    round_ = current(store)
    assert round_.step is None
    assert round_.finished_at is not None
    assert round_.finished_at >= round_.started_at
    assert round_.counts == {"trained": 12, "judged": 3}
    assert round_.timings == {"train": 2.5, "evaluate": 1.0}
    assert (round_.model, round_.labelled, round_.value, round_.metrics) == ("round-0", 12, 0.5, {"AP50": 0.75})
    assert not store.rounds.claim(0, "train", ME, 60)


def test_facts_that_cannot_be_kept_are_refused_before_anything_is_recorded(store: PoolStore) -> None:
    store.rounds.claim(0, "train", ME, 60)
    with pytest.raises(DataError, match="metrics of the round"):
        store.rounds.finish(0, "train", None, ME, seconds=1, metrics={"AP": float("nan")})
    with pytest.raises(TypeError, match="speed"):
        store.rounds.finish(0, "train", None, ME, seconds=1, speed=3)
    assert current(store).step == "train"


def test_of_many_threads_one_gets_the_step(store: PoolStore) -> None:
    gate = threading.Barrier(8)

    def claim(number: int) -> bool:
        gate.wait()
        return store.rounds.claim(0, "train", f"elsewhere:{number}:1", 60)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


CLAIM = """
import sys
from alpipe.pool.lease import owner_id
from alpipe.pool.store import PoolStore
store = PoolStore.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(store.rounds.claim(0, "train", owner_id(), 3600), flush=True)
sys.stdin.readline()  # holds the step until it is killed
"""


def claimant(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_of_several_processes_one_gets_the_step_and_is_taken_over_once_killed(store: PoolStore, url: str) -> None:
    processes = [claimant(url) for _ in range(3)]
    try:
        for process in processes:
            go(process)
        got = [process.stdout.readline() == "True\n" for process in processes if process.stdout]
        assert sorted(got) == [False, False, True]
        assert not store.rounds.claim(0, "train", owner_id(), 60)  # an hour's lease, and its owner lives
        holder = processes[got.index(True)]
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert store.rounds.claim(0, "train", owner_id(), 60)
    finally:
        for process in processes:
            end(process)


# ── owners ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_this_process_is_alive_and_its_name_is_always_the_same() -> None:
    assert owner_id() == owner_id()
    assert not owner_is_dead(owner_id())


@pytest.mark.parametrize("owner", ["", "nonsense", "elsewhere:1:2", ":::", "host:x:y"])
def test_an_owner_that_cannot_be_checked_from_here_counts_as_alive(owner: str) -> None:
    assert not owner_is_dead(owner)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are read from /proc")
def test_a_process_that_got_the_number_of_a_dead_one_is_another() -> None:
    host, pid, _ = owner_id().rsplit(":", 2)
    assert owner_is_dead(f"{host}:{pid}:1-other")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process was reaped is read from /proc")
def test_a_process_killed_but_not_yet_reaped_is_dead() -> None:
    code = "from alpipe.pool.lease import owner_id; print(owner_id(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    owner = process.stdout.readline().strip()
    assert not owner_is_dead(owner)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    assert owner_is_dead(owner)
    process.communicate()
    assert owner_is_dead(owner)


def test_the_heartbeat_renews_until_it_is_refused() -> None:
    answers = iter([True, True, False])
    refused = threading.Event()

    def renew() -> bool:
        answer = next(answers)
        if not answer:
            refused.set()
        return answer

    with keep_alive(renew, 0.001) as heartbeat:
        assert refused.wait(5)
    assert heartbeat.lost


def test_the_heartbeat_outlives_a_busy_store_and_ends_with_its_block() -> None:
    beats = threading.Semaphore(0)

    def renew() -> bool:
        beats.release()
        raise StoreError("busy")

    with keep_alive(renew, 0.001) as heartbeat:
        assert beats.acquire(timeout=5)
        assert beats.acquire(timeout=5)
    assert not heartbeat.lost
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


# ── items of a round ────────────────────────────────────────────────────────────────────────────────────────────────


def test_selecting_again_changes_nothing_and_takes_only_what_is_unlabelled(store: PoolStore) -> None:
    store.items.set_state([key(2)], ItemState.PUSHED)
    reasons = {key(0): "entropy 0.9, rank 1 of 5", key(1): "entropy 0.8, rank 2 of 5"}
    assert store.rounds.select_items(0, [key(1), key(0), key(2)], reasons) == [key(1), key(0)]
    assert store.rounds.select_items(0, [key(1), key(0), key(2)], {}) == []
    assert store.rounds.selected(0) == reasons
    assert store.items.counts() == {"unlabelled": 2, "selected": 2, "pushed": 1}
    details = store.items.details(key(0))
    assert details is not None
    assert (details.round, details.reason) == (0, reasons[key(0)])


def test_what_a_round_was_trained_on_is_recorded_once(store: PoolStore) -> None:
    store.rounds.record_items(0, "train", [(key(1), "7"), (key(0), "8")])
    store.rounds.record_items(0, "train", [(key(0), "9"), (key(3), None)])
    assert store.rounds.items(0, "train") == [(key(0), "9"), (key(3), None)]
    assert store.rounds.items(0, "selected") == []
