"""How a stage's progress reads."""

from __future__ import annotations

import threading

import pytest

from sonoloop.jobs import progress
from sonoloop.jobs.progress import Standing, in_words, shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3590, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_line_says_what_is_known_and_nothing_else() -> None:
    full = Standing(3, 10, 1.234, 5.6, ("2 rejected",))
    assert str(full) == "3/10, 1.23/s, 6 s left, 2 rejected"
    assert str(Standing(0, 10)) == "0/10"
    assert str(Standing(10, 10, 2.0, 0.0)) == "10/10, 2/s"


def test_lines_are_written_where_no_terminal_is_and_only_when_somebody_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    answers = [None, Standing(0, 0), Standing(0, 5), Standing(4, 5, 2.0, 0.5)]
    all_given = threading.Event()

    def look() -> Standing | None:
        if answers:
            return answers.pop(0)
        all_given.set()
        return None

    with shown("work", look):
        assert all_given.wait(60)
    assert capsys.readouterr().err.splitlines() == ["work: 0/5, starting", "work: 4/5, 2/s, 0 s left"]
