"""A batch out of candidates: scores → noise → near-duplicates and neighbours aside → the choice, spread over groups.

What is set aside is taken after all when the others do not suffice, so that a batch is never smaller than it could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from alpipe.acquisition.batch.duplicates import Hashes, distinct
from alpipe.acquisition.batch.noise import noisy
from alpipe.acquisition.batch.options import BatchOptions
from alpipe.acquisition.batch.spread import FairShare, apart
from alpipe.acquisition.ranking.topk import checked, ranked
from alpipe.protocols import Candidates, Choosing, Rescoring, Strategy
from alpipe.types import Item

NO_HASHES = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Batch:
    """``keys`` in the order in which they were chosen; ``counts`` of the images set aside as ``near_duplicates`` and
    ``neighbours`` of better or labelled ones, and of those ``taken_after_all`` for lack of others. ``scores`` (N,) are
    those that the choice was made by, a row a candidate.
    """

    keys: list[str]
    scores: npt.NDArray[np.float64]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """What near-duplicates are found by: difference hashes of the candidates (N,) and of the labelled images (M,)."""

    hashes: Hashes
    labelled: Hashes = field(default_factory=lambda: NO_HASHES)


def choose_batch(
    strategy: Strategy,
    partner: Choosing,
    candidates: Candidates,
    k: int,
    rng: np.random.Generator,
    *,
    options: BatchOptions,
    round_: int = 1,
    copies: Copies | None = None,
    taken: Sequence[int] = (),
) -> Batch:
    """Chooses k of the candidates: by the strategy where it has a choice of its own, else by the partner.

    ``copies`` is needed where the options set near_duplicates. ``taken`` are rows of candidates that are in the batch
    already: they are not chosen again, and what is like them is set aside as beside labelled ones. Raises ValueError
    for a k beyond the other candidates.
    """
    checked(candidates, k + len(taken))
    if isinstance(strategy, Rescoring):
        candidates = replace(candidates, scores=strategy.rescore(candidates))
    scores = candidates.scores
    if options.noise:
        candidates = replace(candidates, scores=noisy(scores, options.noise, round_, rng))
    chooser = strategy if isinstance(strategy, Choosing) else partner
    stays, counts = _thinned(candidates, options, copies, rng, taken)
    share = FairShare(candidates.items, k, options.spread.share) if options.spread else None
    chosen = _chosen(chooser, candidates, np.flatnonzero(stays), k, rng, share, taken)
    lacking = k - len(chosen)
    if lacking:
        gone = [*taken, *chosen]
        rest = np.setdiff1d(np.arange(len(candidates)), np.array(gone, np.intp))
        chosen += _chosen(chooser, candidates, rest, lacking, rng, None, gone)
        counts["taken_after_all"] = lacking
    return Batch([candidates.items[row].key for row in chosen], scores, counts)


def _thinned(
    candidates: Candidates,
    options: BatchOptions,
    copies: Copies | None,
    rng: np.random.Generator,
    taken: Sequence[int],
) -> tuple[npt.NDArray[np.bool_], dict[str, int]]:
    """(N,) which candidates stay, the better ones of those that are alike, and how many do not beside those taken."""
    stays: npt.NDArray[np.bool_] = np.ones(len(candidates), bool)
    rows = np.array(taken, np.intp)
    stays[rows] = False
    counts: dict[str, int] = {}
    spread = options.spread if options.spread and any(item.group is not None for item in candidates.items) else None
    if options.near_duplicates is False and spread is None:
        return stays, counts
    order = ranked(candidates.scores, rng)
    order = order[stays[order]]
    if options.near_duplicates is not False:
        if copies is None or len(copies.hashes) != len(candidates):
            raise ValueError(f"near-duplicates of {len(candidates)} images are to be found, but not all were hashed")
        known = np.concatenate([copies.labelled, copies.hashes[rows]])
        stays = distinct(copies.hashes, order, options.near_duplicates, known)
        counts["near_duplicates"] = len(order) - int(stays.sum())
    if spread and spread.neighbours:
        beside: list[Item] = [example.item for example in candidates.labelled.examples]
        beside += [candidates.items[row] for row in taken]
        order = order[stays[order]]
        alone = apart(candidates.items, order, spread.neighbours, beside)
        counts["neighbours"] = int((stays & ~alone).sum())
        stays &= alone
    return stays, {name: count for name, count in counts.items() if count}


def _chosen(
    chooser: Choosing,
    candidates: Candidates,
    rows: npt.NDArray[np.intp],
    k: int,
    rng: np.random.Generator,
    share: FairShare | None,
    before: Sequence[int] = (),
) -> list[int]:
    """Rows of up to k candidates out of ``rows``, no more of a group than its share. Where a group is full the choice
    is made again among the others, with what was chosen so far as if it were labelled. After a choice of which three
    quarters fell into full groups, twice as many as are wanted are asked for, and so on: where the best lie group by
    group there would be a choice for each group otherwise.
    """
    chosen: list[int] = []
    reserve = 1
    while len(chosen) < k and len(rows):
        offered = _with_labelled(candidates, [*before, *chosen])
        offered = offered if len(rows) == len(candidates) else offered.at(rows)
        row_of = {item.key: int(row) for item, row in zip(offered.items, rows, strict=True)}
        asked = min(reserve * (k - len(chosen)), len(rows))
        got = chooser.choose(offered, asked, rng)
        if len({*got} & {*row_of}) != asked or len(got) != asked:
            raise ValueError(f"asked for {asked} different images of {len(rows)}, it named {len({*got} & {*row_of})}")
        had = len(chosen)
        for row in (row_of[key] for key in got):
            if len(chosen) < k and (share is None or share.take(candidates.items[row])):
                chosen.append(row)
        if share is None:
            break
        if len(chosen) - had < asked / 4:
            reserve *= 2
        taken = set(chosen)
        rows = np.array(
            [row for row in rows.tolist() if row not in taken and not share.full(candidates.items[row])], np.intp
        )
    return chosen


def _with_labelled(candidates: Candidates, rows: Sequence[int]) -> Candidates:
    if candidates.embeddings is None or not rows:
        return candidates
    more = candidates.embeddings[list(rows)]
    known = candidates.labelled.embeddings
    joined = more if known is None else np.concatenate([known, more])
    return replace(candidates, labelled=replace(candidates.labelled, embeddings=joined))
