"""``sonoloop promote``: the gate between challenger and champion, and the way back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.evaluating.stored import read_evaluation, snapshot_of
from sonoloop.jobs.gating.checks import judge
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.jobs.gating.decision import Decision, reason_of
from sonoloop.jobs.gating.evidence import read_evidence
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, ConflictError, GateRefusedError, NothingToDoError
from sonoloop.platform.workspace import Store


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
    snapshot: Annotated[
        str | None, typer.Option(help="Whose held-out cases decide; the challenger's own when absent.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the challenger champion if it won; or roll back."""
    loaded = load_config(config)
    summary = run_rollback(loaded) if rollback else run_promote(loaded, snapshot=snapshot)
    show(summary, title="rolled back" if rollback else "promoted", as_json=json)


def run_promote(config: Config, *, snapshot: str | None = None) -> PromoteSummary:
    """Decide on the stored evaluations of both models and change the aliases if the challenger won.

    Args:
        config: The configuration.
        snapshot: Whose held-out cases decide; the challenger's own when absent.

    Raises:
        NothingToDoError: no challenger, or it was not evaluated.
        CheckpointError: a file of the challenger is missing; the champion stays.
        GateRefusedError: it did not win, or too few cases are held out; the champion stays.
        ConflictError: somebody changed the aliases in between.
    """
    workspace, name = config.open_workspace(), config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.challenger is None or aliases.champion is None:
        raise NothingToDoError(f"model {name} has no challenger; run `sonoloop finetune` first")
    registry.check_available(workspace, aliases.challenger)  # or nobody could draft from then on
    snapshot = snapshot or snapshot_of(workspace, aliases.challenger)
    decision = decide(workspace, aliases.champion, aliases.challenger, snapshot, config.gate)
    decision.write(workspace)
    if not decision.promoted:
        registry.write_card(workspace, aliases.challenger)
        place = f"models/{aliases.challenger}/decision.md"
        raise GateRefusedError(f"not promoted: {decision.reason}; {place} has all that was found")
    changes: dict[registry.Alias, str | None] = {
        "champion": aliases.challenger,
        "previous": aliases.champion,
        "challenger": None,
    }
    try:
        changed = registry.set_aliases(
            workspace, name, changes, expected=aliases, by="promote", reason=decision.reason
        )
    except ConflictError:
        lost = "it won, but the champion was changed meanwhile by somebody else"
        decision.model_copy(update={"promoted": False, "reason": lost}).write(workspace)
        raise
    return PromoteSummary(champion=str(changed.champion), previous=changed.previous, reason=decision.reason)


def decide(workspace: Store, champion: str, challenger: str, snapshot: str, gate: GateConfig) -> Decision:
    """What the gate says of two evaluated models; nothing is changed or written.

    Raises:
        NothingToDoError: one of them was not evaluated on this snapshot.
    """
    evidence = read_evidence(workspace, champion, challenger, snapshot)
    evaluations = [read_evaluation(workspace, version, snapshot) for version in (champion, challenger)]
    if evaluations[0] is None or evaluations[1] is None:
        raise NothingToDoError(
            f"an evaluation on snapshot {snapshot} is gone, or of another version of sonoloop; run `sonoloop "
            "evaluate` again"
        )
    checks = judge(evidence, gate)
    return Decision(
        promoted=all(check.passed for check in checks),
        reason=reason_of(checks),
        snapshot=snapshot,
        checks=checks,
        gate=gate,
        champion=evaluations[0],
        challenger=evaluations[1],
        decided_at=datetime.now(UTC),
    )


def run_rollback(config: Config) -> PromoteSummary:
    """Swap champion and previous; again, and it is as before.

    Raises:
        ConfigError: there is no previous champion, or its weights were retired.
        CheckpointError: a file of the previous champion is missing; the champion stays.
        ConflictError: somebody changed the aliases in between.
    """
    workspace, name = config.open_workspace(), config.model.name
    aliases = registry.read_aliases(workspace, name)
    if aliases.previous is None:
        raise ConfigError(f"model {name} has no previous champion to go back to")
    registry.check_available(workspace, aliases.previous)
    changed = registry.set_aliases(
        workspace,
        name,
        {"champion": aliases.previous, "previous": aliases.champion},
        expected=aliases,
        by="promote --rollback",
        reason="asked for by a person",
    )
    return PromoteSummary(champion=str(changed.champion), previous=changed.previous, reason="rolled back")
