"""Gold cases: their truth is known, so what readers make of them tells how well they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.platform.errors import ConfigError

_NAMED = 5


def read_gold(path: Path) -> tuple[str, ...]:
    """Case ids of a file, one a line; empty lines and those that begin with ``#`` are left out.

    Raises:
        ConfigError: no such file, or it names no case.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"--gold {path} cannot be read; it should hold one case id a line") from err
    found = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise ConfigError(f"--gold {path} names no case; it should hold one case id a line")
    return found


def enter_gold(gold: Sequence[str], ledger: Ledger, fresh: Sequence[str]) -> None:
    """Mark gold cases whose draft people correct already; readers see no difference.

    A control stays one: it was shown without a draft.

    Args:
        gold: All of them.
        ledger: Of the project.
        fresh: Those that have no task and may be shown.

    Raises:
        ConfigError: a case can not be shown: unknown, without a draft, withdrawn, or deleted by a person.
    """
    rows = ledger.rows(gold)
    there = {case_id for case_id, row in rows.items() if row.state == "sent"}
    if missing := sorted(set(gold) - there - set(fresh)):
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise ConfigError(
            f"{len(missing)} gold cases cannot be shown: {named}; each needs a draft of the champion, and "
            "must be neither withdrawn nor deleted from the project"
        )
    drafts = [row for case_id, row in rows.items() if case_id in there and row.purpose == "draft"]
    ledger.write([row.model_copy(update={"purpose": "gold"}) for row in drafts])
