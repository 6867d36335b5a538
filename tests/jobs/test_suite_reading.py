"""What is read from an answer, however a model puts it."""

from __future__ import annotations

import pytest

from sonoloop.jobs.evaluating.reading import (
    LOCATIONS,
    closed_class,
    location_of,
    read_choice,
    read_closed,
    read_location,
    read_number,
    read_terms,
)


@pytest.mark.parametrize(
    ("answer", "options", "found"),
    [
        ("benign", ("benign", "malignant"), "benign"),
        (" 'Benign'.\n", ("benign", "malignant"), "benign"),
        ('{"class": "malignant"}', ("benign", "malignant"), "malignant"),
        ("The lesion looks malignant to me.", ("benign", "malignant"), "malignant"),
        ("benign or malignant", ("benign", "malignant"), None),
        ("I cannot tell", ("benign", "malignant"), None),
        ("", ("benign", "malignant"), None),
        ("this is non-pancreas cancer", ("non-pancreas cancer", "pancreas cancer"), "non-pancreas cancer"),
        ("BI-RADS 4A, suspicious", ("2", "3", "4A", "4B"), "4A"),
        ("score: 2", ("0", "1", "2", "3"), "2"),
        ("about 12", ("1", "2"), None),
        ("考虑恶性肿瘤", ("良性", "恶性"), "恶性"),
    ],
)
def test_an_option_is_read_where_it_is_the_only_one(
    answer: str, options: tuple[str, ...], found: str | None
) -> None:
    assert read_choice(answer, options) == found


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_location_is_read_in_a_sentence_and_none_for_another(location: str) -> None:
    assert read_location(f"It lies in the {location} of the image.") == location
    assert read_location(location.replace(" ", "-").upper()) == location


def test_a_location_that_is_ambiguous_or_none_is_not_read() -> None:
    assert read_location("upper left or lower left") is None
    assert read_location("in the left lobe") is None
    assert read_location("Central.") == read_location("middle center") == "center"


def test_points_of_all_nine_fields_get_their_words_and_the_borders_count_to_the_right_and_below() -> None:
    found = [location_of(x, y) for y in (0.1, 0.5, 0.9) for x in (0.1, 0.5, 0.9)]
    assert found == list(LOCATIONS[:9])
    assert location_of(0.45, 0.45) == "center"
    assert location_of(0.55, 0.55) == "lower right"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("55.0", 55.0),
        ("EF is about 55 %", 55.0),
        ('{"IMT": 0.72}', 0.72),
        ("-3.5 mm", -3.5),
        ("null", None),
        ("", None),
        ("9" * 400, None),
    ],
)
def test_the_first_finite_number_is_read(answer: str, found: float | None) -> None:
    assert read_number(answer) == found


def test_terms_inside_longer_terms_do_not_count() -> None:
    terms = ("低回声", "极低回声", "Cyst")
    assert read_terms("可见极低回声，cyst", terms) == {"极低回声", "Cyst"}
    assert read_terms("cystic", terms) == frozenset()


@pytest.mark.parametrize(
    ("reference", "kind", "answer", "found"),
    [
        ("B", "B", "B. benign", "B"),
        ("b", "B", "The answer is C", "C"),
        ("A", "A", "答案：A", "A"),
        ("A", "A", "Adenoma", None),
        ("是", "yes", "是的，可见结节。", "yes"),
        ("No.", "no", "Yes, there is.", "yes"),
        ("no", "no", "perhaps", None),
    ],
)
def test_letters_and_judgements_are_read_at_the_beginning(
    reference: str, kind: str, answer: str, found: str | None
) -> None:
    assert closed_class(reference) == kind
    assert read_closed(answer, kind) == found


def test_a_free_text_is_no_closed_question() -> None:
    assert closed_class("A cyst of the liver") is None
