"""Which key chooses what on the labeling page.

Label Studio 1.23 gives every choice and number without a key the next free letter, those that the page hides
or shows in a list included; such a letter changes an answer unseen, and some are its own (V moves). So every
control here has a key of ours or one that no keyboard has (`NO_KEY`).

Label Studio's own plain keys are H, R, U, V, Backspace, Delete, Enter and Escape.
"""

from __future__ import annotations

from sonoloop.platform.lexicon import Organ, choice_fields, field_values, qualifiers

NO_KEY = "ctrl+alt+shift+f19"
BOX_KEY = "b"
ORGAN_KEYS = "1234890"
"""A key for ever means the same choice: organs that came later got the keys that were left."""
LESION_KEYS = "567"
ESCAPE_KEYS = "jip"
"""cannot Judge, bad Image, Patient data."""
SUBMIT_KEY = "s"
"""Free on every page, for installations that let a plain key submit."""
_FIELD_KEYS = "1234890qwetyadfgzxcnklo"
"""On a page of one organ; M is the "auto-detect" of projects with an ML backend."""


def field_keys(organ: Organ) -> dict[str, str]:
    """Keys of the fields of a page of one organ, one letter or digit per value.

    There are not enough keys for every field. Those at the end of the vocabulary come first: categories stand
    there, which readers change most. A field has keys for all of its values or for none.
    """
    left, keys = _FIELD_KEYS, dict[str, str]()
    for field in reversed(choice_fields(organ)):
        num_values = len(field_values(organ, field))
        if field in ("organ", "lesion", *qualifiers(organ)) or num_values > len(left):
            continue
        keys[field], left = left[:num_values], left[num_values:]
    return keys
