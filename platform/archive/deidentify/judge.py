"""What becomes of a text that was found: kept as a scanner's mark, or masked, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sonoloop.platform.archive.deidentify.identifiers import Identifiers
from sonoloop.platform.archive.deidentify.marks import is_harmless
from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.archive.deidentify.ocr import Reading

Verdict = Literal["harmless", "tissue", "text", "unreadable-text", "identifier"]

SURE = 0.8
"""Mean probability of the letters from which on a text may be harmless."""
READABLE = 0.6
"""... and from which on it says something, whatever that is."""


SHORTEST_PX = 7
"""What cannot be read and is found less tall (the finder adds a margin) holds no letters: five rows are the
least that a capital takes."""


class Text(NamedTuple):
    """A text in the picture as looked at."""

    box: Box
    reading: Reading


def judge(texts: Sequence[Text], identifiers: Identifiers, tallest: float) -> list[Verdict]:
    """One verdict each.

    Args:
        texts: All that one look found.
        identifiers: Of the file that the picture is of.
        tallest: Pixels above which what cannot be read surely is no text but tissue: the recogniser sees any
            text at 48 rows, so that height is never why it fails. No text is 2.5 times as tall.
    """
    verdicts = [_alone(text, identifiers, tallest) for text in texts]
    # what is read into tissue would make dates and names of any line
    for line in _lines([(i, text) for i, text in enumerate(texts) if verdicts[i] != "tissue"]):
        if identifiers.are_in(" ".join(texts[i].reading.text for i in line)):
            verdicts = ["identifier" if i in line else verdict for i, verdict in enumerate(verdicts)]
        for i in line:
            # part of something longer: the day of a date, a word of a sentence
            beside = [j for j in line if j != i and _are_close(texts[i].box, texts[j].box)]
            if verdicts[i] == "harmless" and any(verdicts[j] in ("text", "identifier") for j in beside):
                verdicts[i] = "text"
    return verdicts


def _alone(text: Text, identifiers: Identifiers, tallest: float) -> Verdict:
    said, score = text.reading.text.strip(), text.reading.score
    height = min(text.box.height, text.box.width)
    if height <= 2.5 * tallest and identifiers.are_in(said):
        return "identifier"
    if score >= SURE and is_harmless(said):
        return "harmless"
    if score >= (SURE if height > tallest else READABLE) and len(said) > 1 and height <= 2.5 * tallest:
        return "text"
    if not SHORTEST_PX <= height <= tallest:
        return "tissue"
    return "harmless" if _is_symbol(text) else "unreadable-text"


def _is_symbol(text: Text) -> bool:
    """Whether it is one sign: a tick of a scale, a focus mark, a maker's logo. One sign names nobody."""
    longer, shorter = sorted((text.box.height, text.box.width), reverse=True)
    return len(text.reading.text.strip()) <= 1 and longer <= 1.6 * shorter


def _lines(texts: Sequence[tuple[int, Text]]) -> list[list[int]]:
    """Places of the texts that stand on one line, from left to right."""
    lines: list[list[tuple[int, Box]]] = []
    for i, text in sorted(texts, key=lambda placed: placed[1].box.left):
        line = next((line for line in lines if _share_a_line(line[-1][1], text.box)), None)
        if line is None:
            lines.append([(i, text.box)])
        else:
            line.append((i, text.box))
    return [[i for i, _ in line] for line in lines]


def _share_a_line(one: Box, other: Box) -> bool:
    common = min(one.bottom, other.bottom) - max(one.top, other.top) + 1
    return common >= 0.6 * min(one.height, other.height)


def _are_close(one: Box, other: Box) -> bool:
    gap = max(one.left, other.left) - min(one.right, other.right)
    return _share_a_line(one, other) and gap <= max(one.height, other.height)
