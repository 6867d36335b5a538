"""``sonoloop promote``: the gate between challenger and champion, and the way back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from sonoloop.jobs.config import Config, GateConfig, load_config
from sonoloop.jobs.evaluate import Evaluation, read_evaluation, snapshot_of
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, GateRefusedError, NothingToDoError
from sonoloop.platform.workspace import Store


class Decision(BaseModel):
    """``models/<name>/<version>/decision.json``: what the gate decided about a challenger, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promoted: bool
    reason: str
    champion: Evaluation
    challenger: Evaluation
    decided_at: datetime


class PromoteSummary(BaseModel):
    """The aliases after the decision."""

    champion: str
    previous: str | None
    reason: str


def promote(
    config: ConfigOption = "sonoloop.toml",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the previous champion champion again.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make the challenger champion if it won; or roll back."""
    loaded = load_config(config)
    summary = run_rollback(loaded) if rollback else run_promote(loaded)
    show(summary, title="rolled back" if rollback else "promoted", as_json=json)


def run_promote(config: Config) -> PromoteSummary:
    """Decide on the stored evaluations of both models and change the aliases if the challenger won.

    Raises:
        NothingToDoError: no challenger, or it was not evaluated.
        GateRefusedError: it did not win, or too few cases are held out; the champion stays.
        ConflictError: somebody changed the aliases in between.
    """
    workspace, name = config.open_workspace(), config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.challenger is None or aliases.champion is None:
        raise NothingToDoError(f"model {name} has no challenger; run `sonoloop finetune` first")
    champion, challenger = _evaluations(workspace, aliases.champion, aliases.challenger)
    reason, promoted = judge(champion, challenger, config.gate)
    decision = Decision(
        promoted=promoted,
        reason=reason,
        champion=champion,
        challenger=challenger,
        decided_at=datetime.now(UTC),
    )
    version = aliases.challenger.partition("/")[2]
    workspace.write_bytes(
        decision.model_dump_json(indent=2).encode(), "models", name, version, "decision.json"
    )
    if not promoted:
        raise GateRefusedError(f"not promoted: {reason}")
    changed = registry.set_aliases(
        workspace,
        name,
        {"champion": aliases.challenger, "previous": aliases.champion, "challenger": None},
        expected=aliases,
    )
    return PromoteSummary(champion=str(changed.champion), previous=changed.previous, reason=reason)


def run_rollback(config: Config) -> PromoteSummary:
    """Swap champion and previous.

    Raises:
        ConfigError: there is no previous champion.
    """
    workspace, name = config.open_workspace(), config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.previous is None:
        raise ConfigError(f"model {name} has no previous champion to go back to")
    changed = registry.set_aliases(
        workspace, name, {"champion": aliases.previous, "previous": aliases.champion}, expected=aliases
    )
    return PromoteSummary(champion=str(changed.champion), previous=changed.previous, reason="rolled back")


def judge(champion: Evaluation, challenger: Evaluation, gate: GateConfig) -> tuple[str, bool]:
    """Reason and verdict; both evaluations stand on the same cases."""
    num_cases = challenger.scores.num_cases
    old, new = champion.scores.entity_macro_f1, challenger.scores.entity_macro_f1
    figures = f"entity macro-F1 {old:.3f} -> {new:.3f} on {num_cases} held-out cases"
    if num_cases < gate.min_cases:
        return f"{num_cases} held-out cases, gate.min_cases asks for {gate.min_cases}", False
    if challenger.scores.num_missing > champion.scores.num_missing:
        return (
            f"cases without a valid draft rose {champion.scores.num_missing} -> "
            f"{challenger.scores.num_missing}",
            False,
        )
    if new - old <= gate.min_gain:
        return f"{figures}; a rise above {gate.min_gain:g} is asked", False
    return figures, True


def _evaluations(workspace: Store, champion: str, challenger: str) -> tuple[Evaluation, Evaluation]:
    snapshot = snapshot_of(workspace, challenger)
    found = [read_evaluation(workspace, version, snapshot) for version in (champion, challenger)]
    if found[0] is None or found[1] is None:
        raise NothingToDoError("champion and challenger are not evaluated yet; run `sonoloop evaluate` first")
    return found[0], found[1]
