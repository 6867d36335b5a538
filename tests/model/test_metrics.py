"""Figures that compare drafts with references: by hand, by a second implementation, and by their laws."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from sonoloop.model.metrics import Described, entity_f1, iou, num_edits, score
from sonoloop.platform.lexicon import Entities, KidneyEntities, LesionBox, LiverEntities

WORDS = ("the", "liver", "is", "normal", "coarse", "echo", "lesion", "of", "12", "mm", "no", "shadow", "seen")


def liver(parenchyma: str = "normal", **lesion: str) -> Entities:
    status = "present" if lesion else "absent"
    return LiverEntities.model_validate(
        {"organ": "liver", "parenchyma": parenchyma, "lesion": status, **lesion}
    )


def kidney(system: str = "not dilated") -> Entities:
    return KidneyEntities.model_validate({"organ": "kidney", "collecting_system": system, "lesion": "absent"})


def box(x: float, y: float, width: float, height: float, image: int = 0) -> LesionBox:
    return LesionBox(image_index=image, x=x, y=y, width=width, height=height)


def described(
    text: str, entities: Entities | None = None, *boxes: LesionBox, impression: str = "ok"
) -> Described:
    return Described(text, impression, entities, boxes)


def any_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 14)))


CYST = {"echogenicity": "anechoic", "margin": "well-defined", "posterior_features": "enhancement"}
FULL = described("A cyst of 12 mm.", liver("coarse", **CYST), box(0.1, 0.1, 0.2, 0.2), impression="Cyst.")


def test_a_perfect_draft_scores_one_and_needs_no_edit() -> None:
    other = described("Normal kidney.", kidney(), impression="Nothing found.")
    scores = score([FULL, other], [FULL, other])
    assert scores.entity_macro_f1 == scores.bleu_1 == scores.rouge_l == scores.box_iou == 1.0
    assert scores.edit_distance == 0.0
    assert (scores.num_cases, scores.num_missing) == (2, 0)
    assert num_edits(FULL, FULL) == 0


def test_no_draft_scores_zero_and_is_counted() -> None:
    scores = score([None], [FULL])
    assert (scores.num_cases, scores.num_missing) == (1, 1)
    assert scores.entity_macro_f1 == scores.bleu_1 == scores.rouge_l == scores.box_iou == 0.0
    assert scores.edit_distance == 1.0


def test_a_side_is_a_class_but_a_size_in_mm_is_none() -> None:
    def cyst(**where: object) -> Entities:
        return KidneyEntities.model_validate({**kidney().flat(), "lesion": "present", **CYST, **where})

    found = entity_f1([cyst(laterality="left", size_mm=12)], [cyst(laterality="left", size_mm=13)])
    assert found["kidney.laterality=left"] == 1.0
    assert set(found.values()) == {1.0}
    assert not any("size" in name for name in found)
    one, other = (described("x", cyst(size_mm=size)) for size in (12, 13))
    assert num_edits(one, other) == 1


def test_macro_f1_by_hand() -> None:
    drafts = [liver("normal"), liver("normal"), liver("coarse"), kidney("dilated")]
    references = [liver("normal"), liver("coarse"), liver("coarse"), kidney("not dilated")]
    expected = {
        "liver.parenchyma=normal": 2 * 1 / (2 + 1),  # said twice, true once, hit once
        "liver.parenchyma=coarse": 2 * 1 / (1 + 2),
        "liver.lesion=absent": 1.0,
        "kidney.collecting_system=not dilated": 0.0,
        "kidney.lesion=absent": 1.0,
    }
    assert entity_f1(drafts, references) == pytest.approx(expected)
    texts = [described("x", e) for e in drafts], [described("x", e) for e in references]
    scores = score(*texts)
    assert scores.entity_macro_f1 == pytest.approx(sum(expected.values()) / 5)
    assert scores.num_entity_classes == 5


def test_a_wrong_organ_hits_nothing_and_not_assessed_is_no_class() -> None:
    assert set(entity_f1([kidney()], [liver()]).values()) == {0.0}
    assert list(entity_f1([liver()], [liver("not assessed")])) == ["liver.lesion=absent"]
    assert entity_f1([None], [liver()]) == {
        "liver.lesion=absent": 0.0,
        "liver.parenchyma=normal": 0.0,
    }


def test_without_entities_in_any_reference_there_is_no_class_and_f1_is_zero() -> None:
    scores = score([described("x", liver())], [described("x")])
    assert (scores.entity_macro_f1, scores.num_entity_classes, scores.box_iou) == (0.0, 0, None)


def bleu_1(drafts: list[str], references: list[str]) -> float:
    """Clipped unigram precision over the corpus times the brevity penalty (Papineni et al. 2002)."""
    hits = drafted = wanted = 0
    for draft, reference in zip(drafts, references, strict=True):
        said, true = Counter(draft.lower().split()), Counter(reference.lower().split())
        hits, drafted, wanted = hits + (said & true).total(), drafted + said.total(), wanted + true.total()
    if not hits:
        return 0.0
    return hits / drafted * min(1.0, math.exp(1 - wanted / drafted))


def rouge_l(draft: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    said, true = draft.lower().split(), reference.lower().split()
    row = [0] * (len(true) + 1)
    for word in said:
        before = row
        row = [0]
        for place, other in enumerate(true):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(said) + len(true))


def levenshtein(draft: list[str], reference: list[str]) -> int:
    row = list(range(len(reference) + 1))
    for count, word in enumerate(draft, start=1):
        before, row = row, [count]
        for place, other in enumerate(reference):
            row.append(min(before[place] + (word != other), before[place + 1] + 1, row[place] + 1))
    return row[-1]


def test_bleu_rouge_and_edit_distance_agree_with_a_second_implementation() -> None:
    rng = random.Random(0)
    for _ in range(30):
        pairs = [
            (
                described(any_text(rng), impression=any_text(rng)),
                described(any_text(rng), impression=any_text(rng)),
            )
            for _ in range(rng.randint(1, 5))
        ]
        scores = score([d for d, _ in pairs], [r for _, r in pairs])
        # the tokenizers set punctuation apart or drop it; the second implementation gets none
        texts = [(d.report().replace(":", ""), r.report().replace(":", "")) for d, r in pairs]
        plain = [(d.report().split(), r.report().split()) for d, r in pairs]
        assert scores.rouge_l == pytest.approx(sum(rouge_l(*t) for t in texts) / len(texts), abs=1e-9)
        distances = [levenshtein(d, r) / max(len(d), len(r)) for d, r in plain]
        assert scores.edit_distance == pytest.approx(sum(distances) / len(distances), abs=1e-9)
        spaced = [(d.report().replace(":", " :"), r.report().replace(":", " :")) for d, r in pairs]
        assert scores.bleu_1 == pytest.approx(
            bleu_1([d for d, _ in spaced], [r for _, r in spaced]), abs=1e-9
        )


def test_every_figure_stays_between_zero_and_one_and_case_does_not_matter_for_bleu() -> None:
    rng = random.Random(1)
    for _ in range(50):
        draft, reference = described(any_text(rng), liver()), described(any_text(rng), kidney())
        scores = score([draft], [reference])
        for name in ("entity_macro_f1", "bleu_1", "rouge_l", "edit_distance"):
            assert 0.0 <= getattr(scores, name) <= 1.0
        loud = described(draft.findings.upper(), liver())
        assert score([loud], [reference]).bleu_1 == pytest.approx(scores.bleu_1)


def test_iou_by_hand_and_its_symmetry() -> None:
    one, other = box(0.0, 0.0, 0.4, 0.4), box(0.2, 0.2, 0.4, 0.4)
    assert iou(one, other) == iou(other, one) == pytest.approx(0.04 / 0.28)
    assert iou(one, one) == pytest.approx(1.0)
    assert iou(one, box(0.5, 0.5, 0.1, 0.1)) == 0.0


def test_box_iou_takes_the_best_box_of_the_same_image_only() -> None:
    truth = box(0.0, 0.0, 0.4, 0.4)
    near, elsewhere = box(0.2, 0.2, 0.4, 0.4), box(0.0, 0.0, 0.4, 0.4, image=1)
    scores = score([described("x", None, near, elsewhere)], [described("x", None, truth)])
    assert scores.box_iou == pytest.approx(0.04 / 0.28)
    assert score([described("x", None, near)], [described("x")]).box_iou is None


@pytest.mark.parametrize(
    ("draft", "edits"),
    [
        (FULL, 0),
        (described("Other.", liver("coarse", **CYST), *FULL.boxes, impression="Cyst."), 1),
        (described(" A cyst of 12 mm.\n", liver("coarse", **CYST), *FULL.boxes, impression="Cyst."), 0),
        (described(FULL.findings, liver("normal", **CYST), *FULL.boxes, impression="Cyst."), 1),
        (described(FULL.findings, liver("coarse", **CYST), impression="Cyst."), 1),
        (
            described(FULL.findings, liver("coarse", **CYST), box(0.12, 0.1, 0.2, 0.2), impression="Cyst."),
            0,
        ),
        (described(FULL.findings, liver("coarse"), impression="Cyst."), 5),  # status, 3 descriptors, box
        (described("", None, impression=""), 2 + 6 + 1),
    ],
)
def test_edits_are_the_fields_a_reader_must_touch(draft: Described, edits: int) -> None:
    assert num_edits(draft, FULL) == edits


@pytest.mark.parametrize(("drafts", "references"), [([], []), ([None], []), ([None, None], [FULL])])
def test_nothing_to_compare_is_a_value_error(drafts: list[None], references: list[Described]) -> None:
    with pytest.raises(ValueError, match="as many drafts as references"):
        score(drafts, references)
