"""The decision and its evidence, as they are written beside the challenger: for machines and for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.evaluating.stored import Evaluation
from sonoloop.jobs.evaluating.tables import tables_of
from sonoloop.jobs.gating.checks import Check
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.platform import registry
from sonoloop.platform.workspace import Store


class Decision(BaseModel):
    """``models/<name>/<version>/decision.json``: what the gate decided about a challenger, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promoted: bool
    reason: str = Field(description="what failed, or what was gained")
    snapshot: str
    checks: tuple[Check, ...]
    gate: GateConfig
    champion: Evaluation
    challenger: Evaluation
    decided_at: datetime

    def write(self, workspace: Store) -> None:
        """Store it beside the challenger, as ``decision.json`` and ``decision.md``."""
        place = registry.place_of(self.challenger.model_version)
        workspace.write_bytes(page_of(self).encode(), *place, "decision.md")
        workspace.write_bytes(self.model_dump_json(indent=2).encode(), *place, "decision.json")


def read_decisions(workspace: Store, name: str) -> list[Decision]:
    """Those of a model line that stand beside its versions, oldest first.

    Raises:
        StorageError: the workspace cannot be read.
    """
    found = (_decision(workspace, name, version) for version in workspace.folders("models", name))
    return sorted(filter(None, found), key=lambda one: one.decided_at)


def _decision(workspace: Store, name: str, version: str) -> Decision | None:
    """One version's; None where nothing was decided, or by a sonoloop that wrote it otherwise."""
    try:
        return Decision.model_validate_json(workspace.read_bytes("models", name, version, "decision.json"))
    except (FileNotFoundError, ValidationError):
        return None


def reason_of(checks: tuple[Check, ...]) -> str:
    """Why the gate refuses; where it does not, what was gained."""
    failed = [check.sentence for check in checks if not check.passed]
    return "; ".join(failed or [check.sentence for check in checks if check.name == "gain"])


def page_of(decision: Decision) -> str:
    """The decision as Markdown."""
    return "\n".join(_lines(decision)) + "\n"


def _lines(decision: Decision) -> Iterator[str]:
    old, new = decision.champion, decision.challenger
    yield f"# {new.model_version}: {'promoted' if decision.promoted else 'not promoted'}"
    yield ""
    yield f"{decision.reason[:1].upper()}{decision.reason[1:]}."
    yield ""
    yield f"- challenger: {new.model_version}"
    yield f"- champion until then: {old.model_version}"
    yield f"- held-out reviews: snapshot {decision.snapshot}, {new.scores.num_cases} cases"
    yield f"- prompt: {new.prompt_version}"
    yield f"- decided: {decision.decided_at:%Y-%m-%d %H:%M} UTC"
    yield from ("", "## Checks", "")
    yield from _table(
        ("check", "verdict", "what was found"),
        ((check.name, _verdict(check), check.sentence) for check in decision.checks),
    )
    if old.breakdown is not None and new.breakdown is not None:
        for table in tables_of(old.breakdown, new.breakdown):
            yield from ("", f"## {table.title}", "", *_table(table.headings, table.rows))
    yield from ("", "## What was asked", "")
    fields = GateConfig.model_fields
    yield from _table(
        ("setting", "value", "meaning"),
        (
            (f"gate.{name}", _plain(value), fields[name].description or "")
            for name, value in decision.gate.model_dump(mode="json").items()
        ),
    )


def _verdict(check: Check) -> str:
    return f"**{check.verdict}**" if not check.passed else check.verdict


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (headings, ("---",) * len(headings), *rows):
        yield f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |"


def _plain(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else f"{value}"
