"""The step that mines: hard negatives of a model on the labelled images of the pool, into the bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from alpipe.errors import DataError
from alpipe.pool.store import Round
from alpipe.project import Project, mining_options
from alpipe.protocols import Model, ProgressCallback, no_progress
from alpipe.steps import review
from alpipe.steps.folders import alone
from alpipe.steps.models import counted
from alpipe.steps.outcome import Done, Outcome
from alpipe.types import OUT_OF_SAMPLE, BankEntry, Example, Item, Negative, NegativeState, Prediction, Split

if TYPE_CHECKING:
    from alpipe.mining.hard import Mined
    from alpipe.mining.options import MiningOptions


def mine(project: Project, round_: Round, progress: ProgressCallback) -> Outcome:
    """Hard negatives of this round's model on the images it was trained on; the next training uses them."""
    if project.config.mining is False:
        return Done("mining is turned off")
    if round_.model is None:
        return Done("nothing to mine from")
    counts = mine_with(project, round_.number, round_.model, progress)
    return Done(describe(counts), {"counts": counts})


def mine_with(project: Project, round_: int, model: str, progress: ProgressCallback) -> dict[str, int]:
    """Mines with any model of the project and files it under a round, in place of what was mined there before; returns
    the counts for the ledger. Only labelled images of the pool are looked at. The bank is written at the end, in one
    transaction, and depends on the bank of before the round, the model and the labels alone (for how long an entry was
    missed before, another model's mining of the same round may have forgotten).

    Raises DataError where there is nothing to mine on and for a round before the last one that was mined, on which
    its bank depends; BusyError while another mining of this project runs on this machine.
    """
    with alone(project.folder / "mining.lock", "mining of this project"):
        newest = project.store.negatives.newest_round()
        if newest is not None and round_ < newest:
            raise DataError(
                f"round {round_} cannot be mined again: round {newest} was mined since, and its bank is made of what"
                f" there was before; file it under round {newest} (--round {newest})"
            )
        return _mine(project, round_, model, progress)


def _mine(project: Project, round_: int, model: str, progress: ProgressCallback) -> dict[str, int]:
    from alpipe.mining.label_errors import LabelErrors
    from alpipe.mining.options import MiningOptions

    options: MiningOptions = mining_options(project.config) or MiningOptions()
    truths = {example.item.key: example for example in project.store.annotations.examples(Split.POOL)}
    if not truths:
        raise DataError("no image of the pool is labelled: there is nothing to mine on")
    doubted = LabelErrors(truths, project.classes)
    mined = find(
        project,
        project.model(model),
        truths,
        options,
        progress,
        bank=project.store.negatives.before(round_),
        round_=round_,
        mined_in=[each.number for each in project.store.rounds.list() if "mined" in each.counts],
        watch=doubted.watch,
    )
    asked = dict(list(mined.doubts.items())[: options.questions])
    store = project.store.negatives
    store.replace(
        round_,
        model,
        mined.new,
        questions=asked,
        scores=mined.scores,
        still_hard=mined.still_hard,
        evicted=mined.evicted,
    )
    review.file(project, truths, doubted.questions(round_, model), spare=OUT_OF_SAMPLE)
    states = store.counts()
    counts = {
        "mined": len(mined.new),
        "evicted": len(mined.evicted),
        "questions": len(asked),
        "unasked": len(mined.doubts) - len(asked),
        "bank": states[NegativeState.HARD] + states[NegativeState.CONFIRMED],
    }
    project.store.rounds.note(round_, counts)
    return counts


def find(
    project: Project,
    net: Model,
    truths: Mapping[str, Example],
    options: MiningOptions,
    progress: ProgressCallback,
    *,
    bank: Sequence[BankEntry] = (),
    round_: int = 0,
    mined_in: Sequence[int] | None = None,
    watch: Callable[[Iterator[Prediction]], Iterator[Prediction]] = iter,
) -> Mined:
    """What a model takes for objects on labelled images, apart from what may be objects that nobody marked; writes
    nothing. ``truths`` are the images by key, ``mined_in`` the rounds that were mined, ``watch`` sees each prediction
    as it passes.
    """
    from alpipe.mining.guard import doubtful
    from alpipe.mining.hard import mine as hard_negatives

    def predict(items: Sequence[Item], stage: str) -> Iterator[Prediction]:
        return counted(net.predict(items), len(items), stage, progress)

    def guard(candidates: Sequence[Negative], sure: float) -> Mapping[Negative, str]:
        again = partial(predict, stage="looking again at doubtful ones")
        view = options.guard_view or _view(project)
        return doubtful(task, candidates, truths, again, classes, options, view, sure)

    task, classes = project.config.task, project.classes
    predictions = predict([example.item for example in truths.values()], "mining")
    return hard_negatives(
        task, watch(predictions), truths, classes, options, bank, round_, mined_in=mined_in, guard=guard
    )


def mine_again(
    project: Project, number: int | None, model: str | None, progress: ProgressCallback = no_progress
) -> str:
    """Mines with any model of the project, at any time, and says what came of it. ``number`` is the round under which
    it is filed (None: the model's, or the last that was mined, if that is later), ``model`` its name (None: the
    round's). Raises DataError for one that is not there.
    """
    known = {row.name: row for row in project.store.models.list()}
    rounds = {round_.number: round_ for round_ in project.store.rounds.list()}
    if model is None:
        model = rounds[number].model if number in rounds else None
        if model is None:
            with_one = ", ".join(str(each.number) for each in rounds.values() if each.model) or "none yet"
            raise DataError(f"round {number} has no model; rounds with one: {with_one}")
    if model not in known:
        raise DataError(f"no model {model!r} in this project; there are: {', '.join(known) or 'none yet'}")
    if number is None:
        number = max(known[model].round, project.store.negatives.newest_round() or 0)
    if number not in rounds:
        raise DataError(f"there is no round {number}; there are: {', '.join(map(str, rounds)) or 'none yet'}")
    made = describe(mine_with(project, number, model, progress))
    off = project.config.mining is False
    return f"{made}; trainings leave the bank out, as alpipe.yaml says mining: false" if off else made


def describe(counts: dict[str, int]) -> str:
    """What a mining did, in one line."""
    parts = [
        f"{counts['mined']} new hard negatives",
        f"{counts['evicted']} let go",
        f"{counts['bank']} in the bank",
    ]
    if counts["questions"]:
        parts.append(f"{counts['questions']} may be objects that nobody marked and wait for a person")
    if counts["unasked"]:
        parts.append(f"{counts['unasked']} more of these are left for later rounds")
    if any(counts[name] for name in ("mined", "evicted", "questions", "unasked")):
        return ", ".join(parts)
    return ", ".join(parts) + ": nothing new, mining has done its work for these labels"


def _view(project: Project) -> Any:
    """Mirrored where the learner says that mirror images are as good as the original, else smaller."""
    from alpipe.mining.options import View

    _, options = project.learner_plugin()
    return View.SHRINK if str(getattr(options, "flip", "horizontal")) == "none" else View.FLIP
