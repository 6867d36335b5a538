"""A text is kept only as a whole: what stands close to something suspicious is suspicious too."""

from __future__ import annotations

import pytest

from sonoloop.platform.archive.deidentify.identifiers import Identifiers
from sonoloop.platform.archive.deidentify.judge import Text, Verdict, judge
from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.archive.deidentify.ocr import Reading

NOBODY = Identifiers()


def text(said: str, left: int = 0, top: int = 0, *, score: float = 0.99, height: int = 16) -> Text:
    width = max(height, 8 * len(said)) if height < 50 else height
    return Text(Box(left, top, left + width - 1, top + height - 1), Reading(said, score))


def verdicts(*texts: Text, identifiers: Identifiers = NOBODY) -> list[Verdict]:
    return judge(texts, identifiers, tallest=50)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (text("MI 0.6"), "harmless"),
        (text("MI 0.6", score=0.7), "text"),
        (text("Mueller"), "text"),
        (text("Mueller", score=0.4), "unreadable-text"),
        (text("x", score=0.3), "harmless"),
        (text("Cr", score=0.7, height=200), "tissue"),
        (text("Or", score=0.3, height=80), "tissue"),
        (text("Mueller", score=0.95, height=80), "text"),
        (text("Mu", score=0.2, height=5), "tissue"),
    ],
)
def test_a_text_by_itself(one: Text, expected: Verdict) -> None:
    assert verdicts(one) == [expected]


def test_a_mark_beside_a_name_goes_with_it_and_one_apart_or_below_stays() -> None:
    beside, apart, below = text("Right", 64), text("60%", 400), text("60%", 0, 40)
    assert verdicts(text("Mueller"), beside, apart, below) == ["text", "text", "harmless", "harmless"]


def test_pieces_of_a_date_are_known_by_the_line_they_make() -> None:
    born = Identifiers(dates=frozenset({"170549"}))
    pieces = [text("17", 0), text("05", 60), text("49", 120)]
    assert verdicts(*pieces) == ["harmless"] * 3
    assert verdicts(*pieces, identifiers=born) == ["identifier"] * 3


def test_digits_read_into_tissue_make_no_date() -> None:
    born = Identifiers(dates=frozenset({"100210"}))
    tissue, mark = text("10", 0, score=0.38, height=200), text("2 10", 210)
    assert verdicts(tissue, mark, identifiers=born) == ["tissue", "text"]


def test_a_name_read_into_a_third_of_the_picture_is_tissue() -> None:
    assert verdicts(text("Mu", height=140), identifiers=Identifiers(frozenset({"MU"}))) == ["tissue"]
