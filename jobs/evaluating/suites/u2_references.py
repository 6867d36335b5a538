"""What a row of U2-BENCH expects as its answer. Cells hold JSON or Python literals."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sonoloop.jobs.evaluating.reading import LOCATIONS, location_of, plain
from sonoloop.platform.errors import Reason, RejectedError

MAX_LITERAL_CHARS = 100_000
Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reference:
    """What should be answered, and the admissible answers where the question is closed."""

    reference: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value to be estimated: its name in ``measurement``, and the range that errors are divided by."""

    name: re.Pattern[str]
    low: float
    high: float

    def scaled(self, value: float) -> float:
        """0 at the range's lower end, 1 at its upper one."""
        return (value - self.low) / (self.high - self.low)


def _quantity(name: str, low: float, high: float) -> Quantity:
    return Quantity(re.compile(name, re.IGNORECASE), low, high)


QUANTITIES = {
    18: _quantity(r"^EF", 10, 75),
    27: _quantity(r"IMT", 0.3, 1.5),
    31: _quantity(r"HC|circumference", 100, 350),
    50: _quantity(r"circumference", 100, 400),
    57: _quantity(r"fat", 0, 85),
}
"""By the number of the data set. Source: MIN_MAX_DICT of the published scorer (qwen_measure_eval.py); for 31,
which that leaves to another program, the range in its published prompt (mea_prompt.json)."""


def literal(cell: str) -> Any:
    """A cell's value: JSON, a Python literal, or the text itself."""
    if len(cell) > MAX_LITERAL_CHARS:
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return cell


def dataset_number(row: Row) -> int | None:
    """The number that a data set's name begins with, such as 10 of ``10.FPUS23``."""
    match = re.match(r"\d+", row.get("dataset_name", ""))
    return int(match.group()) if match else None


def label(row: Row) -> Reference:
    """The class, spelled as among the options.

    Raises:
        RejectedError: no class, or one that is none of the options.
    """
    task = row.get("classification_task", "")
    options = _options(row.get("options", ""), task)
    wanted = _first(_part(literal(row.get("class_label", "")), task))
    known = {plain(option): option for option in options}
    if not options:
        raise RejectedError(Reason.UNREADABLE, "expected options to choose from, found none")
    if plain(wanted) not in known:
        raise RejectedError(Reason.UNREADABLE, f"class_label is none of its {len(options)} options")
    return Reference(known[plain(wanted)], options)


def box_location(row: Row) -> Reference:
    """Where the centre of the box lies; ``not visible`` without a box.

    Raises:
        RejectedError: a box that is none, or is not in fractions of the picture.
    """
    return _location(row.get("gt_bbox", ""), row.get("seg_channel_name", ""))


def point_location(row: Row) -> Reference:
    """Where the first keypoint lies; ``not visible`` without one.

    Raises:
        RejectedError: as of `box_location`.
    """
    return _location(row.get("keypoints", ""), "")


def measurement(row: Row) -> Reference:
    """The number.

    Raises:
        RejectedError: no number, or a data set without a published range.
    """
    quantity = QUANTITIES.get(dataset_number(row) or -1)
    if quantity is None:
        raise RejectedError(Reason.UNREADABLE, "no range of values is published for this data set")
    found = literal(row.get("measurement", ""))
    found = found[0] if isinstance(found, list) and found else found
    if isinstance(found, dict):
        named = [value for name, value in found.items() if quantity.name.search(str(name))]
        found = named[0] if named else None
    found = found[0] if isinstance(found, list) and found else found
    try:
        value = float(found)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise RejectedError(Reason.UNREADABLE, "measurement holds no number for this data set's value")
    return Reference(repr(value))


def report(row: Row) -> Reference:
    """The report, else the caption.

    Raises:
        RejectedError: neither.
    """
    return _text(row.get("report", "") or row.get("caption", ""))


def caption(row: Row) -> Reference:
    """The caption.

    Raises:
        RejectedError: there is none.
    """
    return _text(row.get("caption", ""))


def _text(cell: str) -> Reference:
    if not cell:
        raise RejectedError(Reason.UNREADABLE, "expected a reference text, found none")
    return Reference(cell)


def _options(cell: str, task: str) -> tuple[str, ...]:
    found = _part(literal(cell), task)
    if isinstance(found, str):
        found = found.split(",")
    values = found if isinstance(found, list | tuple | set) else []
    return tuple(dict.fromkeys(str(value).strip() for value in values if str(value).strip()))


def _part(value: Any, task: str) -> Any:
    """Of a mapping by task, this task's; of one with a single entry, that one."""
    if not isinstance(value, dict):
        return value
    return value.get(task, next(iter(value.values())) if len(value) == 1 else "")


def _first(value: Any) -> str:
    return str(value[0] if isinstance(value, list | tuple) and value else value)


def _location(cell: str, channel: str) -> Reference:
    if not cell:
        return Reference("not visible", LOCATIONS)
    point = _numbers(literal(cell), _first(literal(channel)))
    if point is None:
        raise RejectedError(Reason.UNREADABLE, "expected coordinates, found none")
    x, y = point
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise RejectedError(Reason.UNREADABLE, "expected a position in fractions of the picture")
    return Reference(location_of(x, y), LOCATIONS)


def _numbers(value: Any, channel: str) -> tuple[float, float] | None:
    """The first two numbers of the channel's entry, or of the first entry."""
    while isinstance(value, dict | list | tuple) and value:
        if isinstance(value, dict):
            value = value.get(channel, next(iter(value.values())))
        elif isinstance(value[0], int | float):
            found = [float(number) for number in value[:2] if isinstance(number, int | float)]
            return (found[0], found[1]) if len(found) == 2 else None
        else:
            value = value[0]
    return None
