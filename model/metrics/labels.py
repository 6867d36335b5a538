"""Figures over labels: entity values, terms, and the one class of an answer.

A case has a set of labels that its reference gives and a set that the model gave. Counted are the labels that
occur in at least one reference. A class is the special case of one label: an answer that could not be read
gives none.

Shape letters: R draws, N cases, C labels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sonoloop.model.resampling import Array, Statistic, mean
from sonoloop.platform.lexicon import NOT_ASSESSED, Entities, choice_fields

Labels = Sequence[frozenset[str]]
HAMMING_DEFINITION = {
    "Hamming accuracy": "1 - Hamming loss: mean over cases of the share of labels, of those that occur in "
    "any reference of the case's own group (organ or region), on which answer and reference agree, there or "
    "not there; near 1 where labels are rare, so read it beside macro F1 (Schapire and Singer, Machine "
    "Learning 2000;39:135-168)",
}
CLASS_DEFINITIONS = {
    "macro precision": "precision of every label that occurs in the references, 0 where it was never given, "
    "then the plain mean",
    "macro recall": "recall of every label that occurs in the references, then the plain mean",
    "macro F1": "F1 of every label that occurs in the references, then the plain mean",
    "accuracy": "share of answers that name the right class; an answer that cannot be read is wrong",
}
DEFINITIONS = {**HAMMING_DEFINITION, **CLASS_DEFINITIONS}


def entity_labels(entities: Entities | None) -> frozenset[str]:
    """Every assessed choice of a record as ``organ.field=value``; numbers and ``not assessed`` are none."""
    if entities is None:
        return frozenset()
    flat = entities.flat()
    organ = flat.pop("organ")
    words = choice_fields(entities.organ)
    return frozenset(
        f"{organ}.{name}={value}" for name, value in flat.items() if name in words and value != NOT_ASSESSED
    )


def label_statistics(said: Labels, wanted: Labels, groups: Sequence[str]) -> dict[str, Statistic]:
    """Hamming accuracy and macro precision, recall and F1.

    Args:
        said: Labels that each case's answer gives.
        wanted: Labels that its reference gives.
        groups: Organ or region of each case.
    """
    return {"Hamming accuracy": mean(hamming_accuracy(said, wanted, groups)), **macro(said, wanted)}


def class_statistics(said: Sequence[str | None], wanted: Sequence[str]) -> dict[str, Statistic]:
    """Accuracy and macro precision, recall and F1 of one class for each case.

    Args:
        said: The class that each answer names; ``None`` where it cannot be read.
        wanted: The right one.
    """
    hits = [float(one == other) for one, other in zip(said, wanted, strict=True)]
    named = [frozenset() if one is None else frozenset([one]) for one in said]
    return {"accuracy": mean(hits), **macro(named, [frozenset([one]) for one in wanted])}


def hamming_accuracy(said: Labels, wanted: Labels, groups: Sequence[str]) -> list[float]:
    """Of each case, the share of its group's labels on which both agree; 1 where its group has none."""
    known: dict[str, set[str]] = {}
    for labels, group in zip(wanted, groups, strict=True):
        known.setdefault(group, set()).update(labels)
    return [
        1 - len((one ^ other) & known[group]) / len(known[group]) if known[group] else 1.0
        for one, other, group in zip(said, wanted, groups, strict=True)
    ]


def macro_f1(said: Labels, wanted: Labels) -> Statistic:
    """F1 of every label that occurs in the drawn references, then the plain mean."""
    return macro(said, wanted)["macro F1"]


def macro(said: Labels, wanted: Labels) -> dict[str, Statistic]:
    """Macro precision, recall and F1 over the labels that occur in the drawn references."""
    place = {label: column for column, label in enumerate(sorted(frozenset().union(*wanted)))}
    said_NC, wanted_NC = _indicators(said, place), _indicators(wanted, place)
    hits_NC = said_NC * wanted_NC

    def over_labels(above: Array, below: Array, occurs: Array) -> Array:
        each_RC = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        found, num = (each_RC * occurs).sum(1), occurs.sum(1)
        average: Array = np.divide(found, num, out=np.full_like(found, np.nan), where=num > 0)
        return average

    def counted(weights_RN: Array) -> tuple[Array, Array, Array, Array]:
        wanted_RC = weights_RN @ wanted_NC
        return weights_RN @ hits_NC, weights_RN @ said_NC, wanted_RC, (wanted_RC > 0).astype(np.float64)

    def precision(weights_RN: Array) -> Array:
        hits, given, _, occurs = counted(weights_RN)
        return over_labels(hits, given, occurs)

    def recall(weights_RN: Array) -> Array:
        hits, _, true, occurs = counted(weights_RN)
        return over_labels(hits, true, occurs)

    def f1(weights_RN: Array) -> Array:
        hits, given, true, occurs = counted(weights_RN)
        return over_labels(2 * hits, given + true, occurs)

    return {"macro precision": precision, "macro recall": recall, "macro F1": f1}


def _indicators(labels: Labels, place: dict[str, int]) -> Array:
    found_NC = np.zeros((len(labels), len(place)))
    for case, own in enumerate(labels):
        found_NC[case, [place[label] for label in own if label in place]] = 1
    return found_NC
