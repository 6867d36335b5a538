"""Near-duplicates across the archive: cases that share a picture, found by its hash and marked.

Such cases are studies stored twice under other identifiers, pictures copied into another study, screenshots
of one. Neither should a person read them twice, nor may a model be tested on what it was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sonoloop.platform.archive.perceptual import COARSE_BITS, MAX_COARSE, MAX_DISTANCE, NUM_BITS
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.sorted_rooms import FRAMES, stream
from sonoloop.platform.workspace import Store

MAX_CASES = 50
"""Copies of one study are few; what more cases have is a picture that machines make of themselves."""
_BAND_BITS = 32
_NUM_BANDS = COARSE_BITS // _BAND_BITS
_COARSE_WORDS = COARSE_BITS // 64
_PAIRS_AT_ONCE = 2**20
_HEX_AT_ONCE = 2**14

assert MAX_COARSE < 2 * _NUM_BANDS, "or no band of a pair need be within one bit"

Whole = NDArray[np.int64]


def mark_near_duplicates(workspace: Store) -> int:
    """Mark all cases that share a picture with another; gives their number.

    Looks at the pictures of every case, old and new. Memory: 0.6 kB for each picture; a million random
    hashes with 10,000 planted pairs took 10 s (one core of a busy machine).

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    columns = ["case_id", "perceptual_hash"]
    tables = [
        table.select(columns).filter(pc.is_valid(table["perceptual_hash"]))
        for table in stream(workspace, FRAMES, columns=columns)
    ]
    now = datetime.now(UTC)
    found = find_groups(pa.concat_tables(tables)) if tables else {}
    marks = [
        DuplicateRecord(case_id=case_id, group_key=group_key, distance=distance, marked_at=now)
        for case_id, (group_key, distance) in sorted(found.items())
    ]
    write_duplicates(workspace, marks)
    return len(marks)


def find_groups(pictures: pa.Table) -> dict[str, tuple[str, int]]:
    """Group the cases that share a picture; pictures of one case that look alike make no group.

    A picture that more than `MAX_CASES` cases have is a test image or a probe in the air, and shows none of
    them: it connects nothing.

    Args:
        pictures: Columns ``case_id`` and ``perceptual_hash``, without nulls.

    Returns:
        Case id to the smallest case id of its group, and the bits between the most alike pictures that it
        shares with another case.
    """
    cases, looks = (pictures[name].combine_chunks().dictionary_encode() for name in pictures.column_names)
    case, look = _distinct(cases.indices.to_numpy(), looks.indices.to_numpy())
    left, right, distance = _alike(_words(looks.dictionary))
    scene = _components(left, right, len(looks.dictionary))
    shown, by = _distinct(scene[look], case)
    num_cases = np.bincount(shown, minlength=scene.max(initial=0) + 1)
    connects = (num_cases > 1) & (num_cases <= MAX_CASES)
    kept = connects[scene[look]]
    nearest = _nearest(case[kept], look[kept], left, right, distance)
    kept = connects[shown]
    group = _components(by[kept], len(cases.dictionary) + shown[kept], len(cases.dictionary) + len(num_cases))
    names = cases.dictionary.to_pylist()
    keys: dict[int, str] = {}
    for member in sorted(nearest, key=lambda member: names[member]):
        keys.setdefault(group[member], names[member])
    return {names[member]: (keys[group[member]], bits) for member, bits in nearest.items()}


def _distinct(one: Whole, other: Whole) -> tuple[Whole, Whole]:
    """The distinct pairs of two columns."""
    pairs = np.unique(one.astype(np.int64) << 32 | other)
    return pairs >> 32, pairs & 0xFFFFFFFF


