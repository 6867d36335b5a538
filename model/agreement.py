"""How far readers agree, as pure figures over what they said.

Coefficients are NLTK's (`nltk.metrics.agreement`, Apache-2.0), after Artstein and Poesio, Computational
Linguistics 2008;34:555-596:

- Cohen's kappa, of two readers over the same cases. Source: Cohen, Educ Psychol Meas 1960;20:37-46.
- Fleiss' kappa, of any readers, each case read by as many. Source: Fleiss, Psychol Bull 1971;76:378-382.
  NLTK calls it multi-pi; it does not matter who said what, so a reader is a place in the list.
- Krippendorff's alpha, of any readers, cases read by fewer included. Source: Krippendorff, Content Analysis,
  2nd ed., 2004, chapter 11; its ordinal distance there as well.

All are 1 for perfect agreement and 0 for what chance would give. Where everybody said one and the same thing
throughout, chance agrees as well, and there is no figure. Intervals are those of `agreement_intervals`;
numbers such as a size are compared in `number_agreement`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from nltk.metrics.agreement import AnnotationTask
from nltk.metrics.distance import binary_distance
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from sonoloop.model.agreement_intervals import alpha_interval, cohen_interval, fleiss_interval, with_interval
from sonoloop.model.intervals import Estimate
from sonoloop.model.metrics import iou
from sonoloop.platform.lexicon import NOT_ASSESSED, LesionBox, Organ, field_values

_GRADED: dict[Organ, frozenset[str]] = {
    "breast": frozenset({"bi_rads"}),
    "ovary": frozenset({"papillary_projections", "color_score", "o_rads"}),
    "heart": frozenset(
        {
            "lv_size",
            "lv_systolic_function",
            "la_size",
            "rv_size",
            "ra_size",
            "aortic_stenosis",
            "mitral_stenosis",
            "aortic_regurgitation",
            "mitral_regurgitation",
            "tricuspid_regurgitation",
            "pericardial_effusion",
        }
    ),
    "vessel": frozenset({"stenosis"}),
}
"""Fields whose vocabulary stands in the order of its grades."""
_NO_GRADE = {"bi_rads": "0", "o_rads": "0"}
"""A value that says that the grade is not known yet."""


def grades(organ: Organ, field: str) -> tuple[str, ...]:
    """The grades of a field from lowest to highest; none where its values have no order."""
    if field not in _GRADED.get(organ, ()):
        return ()
    without = (NOT_ASSESSED, _NO_GRADE.get(field))
    return tuple(value for value in field_values(organ, field) if value not in without)


def agreeing_share(values: Sequence[str]) -> float:
    """Share of pairs of readers who said the same of one case, 0..1.

    Raises:
        ValueError: fewer than two readers.
    """
    if len(values) < 2:
        raise ValueError(f"agreement takes two readers, got {len(values)}")
    pairs = list(combinations(values, 2))
    return sum(one == other for one, other in pairs) / len(pairs)


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> Estimate | None:
    """Cohen's kappa of two readers.

    Args:
        pairs: What the first and the second said of each case that both read.
    """
    if _is_constant(pairs):
        return None
    said = [(reader, item, value) for item, pair in enumerate(pairs) for reader, value in enumerate(pair)]
    kappa = float(AnnotationTask(said).kappa_pairwise(0, 1))
    return with_interval(kappa, cohen_interval(pairs), len(pairs))


def fleiss_kappa(readings: Sequence[Sequence[str]]) -> Estimate | None:
    """Fleiss' kappa over the cases that were read by as many readers as most of them.

    Args:
        readings: What was said of each case; those with one reader are left out.
    """
    sizes = Counter(len(values) for values in readings if len(values) > 1)
    if not sizes:
        return None
    (size, _), *_ = sizes.most_common(1)
    same = [values for values in readings if len(values) == size]
    if _is_constant(same):
        return None
    return with_interval(float(AnnotationTask(_said(same)).pi()), fleiss_interval(same), len(same))


def krippendorff_alpha(readings: Sequence[Sequence[str]], order: Sequence[str] = ()) -> Estimate | None:
    """Krippendorff's alpha: nominal, or ordinal where the values have an order.

    Args:
        readings: What was said of each case; those with one reader are left out.
        order: Grades from lowest to highest; other values then count as not said.
    """
    kept = [[value for value in values if not order or value in order] for values in readings]
    pairable = [values for values in kept if len(values) > 1]
    if _is_constant(pairable):
        return None
    distance = _ordinal(pairable, order) if order else binary_distance
    alpha = float(AnnotationTask(_said(pairable), distance=distance).alpha())
    return with_interval(alpha, alpha_interval(pairable, order), len(pairable))


def box_agreement(one: Sequence[LesionBox], other: Sequence[LesionBox]) -> float | None:
    """Mean intersection over union of two readers' boxes, 0..1; a box without a partner counts as 0.

    Boxes are paired within their image so that the sum is the largest possible (Hungarian method).

    Returns:
        ``None`` where neither drew a box.
    """
    if not one and not other:
        return None
    overlap = np.array(
        [[iou(a, b) if a.image_index == b.image_index else 0.0 for b in other] for a in one]
    ).reshape(len(one), len(other))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    met = overlap[rows, columns]
    num_paired = int((met > 0).sum())
    return float(met.sum() / (len(one) + len(other) - num_paired))


def text_distance(one: str, other: str) -> float:
    """Word-level Levenshtein distance, divided by the longer text's number of words, 0..1."""
    return float(Levenshtein.normalized_distance(one.split(), other.split()))


def graded_field(name: str) -> tuple[str, ...]:
    """`grades` of a field named ``<organ>.<field>``; none for ``organ`` itself."""
    organ, _, field = name.partition(".")
    return next((grades(known, field) for known in _GRADED if known == organ), ())


def _said(readings: Sequence[Sequence[str]]) -> list[tuple[int, int, str]]:
    return [
        (place, item, value) for item, values in enumerate(readings) for place, value in enumerate(values)
    ]


def _is_constant(readings: Sequence[Sequence[str]]) -> bool:
    return len({value for values in readings for value in values}) < 2


def _ordinal(readings: Sequence[Sequence[str]], order: Sequence[str]) -> Callable[[str, str], float]:
    """Squared number of readings between two grades, half of those at either end."""
    counts = Counter(value for values in readings for value in values)
    below = np.concatenate([[0], np.cumsum([counts[grade] for grade in order])])
    middle = {grade: (below[i] + below[i + 1]) / 2 for i, grade in enumerate(order)}
    return lambda one, other: float(middle[one] - middle[other]) ** 2
