"""The layout of EchoVLM's published tables (arXiv 2509.14977): three tasks by seven regions.

Report generation, diagnosis and VQA are each a table whose rows are regions and models. Every task has the
text figures. Closed questions (with options, or with a letter or a judgement as reference) have accuracy and
macro figures beside; items with labels have the entity figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.answering import answer_all
from sonoloop.jobs.evaluating.averages import Figures, group_rows
from sonoloop.jobs.evaluating.items import Answered, Item
from sonoloop.jobs.evaluating.reading import closed_class, read_choice, read_closed, read_terms
from sonoloop.jobs.evaluating.results import SuiteResult, SuiteRow, store_result
from sonoloop.jobs.evaluating.suites.conversations import OTHER, REGIONS, TASKS, conversation_files
from sonoloop.jobs.evaluating.texts import TextFigures
from sonoloop.model.metrics import labels
from sonoloop.model.metrics.tokens import tokenizers_for
from sonoloop.platform import registry
from sonoloop.platform.workspace import store_of

_MEANINGS = {
    "average": "plain mean over the regions that have items",
    "closed": "accuracy and macro figures over the closed questions alone: items with options, or with a "
    "letter or a judgement (yes or no) as reference",
    "entity": "label figures over the items with labels alone; the answer gives a label where it names it, "
    "negated or not",
    "unreadable": "answers to closed questions that name no option or several: wrong",
}


def run_echovlm(config: Config, path: str, *, model: str) -> SuiteResult:
    """Answer a folder of published conversations with a model and score it.

    Args:
        config: The configuration.
        path: The folder of the files and their pictures, or an ``s3://`` URI.
        model: Alias or version.

    Raises:
        NothingToDoError: no file of conversations there.
        ConfigError: no such model, or the cluster cannot hold the actors.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    files = conversation_files(store_of(path, config.s3), max_images=config.annotate.engine.max_images)
    answers = answer_all(config, workspace, version, files)
    texts = TextFigures(tokenizers_for(one.item.reference for one in answers), config.evaluate)
    return store_result(
        workspace,
        "echovlm",
        version,
        answers,
        score_echovlm([one for one in answers if one.is_scored], texts),
        definitions={**_MEANINGS, **labels.DEFINITIONS, **texts.definitions},
        tokenizers=texts.names,
    )


def score_echovlm(answers: Sequence[Answered], texts: TextFigures) -> list[SuiteRow]:
    """A row for each task and region, and for each task's average."""
    rows: list[SuiteRow] = []
    for task in TASKS:
        if own := [one for one in answers if one.item.task == task]:
            found, _ = group_rows(
                task, own, lambda some: _figures(some, texts), average="average", groups=(*REGIONS, OTHER)
            )
            rows += found
    return rows


def wanted_class(item: Item) -> str | None:
    """The right option, letter or judgement of a closed question; ``None`` for an open one."""
    if item.options:
        return read_choice(item.reference, item.options)
    return closed_class(item.reference)


def _figures(answers: Sequence[Answered], texts: TextFigures) -> Figures:
    written = texts([one.text for one in answers], [one.item.reference for one in answers])
    found = Figures.over(written, len(answers))
    for more in (_closed(answers), _entities(answers)):
        found = Figures({**found.statistics, **more.statistics}, found.num_unreadable + more.num_unreadable)
    return found


def _closed(answers: Sequence[Answered]) -> Figures:
    """Figures over the closed questions; none where there is none."""
    classes = [wanted_class(one.item) for one in answers]
    columns_N = np.flatnonzero([wanted is not None for wanted in classes])
    pairs = [(answers[at], wanted) for at in columns_N if (wanted := classes[at])]
    if not pairs:
        return Figures({})
    said = [
        read_choice(one.text, one.item.options) if one.item.options else read_closed(one.text, wanted)
        for one, wanted in pairs
    ]
    statistics = labels.class_statistics(said, [wanted for _, wanted in pairs])
    named = {f"closed {name}": statistic for name, statistic in statistics.items()}
    return Figures.over(named, len(pairs), num_unreadable=said.count(None)).on(columns_N)


def _entities(answers: Sequence[Answered]) -> Figures:
    """Figures over the items with labels; none where there is none."""
    columns_N = np.flatnonzero([bool(one.item.labels) for one in answers])
    own = [answers[at] for at in columns_N]
    if not own:
        return Figures({})
    known = sorted({label for one in own for label in one.item.labels})
    said = [read_terms(one.text, known) for one in own]
    wanted = [frozenset(one.item.labels) for one in own]
    statistics = labels.label_statistics(said, wanted, [one.item.group for one in own])
    named = {f"entity {name}": statistic for name, statistic in statistics.items()}
    return Figures.over(named, len(own)).on(columns_N)
