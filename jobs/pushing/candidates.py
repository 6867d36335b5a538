"""Cases that could be given to people, one short row each: a million of them fit in some tens of megabytes.

| column | dtype | meaning |
|---|---|---|
| case_ids | bytes | the case |
| sure | float64 | confidence of the draft, 0..1, calibrated where that is possible; 0 without one |
| profiles | int64 | place of the case's profile in ``kinds`` |
| groups | int64 | near-duplicates share a number; -1 for a case that stands alone |
| lots | float64 | the case's lot, 0..1, see `lot` |

A profile is what was drafted, as short words: organ, lesion, every chosen value, and the scanner. Cases that
differ in none of them are one kind.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sonoloop.platform.lexicon import Entities, numeric_fields

Indices = NDArray[np.int64]
Profile = tuple[str, ...]
ALONE = -1


def lot(seed: int, use: str, case_id: str) -> float:
    """A number from 0 up to 1 that chance gave the case, the same each time.

    Args:
        seed: Another one gives other numbers.
        use: What is drawn for; different uses are independent.
        case_id: The case.
    """
    digest = hashlib.sha256(f"{seed}:{use}:{case_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def profile_of(entities: Entities, scanner: str | None) -> Profile:
    """The profile of a drafted case; numbers such as a size are left out."""
    left_out = set(numeric_fields(entities.organ))
    values = [f"{name}={value}" for name, value in entities.flat().items() if name not in left_out]
    return tuple(map(sys.intern, (*sorted(values), f"scanner={scanner or ''}")))  # each word held once


@dataclass(frozen=True)
class Candidates:
    """The columns of the module's table, and what is out there already.

    Attributes:
        kinds: Every profile that occurs.
        shown: Per kind, how many cases of it have a task.
    """

    case_ids: NDArray[np.bytes_]
    sure: NDArray[np.float64]
    profiles: Indices
    groups: Indices
    lots: NDArray[np.float64]
    kinds: tuple[Profile, ...]
    shown: Indices

    def __len__(self) -> int:
        return len(self.case_ids)

    def num_near_duplicates(self, taken_groups: set[int]) -> int:
        """How many stand back for another one, of these or of those that were taken before."""
        grouped = self.groups[self.groups != ALONE]
        return len(grouped) - len(set(grouped.tolist()) - taken_groups)

    def case_id(self, index: int) -> str:
        """The case of a row."""
        return bytes(self.case_ids[index]).decode()


@dataclass
class CandidateTable:
    """Gathers `Candidates` row by row, in short blocks.

    Args:
        seed: Of the lots.
        groups: Case id to group key of near-duplicates.
    """

    seed: int
    groups: Mapping[str, str] = field(default_factory=dict)
    _kinds: dict[Profile, int] = field(default_factory=dict)
    _shown: Counter[int] = field(default_factory=Counter)
    _numbers: dict[str, int] = field(default_factory=dict)
    _rows: list[tuple[bytes, float, int, int, float]] = field(default_factory=list)
    _blocks: list[NDArray[np.void]] = field(default_factory=list)

    def add(self, case_id: str, sure: float | None, profile: Profile) -> None:
        """A case that has no task."""
        group = self.groups.get(case_id)
        number = ALONE if group is None else self._numbers.setdefault(group, len(self._numbers))
        row = (case_id.encode(), sure or 0.0, self._kind(profile), number, lot(self.seed, "choose", case_id))
        self._rows.append(row)
        if len(self._rows) == 10_000:
            self._close_block()

    def count_shown(self, profile: Profile) -> None:
        """A case that has one."""
        self._shown[self._kind(profile)] += 1

    def numbers_of(self, groups: Iterable[str]) -> set[int]:
        """The numbers of groups that any row has."""
        return {self._numbers[group] for group in groups if group in self._numbers}

    def _kind(self, profile: Profile) -> int:
        return self._kinds.setdefault(profile, len(self._kinds))

    def _close_block(self) -> None:
        width = max((len(row[0]) for row in self._rows), default=1)
        dtype = [("id", f"S{width}"), ("sure", "f8"), ("profile", "i8"), ("group", "i8"), ("lot", "f8")]
        self._blocks.append(np.array(self._rows, dtype=dtype))
        self._rows = []

    def done(self) -> Candidates:
        """All rows."""
        self._close_block()
        shown = [self._shown[kind] for kind in range(len(self._kinds))]
        case_ids, sure, profiles, groups, lots = (
            np.concatenate([block[name] for block in self._blocks])
            for name in ("id", "sure", "profile", "group", "lot")
        )
        return Candidates(
            case_ids, sure, profiles, groups, lots, tuple(self._kinds), np.array(shown, dtype=np.int64)
        )
