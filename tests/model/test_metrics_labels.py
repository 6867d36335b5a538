"""Figures over labels, by hand and by counting."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sonoloop.model.metrics import entity_f1
from sonoloop.model.metrics.labels import (
    class_statistics,
    entity_labels,
    hamming_accuracy,
    label_statistics,
    macro,
)
from sonoloop.model.resampling import Statistic
from sonoloop.platform.lexicon import Entities, KidneyEntities, LiverEntities

LIVER = LiverEntities.model_validate({"organ": "liver", "parenchyma": "coarse", "lesion": "absent"})
KIDNEY = KidneyEntities.model_validate(
    {"organ": "kidney", "collecting_system": "dilated", "lesion": "absent"}
)


def value(statistic: Statistic, num: int) -> float:
    return float(statistic(np.ones((1, num)))[0])


def sets(*labels: str) -> list[frozenset[str]]:
    return [frozenset(one.split()) for one in labels]


def test_hamming_accuracy_by_hand() -> None:
    said, wanted = sets("a x", "", "p"), sets("a b", "c", "p")
    # group one knows a, b, c; x is no label of a reference
    assert hamming_accuracy(said, wanted, ["one", "one", "two"]) == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert hamming_accuracy(sets("a"), sets(""), ["one"]) == [1.0]


def test_macro_figures_by_hand() -> None:
    said, wanted = sets("a", "a", "b c"), sets("a", "b", "b")
    found = {name: value(s, 3) for name, s in macro(said, wanted).items()}
    assert found == pytest.approx(
        {
            "macro precision": (1 / 2 + 1 / 1) / 2,  # c occurs in no reference
            "macro recall": (1 / 1 + 1 / 2) / 2,
            "macro F1": (2 / 3 + 2 / 3) / 2,
        }
    )


def test_macro_f1_of_entities_is_that_of_the_loop() -> None:
    drafts: list[Entities | None] = [LIVER, None, LIVER]
    references: list[Entities | None] = [LIVER, KIDNEY, KIDNEY]
    said, wanted = [entity_labels(d) for d in drafts], [entity_labels(r) for r in references]
    assert "kidney.collecting_system=dilated" in wanted[1]
    f1 = entity_f1(drafts, references)
    found = label_statistics(said, wanted, ["liver", "kidney", "kidney"])
    assert value(found["macro F1"], 3) == pytest.approx(sum(f1.values()) / len(f1))
    assert value(found["Hamming accuracy"], 3) == pytest.approx((1 + 0 + 0) / 3)


def macro_by_counting(said: list[str | None], wanted: list[str]) -> tuple[float, float, float]:
    figures = []
    for label in sorted(set(wanted)):
        hits = sum(s == w == label for s, w in zip(said, wanted, strict=True))
        given, true = said.count(label), wanted.count(label)
        precision, recall = hits / given if given else 0.0, hits / true
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        figures.append((precision, recall, f1))
    precision, recall, f1 = np.mean(figures, axis=0).tolist()
    return precision, recall, f1


def test_class_figures_agree_with_a_second_implementation_and_unreadable_answers_are_wrong() -> None:
    rng = random.Random(0)
    for _ in range(20):
        wanted = rng.choices("abc", k=30)
        said = [rng.choice([None, "a", "b", "c", "z"]) for _ in wanted]
        found = class_statistics(said, wanted)
        hits = sum(one == other for one, other in zip(said, wanted, strict=True))
        assert value(found["accuracy"], 30) == pytest.approx(hits / 30)
        names = ("macro precision", "macro recall", "macro F1")
        assert [value(found[name], 30) for name in names] == pytest.approx(macro_by_counting(said, wanted))
    assert value(class_statistics([None], ["a"])["accuracy"], 1) == 0.0


def test_a_draw_counts_the_labels_that_occur_in_it() -> None:
    found = class_statistics(["a", "x"], ["a", "b"])["macro F1"]
    assert found(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).tolist() == pytest.approx([1.0, 0.0, 0.5])
