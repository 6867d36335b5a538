"""Rows of a task: its groups (data sets, regions, files), and the plain mean over them on the same draws.

Shape letters: R draws, N answers, G groups
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonoloop.jobs.evaluating.items import Answered
from sonoloop.jobs.evaluating.results import SuiteRow, suite_row
from sonoloop.model.resampling import Array, Statistic


@dataclass(frozen=True)
class Figures:
    """Figures over some answers, in their order.

    Attributes:
        statistics: By name: the figure and the number of values in it.
        num_unreadable: Answers that name no option.
    """

    statistics: dict[str, tuple[Statistic, int]]
    num_unreadable: int = 0

    @classmethod
    def over(cls, statistics: dict[str, Statistic], num: int, *, num_unreadable: int = 0) -> Figures:
        """Figures that are all made of the same number of values."""
        return cls({name: (statistic, num) for name, statistic in statistics.items()}, num_unreadable)

    def on(self, columns_N: NDArray[np.intp]) -> Figures:
        """The same over more answers, of which these columns are the own."""
        found = {name: (over_some(columns_N, one), num) for name, (one, num) in self.statistics.items()}
        return Figures(found, self.num_unreadable)


def group_rows(
    task: str,
    answers: Sequence[Answered],
    make: Callable[[Sequence[Answered]], Figures],
    *,
    average: str,
    groups: Sequence[str] | None = None,
) -> tuple[list[SuiteRow], Figures]:
    """A row for each group that has answers, and before them one for the plain mean over these groups.

    Args:
        task: The task.
        answers: Of the task, at least one.
        make: Figures of a group's answers.
        average: What the mean is called.
        groups: In the order of the rows; by name when absent.

    Returns:
        The rows, and the mean's figures over the answers in their order.
    """
    names = groups or sorted({one.item.group for one in answers})
    rows: list[SuiteRow] = []
    parts: list[Figures] = []
    for group in names:
        columns_N = np.flatnonzero([one.item.group == group for one in answers])
        if len(columns_N):
            some = [answers[column] for column in columns_N]
            found = make(some)
            rows.append(_row(task, group, some, found))
            parts.append(found.on(columns_N))
    together = average_of(parts)
    return [_row(task, average, answers, together), *rows], together


def average_of(parts: Sequence[Figures]) -> Figures:
    """The plain mean of each figure over the parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part.statistics)
    statistics = {}
    for name in names:
        own = [part.statistics[name] for part in parts if name in part.statistics]
        statistics[name] = (average_over([one for one, _ in own]), sum(num for _, num in own))
    return Figures(statistics, sum(part.num_unreadable for part in parts))


def over_some(columns_N: NDArray[np.intp], statistic: Statistic) -> Statistic:
    """A figure over some of the answers, as one over all."""
    return lambda weights_RN: statistic(weights_RN[:, columns_N])


def average_over(statistics: Sequence[Statistic]) -> Statistic:
    """The plain mean of figures; those that are undefined in a draw are left out of it."""

    def figure(weights_RN: Array) -> Array:
        values_GR = np.stack([statistic(weights_RN) for statistic in statistics])
        known_R = (~np.isnan(values_GR)).sum(0)
        total_R = np.nansum(values_GR, axis=0)
        average_R: Array = np.divide(total_R, known_R, out=np.full_like(total_R, np.nan), where=known_R > 0)
        return average_R

    return figure


def _row(task: str, group: str, answers: Sequence[Answered], found: Figures) -> SuiteRow:
    return suite_row(task, group, answers, found.statistics, num_unreadable=found.num_unreadable)
