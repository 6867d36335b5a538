"""Which cases teach most: strategies that put candidates in order, and how a budget is shared among them.

| strategy | takes first |
|---|---|
| uncertain | the least sure (calibrated) draft |
| certain | the surest |
| diverse | the kind that differs most from all kinds that were taken or are shown already |
| balanced | the rarest drafted value that has the fewest cases so far |
| random | by lot |

Each is a pure function from `Candidates` to their indices, best first; ties go by lot. Diversity is over what
was drafted and the scanner, not over the pictures: no embedding of a case is stored, so two cases of one kind
that look different count as alike. Farthest-first is Gonzalez's 2-approximation of the k-center problem
(Theoretical Computer Science 1985), proposed for choosing what to label by Sener and Savarese
(arXiv:1708.00489).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sonoloop.jobs.config import Strategy
from sonoloop.jobs.pushing.candidates import ALONE, Candidates, Indices

MOST_KINDS = 20_000
"""Kinds among which the farthest is looked for; of more, these many by their smallest lot."""


@dataclass(frozen=True)
class Choice:
    """A chosen candidate and what chose it."""

    index: int
    strategy: Strategy


def uncertain(candidates: Candidates) -> Iterator[int]:
    """The least sure first."""
    return map(int, np.lexsort((candidates.lots, candidates.sure)))


def certain(candidates: Candidates) -> Iterator[int]:
    """The surest first."""
    return map(int, np.lexsort((candidates.lots, -candidates.sure)))


def by_lot(candidates: Candidates) -> Iterator[int]:
    """By lot alone."""
    return map(int, np.argsort(candidates.lots, kind="stable"))


def diverse(candidates: Candidates) -> Iterator[int]:
    """One case of each kind in turn, kinds farthest first; within a kind by lot."""
    order = farthest_first(candidates)
    rank = np.full(len(candidates.kinds), len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return map(int, _in_turn(candidates, candidates.profiles, rank))


def balanced(candidates: Candidates) -> Iterator[int]:
    """Cases of the class with the fewest so far; a case's class is its rarest drafted value.

    Rare is counted over the candidates and what is shown already.
    """
    totals = np.bincount(candidates.profiles, minlength=len(candidates.kinds)) + candidates.shown
    rarest = _rarest_values(candidates.kinds, totals)
    names = {value: place for place, value in enumerate(sorted(set(rarest)))}
    class_of = np.array([names[value] for value in rarest], dtype=np.int64)
    level = np.bincount(class_of, weights=candidates.shown, minlength=len(names)).astype(np.int64)
    size = np.bincount(class_of, weights=totals, minlength=len(names))
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(size, kind="stable")] = np.arange(len(names))
    return map(int, _in_turn(candidates, class_of[candidates.profiles], rank, level))


STRATEGIES: Mapping[Strategy, Callable[[Candidates], Iterator[int]]] = {
    "uncertain": uncertain,
    "certain": certain,
    "diverse": diverse,
    "balanced": balanced,
    "random": by_lot,
}


def mixed(
    candidates: Candidates,
    shares: Mapping[Strategy, float],
    taken_groups: set[int] | None = None,
) -> Iterator[Choice]:
    """Candidates of all strategies, each time of the one that is farthest behind its share; none twice.

    Args:
        candidates: What to choose from.
        shares: Parts of their sum, per strategy.
        taken_groups: Groups of near-duplicates of which a case was taken before; one of each group is chosen.
            None where near-duplicates are as good as others.
    """
    orders = {name: STRATEGIES[name](candidates) for name, share in shares.items() if share > 0}
    taken = np.zeros(len(candidates), dtype=bool)
    groups = None if taken_groups is None else set(taken_groups)
    given: Counter[Strategy] = Counter()
    while orders:
        name = min(orders, key=lambda name: ((given[name] + 1) / shares[name], name))
        index = next((i for i in orders[name] if not taken[i] and _is_free(candidates, i, groups)), None)
        if index is None:
            del orders[name]
            continue
        taken[index] = True
        given[name] += 1
        if groups is not None:
            groups.add(int(candidates.groups[index]))
        yield Choice(index, name)


def choose(
    candidates: Candidates,
    shares: Mapping[Strategy, float],
    budget: int | None,
    taken_groups: set[int] | None = None,
) -> list[Choice]:
    """As `mixed`, at most ``budget`` of them."""
    return list(islice(mixed(candidates, shares, taken_groups), budget))


def scatter(chosen: Sequence[str], seeded: Mapping[str, float]) -> list[str]:
    """Put cases among others where their lots say, 0 first and 1 last; all others keep their order."""
    places = {case_id: (place + 0.5) / len(chosen) for place, case_id in enumerate(chosen)}
    return sorted([*chosen, *seeded], key=lambda case_id: places.get(case_id, seeded.get(case_id, 0.0)))


def farthest_first(candidates: Candidates) -> Indices:
    """Kinds that candidates have, each as different as can be from those before it and those shown.

    The distance of two kinds is the number of words that only one of them has.
    """
    occurring = _occurring(candidates)
    codes = _codes(candidates.kinds)
    distance = _distance_to_shown(codes, occurring, np.flatnonzero(candidates.shown))
    order = np.empty(len(occurring), dtype=np.int64)
    left = np.ones(len(occurring), dtype=bool)
    for place in range(len(occurring)):
        farthest = int(np.argmax(np.where(left, distance, -1)))
        order[place], left[farthest] = occurring[farthest], False
        distance = np.minimum(distance, _differing(codes[occurring], codes[occurring[farthest]]))
    return order


def _occurring(candidates: Candidates) -> Indices:
    """Kinds of candidates, by their smallest lot, at most `MOST_KINDS`."""
    first = np.full(len(candidates.kinds), np.inf)
    np.minimum.at(first, candidates.profiles, candidates.lots)
    order: Indices = np.argsort(first, kind="stable")
    return order[: min(MOST_KINDS, int(np.isfinite(first).sum()))]


def _codes(kinds: Sequence[Sequence[str]]) -> NDArray[np.int32]:
    """One row per kind, one column per field, a number per value; 0 where a kind has no such field."""
    fields = {field: place for place, field in enumerate(sorted({_field(w) for kind in kinds for w in kind}))}
    numbers: dict[str, int] = {}
    codes = np.zeros((len(kinds), len(fields)), dtype=np.int32)
    for row, kind in enumerate(kinds):
        for word in kind:
            codes[row, fields[_field(word)]] = numbers.setdefault(word, len(numbers) + 1)
    return codes


def _field(word: str) -> str:
    return word.partition("=")[0]


def _differing(codes: NDArray[np.int32], one: NDArray[np.int32]) -> Indices:
    """Words that only one of a kind and each of the others has."""
    differ = codes != one
    num_words: Indices = (differ & (codes > 0)).sum(axis=1) + (differ & (one > 0)).sum(axis=1)
    return num_words


def _distance_to_shown(codes: NDArray[np.int32], occurring: Indices, shown: Indices) -> Indices:
    distance = np.full(len(occurring), np.iinfo(np.int64).max)
    for kind in shown[:MOST_KINDS]:
        distance = np.minimum(distance, _differing(codes[occurring], codes[kind]))
    return distance


def _rarest_values(kinds: Sequence[Sequence[str]], totals: Indices) -> list[str]:
    """Per kind its rarest value: ``organ field=value``, with the number of cases that have it."""
    counts: Counter[str] = Counter()
    for kind, total in zip(kinds, totals, strict=True):
        counts.update(dict.fromkeys(_classes(kind), int(total)))
    return [min(_classes(kind), key=lambda value: (counts[value], value)) for kind in kinds]


def _classes(kind: Sequence[str]) -> list[str]:
    organ = next((word for word in kind if _field(word) == "organ"), "")
    return [f"{organ} {word}" for word in kind if _field(word) not in ("organ", "scanner")] or [organ]


def _in_turn(
    candidates: Candidates, class_of: Indices, rank: Indices, level: Indices | None = None
) -> Indices:
    """Candidates so that classes take turns by rank; a class that starts at a level waits for the others."""
    order: Indices = np.lexsort((candidates.lots, class_of))
    sorted_classes = class_of[order]
    starts = np.flatnonzero(np.r_[True, sorted_classes[1:] != sorted_classes[:-1]]) if len(order) else order
    sizes = np.diff(np.r_[starts, len(order)])
    turn = np.arange(len(order)) - np.repeat(starts, sizes)
    if level is not None:
        turn = turn + level[sorted_classes]
    in_turn: Indices = order[np.lexsort((rank[sorted_classes], turn))]
    return in_turn


def _is_free(candidates: Candidates, index: int, groups: set[int] | None) -> bool:
    group = int(candidates.groups[index])
    return groups is None or group == ALONE or group not in groups
