"""Near-duplicates: images whose perceptual hashes differ in a few bits.

The hash is the difference hash of 64 bits (Krawetz 2013): the image in grey at 9 × 8 pixels, and for each pixel whether
its right neighbour is brighter. Copies in another size, format or exposure differ in a few bits. Images without any
structure all hash to 0, and pass for copies of each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from alpipe.types import ByteArray

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

FIRST_BLOCK = 4096
PAIRS = 1 << 22
"""Pairs compared together."""


def difference_hash(image: ByteArray) -> np.uint64:
    """The hash of an RGB image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def distinct(hashes: Hashes, order: Rows, radius: int, known: Hashes) -> npt.NDArray[np.bool_]:
    """(N,) which of (N,) hashes stay: in the ``order`` of preference (N,), each that differs in more than ``radius``
    bits from all that stay before it and from all (M,) ``known`` ones.

    Exact. Two hashes that differ in r bits agree in one of r + 1 bands of bits at least (pigeonhole; multi-index
    hashing, Norouzi, Punjani & Fleet 2012), so only those that agree in a band are compared. What is looked at grows by
    doubling, and what lies near an image that stays is gone before the next look, so that many copies cost little.
    """
    stays = np.zeros(len(hashes), bool)
    _, first = np.unique(hashes[order], return_index=True)  # of equal ones the most wanted
    order = order[np.sort(first)]
    kept, start, size = np.unique(known), 0, FIRST_BLOCK
    while start < len(order):
        rows = order[start : start + size]
        rows = rows[~_near_any(hashes[rows], kept, radius)]
        rows = rows[_greedy(hashes[rows], radius)]
        stays[rows] = True
        kept = np.concatenate([kept, hashes[rows]])
        start, size = start + size, 2 * size
    return stays


def alike(hashes: Hashes, radius: int) -> list[list[int]]:
    """Groups of rows of (N,) hashes, two or more rows each: those that are joined by a chain of pairs which differ in
    up to ``radius`` bits. Groups and their rows are in ascending order.
    """
    different, of = np.unique(hashes, return_inverse=True)
    parent = np.arange(len(different))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    for band in _bands(different, radius):
        for a, b in _agreeing(band, band):
            near = (a < b) & (_differ(different[a], different[b]) <= radius)
            for one, other in zip(a[near].tolist(), b[near].tolist(), strict=True):
                first, second = sorted((root(one), root(other)))
                parent[second] = first
    groups: dict[int, list[int]] = {}
    for row, at in enumerate(of.tolist()):
        groups.setdefault(root(at), []).append(row)
    return sorted(rows for rows in groups.values() if len(rows) > 1)


def _near_any(hashes: Hashes, others: Hashes, radius: int) -> npt.NDArray[np.bool_]:
    """(N,) which lie near any of the others."""
    near = np.zeros(len(hashes), bool)
    for mine, their in zip(_bands(hashes, radius), _bands(others, radius), strict=True):
        left = np.flatnonzero(~near)
        for a, b in _agreeing(mine[left], their):
            a = left[a]
            near[a[_differ(hashes[a], others[b]) <= radius]] = True
    return near


def _greedy(hashes: Hashes, radius: int) -> npt.NDArray[np.bool_]:
    """(N,) which stay, each but for those before it."""
    found = []
    for band in _bands(hashes, radius):
        for a, b in _agreeing(band, band):
            later = a < b
            a, b = a[later], b[later]
            near = _differ(hashes[a], hashes[b]) <= radius
            found.append(np.stack([a[near], b[near]]).astype(np.int32))
    stays = np.ones(len(hashes), bool)
    a, b = np.concatenate(found, axis=1) if found else np.zeros((2, 0), np.int32)
    by_first = np.argsort(a, kind="stable")
    a, b = a[by_first], b[by_first]
    owners, starts, counts = np.unique(a, return_index=True, return_counts=True)
    for owner, start, end in zip(owners.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True):
        if stays[owner]:
            stays[b[start:end]] = False
    return stays


def _differ(a: Hashes, b: Hashes) -> npt.NDArray[np.uint8]:
    return np.asarray(np.bitwise_count(a ^ b), np.uint8)


def _bands(hashes: Hashes, radius: int) -> Iterator[npt.NDArray[np.uint64]]:
    """The hashes' bits in ``radius`` + 1 bands, each bit in one. A band takes bits from all over the image: one of
    neighbouring bits would be the same for all images of an even sky.
    """
    bands = radius + 1
    for band in range(bands):
        value = np.zeros(len(hashes), np.uint64)
        for bit in range(band, 64, bands):
            value = (value << np.uint64(1)) | ((hashes >> np.uint64(bit)) & np.uint64(1))
        yield value


def _agreeing(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """All pairs of rows whose values are equal, PAIRS at a time or those of one row."""
    order = np.argsort(b, kind="stable")
    ordered = b[order]
    low, high = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    ends = np.cumsum(high - low)
    start = 0
    while start < len(a):
        done = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + PAIRS, "right")))
        counts = (high - low)[start:end]
        rows = np.repeat(np.arange(start, end), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield rows, order[low[rows] + within]
        start = end
