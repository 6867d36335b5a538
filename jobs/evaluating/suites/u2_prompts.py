"""What a row of U2-BENCH asks: its own prompt with its places filled, or ours where it has none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sonoloop.jobs.evaluating.reading import LOCATIONS, plain

_PLACE = re.compile(r"\{([A-Za-z_]+)\}")
_OWN = {
    "DD": "Which diagnosis does this ultrasound image of the {anatomy_location} show? Answer by one option.",
    "VRA": "Which view does this ultrasound image of the {anatomy_location} show? Answer with one option.",
    "LL": "Where in this ultrasound image of the {anatomy_location} is the lesion? Answer with one option.",
    "OD": "Where in this ultrasound image is the {seg_channel_name}? Answer with one option.",
    "KD": "Where in this ultrasound image of the {anatomy_location} is the landmark? Answer with one option.",
    "CVE": "Estimate the clinical value that this ultrasound image of the {anatomy_location} shows. Answer "
    "with the number alone.",
    "RG": "Write the report of this ultrasound image of the {anatomy_location}.",
    "CG": "Describe this ultrasound image of the {anatomy_location} in one sentence.",
}
_CLOSED = ("DD", "VRA", "LL", "OD", "KD")
_FILLED_BY = ("anatomy_location", "seg_channel_name", "demographic", "dataset_name")
"""Columns that may stand in a prompt; those that hold a reference may not."""


def prompt_of(task: str, row: Mapping[str, str], options: Sequence[str]) -> str:
    """The question's text.

    The published prompts are templates with escaped marks (``\\_``, ``\\n``). Options that a prompt does not
    name are added.
    """
    text = re.sub(r"\\+n", "\n", re.sub(r"\\+_", "_", row.get("prompt", ""))).strip() or _OWN[task]
    known = {name: row.get(name, "") for name in _FILLED_BY} | {"options": ", ".join(options)}
    text = _PLACE.sub(lambda place: known.get(place[1], place[0]) or "structure", text)
    if task in _CLOSED and not all(plain(option) in text.casefold() for option in options or LOCATIONS):
        text = f"{text}\nOptions: {', '.join(options or LOCATIONS)}"
    return text
