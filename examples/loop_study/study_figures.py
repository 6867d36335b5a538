"""The study's plot and table: figures by round, strategies side by side, with bands over the seeds.

A band is Student's interval of 95 % for the mean over seeds: of three seeds it is 4.3 standard errors to
each side, wide as it should be. Thin lines are the seeds. Differences of two strategies are taken within each
seed, which takes out what the seeds have in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student
from study_results import RoundResult

COLORS: dict[str, str] = {
    "uncertain": "#d95f02",
    "random": "#1f77b4",
    "diverse": "#2ca02c",
    "balanced": "#8c564b",
    "certain": "#7570b3",
}
Measure = Callable[[RoundResult], float | None]
MEASURES: dict[str, Measure] = {
    "entity macro-F1, test set": lambda one: one.test.scores.entity_macro_f1,
    "fields to edit per case, test set": lambda one: one.test.edits_per_case,
    "ROUGE-L, test set": lambda one: one.test.scores.rouge_l,
    "box IoU, test set": lambda one: one.test.scores.box_iou,
    "fields edited per case, read cases": lambda one: one.chosen.edits_per_case,
    "macro-F1, liver and kidney": lambda one: one.test_by_part["liver, kidney"].scores.entity_macro_f1,
}
COMPARED = ("entity macro-F1, test set", "fields to edit per case, test set")


@dataclass(frozen=True)
class Band:
    """Mean over seeds and its interval, by round; no interval where there is one seed."""

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band_of(lines: Iterable[dict[int, float]]) -> Band:
    """The band over some seeds' lines, each round to figure; a round counts the seeds that have it."""
    by_round: dict[int, list[float]] = defaultdict(list)
    for line in lines:
        for number, value in line.items():
            by_round[number].append(value)
    rounds = tuple(sorted(by_round))
    means = tuple(float(np.mean(by_round[number])) for number in rounds)
    reaches = [_reach(by_round[number]) for number in rounds]
    return Band(
        rounds,
        means,
        tuple(mean - reach for mean, reach in zip(means, reaches, strict=True)),
        tuple(mean + reach for mean, reach in zip(means, reaches, strict=True)),
    )


def lines_of(results: Iterable[RoundResult], measure: Measure) -> dict[str, dict[int, dict[int, float]]]:
    """Strategy to seed to round to figure."""
    found: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for one in results:
        value = measure(one)
        if value is not None:
            found[one.strategy][one.seed][one.round] = value
    return {strategy: dict(seeds) for strategy, seeds in sorted(found.items(), reverse=True)}


def differences(
    one: dict[int, dict[int, float]], other: dict[int, dict[int, float]]
) -> dict[int, dict[int, float]]:
    """The first strategy's figure less the second's, by seed and round, where both have it."""
    return {
        seed: {
            number: one[seed][number] - other[seed][number]
            for number in one[seed].keys() & other[seed].keys()
        }
        for seed in one.keys() & other.keys()
    }


def draw(path: Path, results: Sequence[RoundResult]) -> None:
    """Write the plot."""
    figure = Figure(figsize=(13, 10), layout="constrained")
    panels = list(figure.subplots(3, 3).flat)
    for panel, (title, measure) in zip(panels, MEASURES.items(), strict=False):
        for strategy, seeds in lines_of(results, measure).items():
            _line(panel, seeds, COLORS[strategy], f"{strategy}, seeds: {len(seeds)}")
        _label(panel, title)
    rest = panels[len(MEASURES) :]
    for panel, title in zip(rest, COMPARED, strict=False):
        lines = lines_of(results, MEASURES[title])
        if len(lines) > 1:
            (first, one), (second, other), *_ = lines.items()
            _line(panel, differences(one, other), "#444444", f"{first} less {second}")
        panel.axhline(0, color="#8c8c8c", linewidth=1, linestyle=":")
        _label(panel, f"difference of {title}")
    _promoted(rest[len(COMPARED)], results)
    figure.savefig(path, dpi=110)


def table(results: Sequence[RoundResult]) -> str:
    """The same as Markdown: mean and band over the seeds, for each strategy and round."""
    rows = ["| strategy | round | " + " | ".join(MEASURES) + " |", "|" + "---|" * (len(MEASURES) + 2)]
    bands = {
        title: {strategy: band_of(seeds.values()) for strategy, seeds in lines_of(results, measure).items()}
        for title, measure in MEASURES.items()
    }
    for strategy in sorted({one.strategy for one in results}, reverse=True):
        for number in sorted({one.round for one in results if one.strategy == strategy}):
            cells = [_cell(bands[title].get(strategy), number) for title in MEASURES]
            rows.append(f"| {strategy} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _reach(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    quantile: float = student.ppf(0.975, len(values) - 1)
    return float(quantile * error)


def _cell(band: Band | None, number: int) -> str:
    if band is None or number not in band.rounds:
        return "-"
    place = band.rounds.index(number)
    if band.low[place] == band.high[place]:
        return f"{band.mean[place]:.3f}"
    return f"{band.mean[place]:.3f} [{band.low[place]:.3f}, {band.high[place]:.3f}]"


def _line(panel: Any, seeds: dict[int, dict[int, float]], color: str, label: str) -> None:
    band = band_of(seeds.values())
    for line in seeds.values():
        numbers = sorted(line)
        panel.plot(numbers, [line[number] for number in numbers], color=color, linewidth=0.6, alpha=0.6)
    panel.plot(band.rounds, band.mean, "o-", color=color, linewidth=2, markersize=4, label=label)
    panel.fill_between(band.rounds, band.low, band.high, color=color, alpha=0.15, linewidth=0)


def _label(panel: Any, title: str) -> None:
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("round", fontsize=9)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(linewidth=0.4)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, frameon=False)


def _promoted(panel: Any, results: Sequence[RoundResult]) -> None:
    """How many challengers passed the gate, by round."""
    by_strategy = lines_of(results, lambda one: None if one.gated is None else float(one.gated.promoted))
    for place, (strategy, seeds) in enumerate(by_strategy.items()):
        numbers = sorted({number for line in seeds.values() for number in line})
        passed = [sum(line.get(number, 0) for line in seeds.values()) for number in numbers]
        panel.bar(
            [number + 0.3 * place - 0.15 for number in numbers],
            passed,
            0.3,
            color=COLORS[strategy],
            label=strategy,
        )
    panel.set_ylim(0, 1.4 * len({one.seed for one in results}))  # room for the legend
    panel.yaxis.get_major_locator().set_params(integer=True)
    _label(panel, "challengers that passed the gate")
