"""``drift/<month>.json``: what was compared and which of it is an alarm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.drifting.comparing import Difference, Mix, Moments, difference, is_alarm
from sonoloop.jobs.drifting.config import DriftConfig
from sonoloop.jobs.drifting.gathering import Gathered, Series
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

_FOLDER = "drift"


class Compared(BaseModel):
    """One series, a month against its reference; see `sonoloop.jobs.drifting.comparing`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    what: str
    kind: Literal["mean", "mix"]
    scanner: str
    written_by: str = Field(description="model or model and prompt version; empty for pictures")
    month: dict[str, float] = Field(description="``mean``, or each word's share; ``n`` values")
    reference: dict[str, float]
    shift: float
    usual: float | None = Field(description="largest shift of a reference month from the others")
    chance: float
    alarm: bool

    def __str__(self) -> str:
        """One line, for `status`."""
        by = f", drafts of {self.written_by}" if self.written_by else ""
        figures = ""
        if self.kind == "mean":
            figures = f" {self.reference['mean']:.3g} -> {self.month['mean']:.3g}"
        n = f"{self.month['n']:.0f} against {self.reference['n']:.0f} values"
        return f"{self.what}{figures} (shift {self.shift:+.2f}, {n}), scanner {self.scanner}{by}"


class DriftReport(BaseModel):
    """A month against the months before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    month: str
    reference: tuple[str, ...] = Field(description="months")
    computed_at: datetime
    config: DriftConfig
    too_few: int = Field(description="series of the month that have too few values, then or before")
    compared: tuple[Compared, ...]

    @property
    def alarms(self) -> list[Compared]:
        """What moved, the largest part of its threshold first."""
        found = [one for one in self.compared if one.alarm]
        return sorted(found, key=lambda one: -abs(one.shift) / _threshold(one.kind, self.config))

    def write(self, workspace: Store) -> None:
        """Store it; a month that is looked at again is replaced."""
        workspace.write_bytes(self.model_dump_json(indent=2).encode(), _FOLDER, f"{self.month}.json")


def compare(
    gathered: Gathered, month: str, reference: tuple[str, ...], config: DriftConfig, *, now: datetime
) -> DriftReport:
    """Hold every series of a month against the reference months."""
    found: list[tuple[Series, Literal["mean", "mix"], Any, Any, Difference]] = []
    too_few = 0
    kinds: tuple[tuple[Literal["mean", "mix"], Mapping[Series, Mapping[str, Any]], Any], ...] = (
        ("mean", gathered.means, Moments()),
        ("mix", gathered.mixes, Mix()),
    )
    for kind, every, zero in kinds:
        for series in sorted(every):
            by_month = every[series]
            if month not in by_month:
                continue
            before = {name: by_month[name] for name in reference if name in by_month}
            differs = difference(by_month[month], before, config, zero=zero)
            too_few += differs is None
            if differs is not None:
                found.append((series, kind, by_month[month], sum(before.values(), zero), differs))
    return DriftReport(
        month=month,
        reference=reference,
        computed_at=now,
        config=config,
        too_few=too_few,
        compared=tuple(
            Compared(
                what=series.what,
                kind=kind,
                scanner=series.scanner,
                written_by=series.written_by,
                month=_shown(own),
                reference=_shown(other),
                shift=differs.shift,
                usual=differs.usual,
                chance=differs.chance,
                alarm=is_alarm(differs, len(found), _threshold(kind, config), config),
            )
            for series, kind, own, other, differs in found
        ),
    )


def newest_report(workspace: Store) -> DriftReport | None:
    """That of the latest month that was looked at; ``None`` where none was, or by another version.

    Raises:
        StorageError: the workspace cannot be read.
    """
    selector = pafs.FileSelector(workspace.path(_FOLDER), allow_not_found=True)
    with storage_errors(workspace.uri):
        names = [info.base_name for info in workspace.fs.get_file_info(selector)]
    names = sorted(name for name in names if re.fullmatch(r"\d{4}-\d{2}\.json", name))
    if not names:
        return None
    try:
        return DriftReport.model_validate_json(workspace.read_bytes(_FOLDER, names[-1]))
    except (FileNotFoundError, ValidationError):
        return None


def _threshold(kind: Literal["mean", "mix"], config: DriftConfig) -> float:
    return config.mean_shift if kind == "mean" else config.mix_shift


def _shown(side: Moments | Mix) -> dict[str, float]:
    if isinstance(side, Moments):
        return {"n": side.n, "mean": side.mean, "deviation": side.deviation}
    return {"n": side.total(), **{word: number / side.total() for word, number in sorted(side.items())}}