def _components(left: Whole, right: Whole, size: int) -> Whole:
    """The number of the component that each of ``size`` nodes belongs to."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _nearest(case: Whole, look: Whole, left: Whole, right: Whole, distance: Whole) -> dict[int, int]:
    """Each case's fewest bits to a picture of another case; 0 where another has the very same."""
    size = 1 + max((column.max(initial=-1) for column in (look, left, right)), default=-1)
    lowest, highest = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
    np.minimum.at(lowest, look, case)
    np.maximum.at(highest, look, case)
    bits = np.where(lowest < highest, 0, NUM_BITS)
    one, other = np.minimum(lowest[left], lowest[right]), np.maximum(highest[left], highest[right])
    for side in (left, right):
        np.minimum.at(bits, side, np.where(one < other, distance, NUM_BITS))
    found = np.full(case.max(initial=-1) + 1, NUM_BITS)
    np.minimum.at(found, case, bits[look])
    return {int(member): int(found[member]) for member in np.unique(case)}


def _words(hashes: pa.StringArray) -> NDArray[np.uint64]:
    """The hashes as ``(pictures, NUM_BITS / 64)``."""
    words = np.empty((len(hashes), NUM_BITS // 64), dtype=np.uint64)
    for start in range(0, len(hashes), _HEX_AT_ONCE):
        data = bytes.fromhex("".join(hashes.slice(start, _HEX_AT_ONCE).to_pylist()))
        part = np.frombuffer(data, np.uint64).reshape(-1, words.shape[1])
        words[start : start + len(part)] = part
    return words


def _alike(words: NDArray[np.uint64]) -> tuple[Whole, Whole, Whole]:
    """All pairs of hashes that are of one picture, and the bits between them; some more than once."""
    none = np.empty(0, dtype=np.int64)
    found = [(none, none, none)]
    for left, right in _candidates(words):
        bits = np.bitwise_count(words[left, :_COARSE_WORDS] ^ words[right, :_COARSE_WORDS])
        near = bits.sum(axis=1) <= MAX_COARSE
        pair = left[near], right[near]
        distance = np.bitwise_count(words[pair[0]] ^ words[pair[1]]).sum(axis=1, dtype=np.int64)
        near = distance <= MAX_DISTANCE
        found.append((pair[0][near], pair[1][near], distance[near]))
    left, right, distance = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return left, right, distance


def _candidates(words: NDArray[np.uint64]) -> Iterator[tuple[Whole, Whole]]:
    """Pairs of pictures of which one band of the coarse hash differs in one bit at most.

    The coarse bits are cut into 8 bands of 32. Where all bands differ in two bits or more, the hashes differ
    in 16 or more: no pair within `MAX_COARSE` is missed. A pair may come once for each band.

    Source: Norouzi, Punjani, Fleet, Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014.
    """
    bands = words[:, :_COARSE_WORDS].view(np.uint32)
    for band in range(_NUM_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        places = np.arange(len(values))
        ends = np.searchsorted(values, values, side="right")
        yield from _expanded(order, places, places + 1, ends)
        for bit in range(_BAND_BITS):
            flag = np.uint32(1 << bit)
            unset = np.flatnonzero((values & flag) == 0)
            wanted = values[unset] | flag
            starts = np.searchsorted(values, wanted, side="left")
            hit = values[np.minimum(starts, len(values) - 1)] == wanted
            stops = np.searchsorted(values, wanted[hit], side="right")
            yield from _expanded(order, unset[hit], starts[hit], stops)


def _expanded(order: Whole, places: Whole, starts: Whole, stops: Whole) -> Iterator[tuple[Whole, Whole]]:
    """Each place paired with the places from its start up to its stop, as pictures, so many at once."""
    some = stops > starts
    places, starts, counts = places[some], starts[some], (stops - starts)[some]
    for part in _parts(counts):
        number = counts[part]
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        yield order[np.repeat(places[part], number)], order[np.repeat(starts[part], number) + within]


def _parts(counts: Whole) -> Iterator[slice]:
    """Slices with `_PAIRS_AT_ONCE` pairs or a little more each."""
    parts = np.cumsum(counts) // _PAIRS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(counts)]
    return (slice(*ends) for ends in itertools.pairwise(edges))
