"""U2-BENCH (arXiv 2505.17779): eight ultrasound tasks and their weighted U2-Score.

As in the published scorer (gurenolun/Dolphin-ai-bench, table_fill/update_table_score_format.py), a task's
figure is the plain mean over its data sets, and the score is the weighted sum of the tasks' main figures,
each held within 0..1. Unlike there, an answer that cannot be read is wrong instead of left out, a value that
cannot be read errs by its whole range, and a task without items gives no score instead of one of 0 or 1.
Nothing is published that subtracts guessing, so nothing is subtracted.

Shape letters: R draws, N answers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.answering import answer_all
from sonoloop.jobs.evaluating.averages import Figures, group_rows, over_some
from sonoloop.jobs.evaluating.items import Answered
from sonoloop.jobs.evaluating.reading import read_choice, read_location, read_number
from sonoloop.jobs.evaluating.results import SuiteResult, SuiteRow, store_result, suite_row
from sonoloop.jobs.evaluating.suites.u2_files import TASKS, u2_files
from sonoloop.jobs.evaluating.suites.u2_references import QUANTITIES, dataset_number
from sonoloop.jobs.evaluating.texts import TextFigures
from sonoloop.model.metrics import labels
from sonoloop.model.metrics.tokens import tokenizers_for, white_space
from sonoloop.model.resampling import Array, Statistic, mean
from sonoloop.platform import registry
from sonoloop.platform.workspace import store_of

WEIGHTS = {"DD": 0.2, "VRA": 0.2, "LL": 0.07, "OD": 0.27, "KD": 0.07, "CVE": 0.07, "RG": 0.08, "CG": 0.04}
"""Source: `weights` in the published scorer; they add up to 1."""
TOLERANCE = 0.1
"""Error, as a share of the range, that counts as within tolerance. Source: qwen_measure_eval.py."""
UNREADABLE_ERROR = 1.0
"""Error of a value that cannot be read: the whole range."""
_ALL = "all"
_TEXT = "BLEU-4 (white space)"
_MAIN = {
    **dict.fromkeys(("DD", "VRA", "LL", "OD", "KD"), "accuracy"),
    "CVE": "RMSE",
    "RG": _TEXT,
    "CG": _TEXT,
}
_MEANINGS = {
    "U2-Score": "weighted sum over the eight tasks of accuracy (DD, VRA, LL, OD, KD), 1 - RMSE (CVE) and "
    f"BLEU-4 (RG, CG), each within 0..1; weights {WEIGHTS}; no score where a task has no item",
    "all": "plain mean over the task's data sets; draws leave out a data set that was not drawn",
    "RMSE": "root of the mean squared error, errors divided by the range published for the value",
    "Std": "standard deviation of these errors",
    "MAE": "mean absolute value of these errors",
    "within tolerance": f"share of errors up to {TOLERANCE} of the range; the publication gives per cent",
    "unreadable": "answers that name no option, several, or no number: wrong, or an error of the whole range",
}


def run_u2bench(config: Config, path: str, *, model: str) -> SuiteResult:
    """Answer U2-BENCH with a model and score it.

    Args:
        config: The configuration.
        path: The benchmark's folder, or an ``s3://`` URI.
        model: Alias or version.

    Raises:
        NothingToDoError: no file of the benchmark there.
        ConfigError: no such model, or the cluster cannot hold the actors.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    answers = answer_all(config, workspace, version, u2_files(store_of(path, config.s3)))
    written = [one.item.reference for one in answers if one.item.task in ("RG", "CG")]
    texts = TextFigures((white_space(), *tokenizers_for(written)), config.evaluate)
    return store_result(
        workspace,
        "u2bench",
        version,
        answers,
        score_u2bench([one for one in answers if one.is_scored], texts),
        definitions={**_MEANINGS, **labels.CLASS_DEFINITIONS, **texts.definitions},
        tokenizers=texts.names,
    )


def score_u2bench(answers: Sequence[Answered], texts: TextFigures) -> list[SuiteRow]:
    """A row for each task and each of its data sets, and the U2-Score where all tasks have items."""
    makers = _makers(texts)
    rows: list[SuiteRow] = []
    main: dict[str, Statistic] = {}
    for task in TASKS.values():
        columns_N = np.flatnonzero([one.item.task == task for one in answers])
        if len(columns_N):
            own = [answers[column] for column in columns_N]
            found, together = group_rows(task, own, makers[task], average=_ALL)
            rows += found
            main[task] = over_some(columns_N, together.statistics[_MAIN[task]][0])
    if main.keys() == WEIGHTS.keys():
        rows.append(suite_row("U2-Score", _ALL, answers, {"U2-Score": (u2_score(main), len(answers))}))
    return rows


def u2_score(main: Mapping[str, Statistic]) -> Statistic:
    """The weighted score from each task's main figure."""

    def score(weights_RN: Array) -> Array:
        total = np.zeros(len(weights_RN))
        for task, statistic in main.items():
            value = statistic(weights_RN)
            total += WEIGHTS[task] * np.clip(1 - value if task == "CVE" else value, 0, 1)
        return total

    return score


def value_errors(answers: Sequence[Answered]) -> list[float]:
    """Errors of estimated values as shares of their range; the whole range where no number can be read."""
    errors = []
    for one in answers:
        quantity = QUANTITIES[dataset_number({"dataset_name": one.item.group}) or 0]
        value = read_number(one.text)
        wanted = float(one.item.reference)
        errors.append(UNREADABLE_ERROR if value is None else quantity.scaled(wanted) - quantity.scaled(value))
    return errors


def _makers(texts: TextFigures) -> dict[str, Callable[[Sequence[Answered]], Figures]]:
    def written(answers: Sequence[Answered]) -> Figures:
        found = texts([one.text for one in answers], [one.item.reference for one in answers])
        return Figures.over(found, len(answers))

    return {
        **dict.fromkeys(("DD", "VRA"), _choices),
        **dict.fromkeys(("LL", "OD", "KD"), _locations),
        "CVE": _values,
        **dict.fromkeys(("RG", "CG"), written),
    }


def _choices(answers: Sequence[Answered]) -> Figures:
    said = [read_choice(one.text, one.item.options) for one in answers]
    return _classes(said, answers)


def _locations(answers: Sequence[Answered]) -> Figures:
    return _classes([read_location(one.text) for one in answers], answers)


def _classes(said: Sequence[str | None], answers: Sequence[Answered]) -> Figures:
    found = labels.class_statistics(said, [one.item.reference for one in answers])
    return Figures.over(found, len(answers), num_unreadable=said.count(None))


def _values(answers: Sequence[Answered]) -> Figures:
    errors_N = np.array(value_errors(answers))
    first, second = mean(errors_N.tolist()), mean((errors_N**2).tolist())
    return Figures.over(
        {
            "RMSE": lambda weights_RN: np.sqrt(second(weights_RN)),
            "Std": lambda weights_RN: np.sqrt(np.maximum(second(weights_RN) - first(weights_RN) ** 2, 0)),
            "MAE": mean(np.abs(errors_N).tolist()),
            "within tolerance": mean((np.abs(errors_N) <= TOLERANCE).astype(float).tolist()),
        },
        len(answers),
        num_unreadable=sum(read_number(one.text) is None for one in answers),
    )
