"""The story as tables of words, the same for the terminal and for the page."""

from __future__ import annotations

from sonoloop.jobs.annotating.figures import money
from sonoloop.jobs.progress import in_words
from sonoloop.jobs.reporting.section import Section, cell, number
from sonoloop.jobs.reporting.story import Story

FUNNEL = (
    ("objects", "objects of the archive"),
    ("instances", "read as ultrasound"),
    ("cases", "cases"),
    ("drafted_cases", "cases with a draft"),
    ("tasks", "cases in Label Studio"),
    ("reviewed_cases", "cases with a review"),
    ("training_cases", "reviews trained on"),
)
"""The steps that are shown, and their words."""


def loop_sections(story: Story) -> list[Section]:
    """What came through."""
    return [_funnel(story), _rejections(story)]


def model_sections(story: Story) -> list[Section]:
    """What models came of it."""
    return [_quality(story), _verdicts(story), _experts(story)]


def running_sections(story: Story) -> list[Section]:
    """What it took, and what moved."""
    return [_cost(story), _drift(story)]


def _funnel(story: Story) -> Section:
    counts = [(words, getattr(story.funnel, name)) for name, words in FUNNEL]
    before = [None, *(number for _, number in counts)]
    rows = tuple(
        (words, f"{found:,}", "-" if not old else f"{found / old:.0%}")
        for (words, found), old in zip(counts, before, strict=False)
    )
    return Section(
        "funnel",
        "Through the funnel",
        f"{story.funnel.drafts:,} drafts in all; the model line has {story.funnel.models} versions. A study "
        "of several objects is one case, so cases are fewer; each step's share is of the step above.",
        ("step", "number", "of the step above"),
        rows if any(found for _, found in counts) else (),
    )


def rejected(story: Story) -> list[tuple[str, str, int]]:
    """Where something was rejected, why, and how often; most first."""
    kinds = (("archive", story.objects_rejected), ("drafting", story.cases_rejected))
    return [(where, reason, found) for where, counts in kinds for reason, found in counts.items()]


def _rejections(story: Story) -> Section:
    return Section(
        "rejections",
        "What was rejected, and why",
        "Archive: objects and frames that make no picture of a case. Drafting: cases of which a model made "
        "no draft, another one may have; sonoloop index --retry-rejected and sonoloop annotate "
        "--retry-rejected try again what may pass.",
        ("where", "reason", "number"),
        tuple((where, reason, f"{found:,}") for where, reason, found in rejected(story)),
    )


def _quality(story: Story) -> Section:
    return Section(
        "quality",
        "How good the models are, round by round",
        "On held-out reviews of a snapshot, oldest version first; compare versions on the same snapshot. In "
        "brackets, intervals of 95 %, patients drawn anew.",
        ("model version", "snapshot", "n", "entity macro-F1", "edits per case", "calibration error"),
        tuple(
            (
                one.model_version,
                one.snapshot,
                str(one.num_cases),
                cell(one.entity_macro_f1),
                cell(one.edits_per_case),
                cell(one.calibration_error),
            )
            for one in story.measured
        ),
    )


def _verdicts(story: Story) -> Section:
    return Section(
        "decisions",
        "What the gate decided",
        "A challenger drafts only if it passes every check; decision.md beside the model has all of them.",
        ("decided", "challenger", "against", "verdict", "why"),
        tuple(
            (
                f"{one.decided_at:%Y-%m-%d %H:%M}",
                one.challenger,
                one.champion,
                "promoted" if one.promoted else f"refused: {', '.join(one.failed)}",
                one.reason,
            )
            for one in reversed(story.verdicts)
        ),
    )


def _experts(story: Story) -> Section:
    return Section(
        "experts",
        "How trainings used the experts",
        "At each epoch's end: the worst layer's least used expert, as a share of what an even split would "
        "give it, and the worst layer's entropy (1 is even). Near 0, an expert is dead.",
        ("training", "epoch", "least used expert", "balance"),
        tuple(
            (one.run_id, str(epoch + 1), f"{share:.1%}", number(balance))
            for one in story.trainings
            for epoch, share, balance in one.experts
        ),
    )


def _cost(story: Story) -> Section:
    rows = [
        (
            one.run_id,
            one.model_version,
            f"{one.cases:,}",
            f"{one.rejected:,}",
            in_words(one.seconds),
            number(one.cases_per_s),
            "-" if one.tokens_per_s is None else f"{one.tokens_per_s:.0f}",
            "-" if one.actor_utilisation is None else f"{one.actor_utilisation:.0%}",
            "-" if one.cost is None else money(one.cost, one.currency),
        )
        for one in reversed(story.spent)
    ]
    total: dict[str, float] = {}  # the currency may have been changed on the way
    for one in story.spent:
        if one.cost is not None:
            total[one.currency] = total.get(one.currency, 0) + one.cost
    costs = " and ".join(money(cost, currency) for currency, cost in total.items())
    in_all = f"{costs} in all. " if costs else ""
    return Section(
        "cost",
        "What drafting took",
        f"{in_all}Finished runs, the newest first; the cost is that of the nodes while the run was there, by "
        "the prices of [cost].",
        ("run", "model version", "cases", "rejected", "time", "cases/s", "tokens/s", "actors busy", "cost"),
        tuple(rows),
    )


def _drift(story: Story) -> Section:
    drift = story.drift
    title = "What moved" if drift is None else f"What moved in {drift.month}: {len(drift.alarms)} alarms"
    compared = (
        [] if drift is None else sorted(drift.compared, key=lambda one: (not one.alarm, -abs(one.shift)))
    )
    return Section(
        "drift",
        title,
        "A month against the months before it; shift is in standard deviations for means, and the share of "
        "words that changed for mixes.",
        ("what", "scanner", "drafts of", "shift", "n", "before", ""),
        tuple(
            (
                one.what,
                one.scanner,
                one.written_by or "-",
                f"{one.shift:+.2f}",
                f"{one.month['n']:.0f}",
                f"{one.reference['n']:.0f}",
                "alarm" if one.alarm else "",
            )
            for one in compared
        ),
    )
