"""What a benchmark found, as it is stored and shown: rows of figures, each with n and its interval.

``models/<name>/<version>/evaluations/<suite>-<data>.json`` holds a `SuiteResult`, the ``.parquet`` of that
name its answers. The same data in other files has the same name; other versions that were measured on it are
shown beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.table import Table

from sonoloop.jobs.evaluating.items import Answered, answers_table, data_hash
from sonoloop.jobs.output import Tabular
from sonoloop.model.intervals import Estimate
from sonoloop.model.resampling import Statistic, estimates_over
from sonoloop.platform import registry
from sonoloop.platform.workspace import Store

_FIGURE_CHARS, _ROW_HEAD_CHARS, _FEWEST_FIGURES = 15, 45, 3
"""Of a table: columns that a figure and a row's head take; how many figures stand side by side at least."""


class SuiteRow(BaseModel):
    """The figures of one task in one group of items."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: str
    group: str = Field(description="region, data set or file; `all` for everything")
    num_items: int = Field(description="items that count")
    num_unanswered: int = Field(description="of these, those that the model failed on: empty answers")
    num_unreadable: int = Field(description="of these, answers that name none of the options: wrong")
    figures: dict[str, Estimate | None] = Field(description="null where a figure is undefined")


class SuiteResult(Tabular):
    """One model on one benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    suite: str
    model_version: str
    data: str = Field(description="names the items, by their content")
    prompt_version: str | None = Field(default=None, description="where the prompt is ours")
    num_items: int
    num_rejected: int = Field(description="items that could not be asked: they do not count")
    rejected_by_reason: dict[str, int]
    tokenizers: list[str] = Field(description="how texts were cut, by the words in a figure's brackets")
    definitions: dict[str, str]
    rows: list[SuiteRow]
    others: list[SuiteResult] = Field(
        default=[], exclude=True, description="other versions on the same data, to be shown beside"
    )

    def tables(self, width: int) -> list[Table]:
        """Of each task: rows are groups and models, columns are figures; then what these mean."""
        tables = [self._counts()]
        at_once = max(_FEWEST_FIGURES, (width - _ROW_HEAD_CHARS) // _FIGURE_CHARS)
        for task in dict.fromkeys(row.task for row in self.rows):
            shown = [
                (row, one.model_version)
                for one in (self, *self.others)
                for row in one.rows
                if row.task == task
            ]
            names = dict.fromkeys(name for row, _ in shown for name in row.figures)
            for _, some in groupby(names, key=lambda name: name.partition(" (")[2]):  # one way of cutting
                own = list(some)
                tables += [
                    _task_table(task, shown, own[start : start + at_once])
                    for start in range(0, len(own), at_once)
                ]
        return [*tables, self._meanings()]

    def _counts(self) -> Table:
        table = _table(f"evaluate: {self.suite}", header=False)
        table.add_row("model", self.model_version)
        table.add_row("data", self.data)
        table.add_row("items", f"{self.num_items}, of these {self.num_rejected} rejected")
        for reason, num in self.rejected_by_reason.items():
            table.add_row(f"rejected: {reason}", str(num))
        return table

    def _meanings(self) -> Table:
        table = _table("definitions; in brackets the interval of 95 %", header=False)
        for name, meaning in self.definitions.items():
            table.add_row(name, meaning)
        for name in self.tokenizers:
            table.add_row("words", name)
        return table


def suite_row(
    task: str,
    group: str,
    answers: Sequence[Answered],
    statistics: Mapping[str, tuple[Statistic, int]],
    *,
    num_unreadable: int = 0,
) -> SuiteRow:
    """A row of figures with their intervals; items of one patient are drawn together.

    Args:
        task: The task.
        group: The group.
        answers: Those that count, at least one.
        statistics: By name: the figure over the answers in their order, and the number of values in it.
        num_unreadable: Answers that name no option.
    """
    clusters = [one.item.cluster or one.item.place for one in answers]
    return SuiteRow(
        task=task,
        group=group,
        num_items=len(answers),
        num_unanswered=sum(one.answer is None for one in answers),
        num_unreadable=num_unreadable,
        figures=estimates_over(clusters, statistics),
    )


def store_result(
    workspace: Store,
    suite: str,
    model_version: str,
    answers: Sequence[Answered],
    rows: Sequence[SuiteRow],
    *,
    definitions: Mapping[str, str],
    tokenizers: Sequence[str],
    prompt_version: str | None = None,
) -> SuiteResult:
    """Write a benchmark's figures and answers beside the model; other versions' figures come along."""
    rejections = [one.item.rejection for one in answers if one.item.rejection]
    result = SuiteResult(
        suite=suite,
        model_version=model_version,
        data=data_hash(answers),
        prompt_version=prompt_version,
        num_items=len(answers),
        num_rejected=len(rejections),
        rejected_by_reason=dict(Counter(str(rejection.reason) for rejection in rejections)),
        tokenizers=list(tokenizers),
        definitions=dict(definitions),
        rows=list(rows),
    )
    place = (*registry.place_of(model_version), "evaluations")
    workspace.write_table(answers_table(answers), *place, f"{suite}-{result.data}.parquet")
    workspace.write_bytes(result.model_dump_json(indent=2).encode(), *place, f"{suite}-{result.data}.json")
    return result.model_copy(update={"others": _others(workspace, result)})


def read_result(workspace: Store, suite: str, model_version: str, data: str) -> SuiteResult | None:
    """A stored result; ``None`` where this version of sonoloop did not measure that model on that data."""
    place = (*registry.place_of(model_version), "evaluations", f"{suite}-{data}.json")
    try:
        found = workspace.read_bytes(*place)
        return SuiteResult.model_validate_json(found)
    except (FileNotFoundError, ValidationError):
        return None


def _others(workspace: Store, result: SuiteResult) -> list[SuiteResult]:
    name, _, own = result.model_version.partition("/")
    versions = [version for version in workspace.folders("models", name) if version != own]
    found = (read_result(workspace, result.suite, f"{name}/{version}", result.data) for version in versions)
    return [other for other in found if other]


def _table(title: str, *, header: bool = True) -> Table:
    return Table(title=title, title_justify="left", show_header=header)


def _task_table(task: str, shown: Sequence[tuple[SuiteRow, str]], names: Sequence[str]) -> Table:
    """Some figures of one task; models of the same group stand below each other."""
    groups = list(dict.fromkeys(row.group for row, _ in shown))
    table = _table(task)
    for head in ("group", "model", "n"):
        table.add_column(head, overflow="fold")
    for head in names:
        table.add_column(head.replace(" (", "\n("))
    for row, version in sorted(shown, key=lambda pair: groups.index(pair[0].group)):
        cells = (_cell(row.figures.get(name)) for name in names)
        table.add_row(row.group, version.rpartition("/")[2], _n(row), *cells)
    return table


def _n(row: SuiteRow) -> str:
    missing = ((row.num_unanswered, "unanswered"), (row.num_unreadable, "unreadable"))
    return "\n".join([str(row.num_items), *(f"{num} {what}" for num, what in missing if num)])


def _cell(estimate: Estimate | None) -> str:
    """Value above interval: a row of figures is wide enough as it is."""
    return str(estimate).replace(" [", "\n[") if estimate else "-"
