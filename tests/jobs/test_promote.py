"""The gate between challenger and champion, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sonoloop.jobs.config import Config, GateConfig
from sonoloop.jobs.evaluate import Evaluation
from sonoloop.jobs.promote import Decision, judge, run_promote, run_rollback
from sonoloop.model.metrics import Scores
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, ConflictError, GateRefusedError, NothingToDoError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

NAME, SNAPSHOT = "echovlm-nano", "abc"
OLD, NEW = f"{NAME}/old", f"{NAME}/new"


def evaluation(version: str, f1: float, *, cases: int = 20, missing: int = 0) -> Evaluation:
    scores = Scores(
        num_cases=cases,
        num_missing=missing,
        entity_macro_f1=f1,
        num_entity_classes=5,
        bleu_1=0.5,
        rouge_l=0.5,
        edit_distance=0.5,
        box_iou=None,
    )
    return Evaluation(
        model_version=version, prompt_version="p", snapshot=SNAPSHOT, scores=scores, edits_per_case=1.0
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(workspace=str(tmp_path), archive="a", gate=GateConfig(min_cases=10))


@pytest.fixture
def workspace(config: Config) -> Store:
    """A challenger that was trained on a snapshot; nothing is evaluated yet."""
    store = Store(config.workspace)
    store.write_bytes(json.dumps({"snapshot": SNAPSHOT}).encode(), "models", NEW, "lineage.json")
    registry.set_aliases(store, NAME, {"champion": OLD, "challenger": NEW}, expected=Aliases())
    return store


def measure(workspace: Store, *evaluations: Evaluation) -> None:
    for one in evaluations:
        place = ("models", one.model_version, "evaluations", f"{SNAPSHOT}.json")
        workspace.write_bytes(one.model_dump_json().encode(), *place)


def decision(workspace: Store) -> Decision:
    return Decision.model_validate_json(workspace.read_bytes("models", NEW, "decision.json"))


@pytest.mark.parametrize(
    ("challenger", "gate", "won", "word"),
    [
        (evaluation(NEW, 0.6), GateConfig(), True, "0.500 -> 0.600"),
        (evaluation(NEW, 0.5), GateConfig(), False, "rise above 0"),
        (evaluation(NEW, 0.4), GateConfig(), False, "0.500 -> 0.400"),
        (evaluation(NEW, 0.6), GateConfig(min_gain=0.2), False, "rise above 0.2"),
        (evaluation(NEW, 0.8), GateConfig(min_gain=0.2), True, "20 held-out cases"),
        (evaluation(NEW, 0.9, cases=9), GateConfig(min_cases=10), False, "min_cases asks for 10"),
        (evaluation(NEW, 0.9, cases=10), GateConfig(min_cases=10), True, "10 held-out cases"),
        (evaluation(NEW, 0.9, missing=3), GateConfig(), False, "valid draft rose 2 -> 3"),
        (evaluation(NEW, 0.9, missing=2), GateConfig(), True, ""),
    ],
)
def test_a_challenger_wins_only_by_gain_on_enough_cases_without_losing_drafts(
    challenger: Evaluation, gate: GateConfig, won: bool, word: str
) -> None:
    reason, verdict = judge(evaluation(OLD, 0.5, missing=2), challenger, gate)
    assert verdict is won
    assert word in reason


def test_a_winner_becomes_champion_and_the_decision_is_kept(config: Config, workspace: Store) -> None:
    measure(workspace, evaluation(OLD, 0.5), evaluation(NEW, 0.7))
    summary = run_promote(config)
    assert (summary.champion, summary.previous) == (NEW, OLD)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=NEW, previous=OLD, challenger=None)
    kept = decision(workspace)
    assert kept.promoted
    assert kept.challenger.scores.entity_macro_f1 == 0.7


def test_a_loser_leaves_the_champion_and_the_decision_says_why(config: Config, workspace: Store) -> None:
    measure(workspace, evaluation(OLD, 0.7), evaluation(NEW, 0.5))
    with pytest.raises(GateRefusedError, match=r"not promoted: .*0\.700 -> 0\.500"):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=OLD, challenger=NEW)
    assert not decision(workspace).promoted


def test_an_evaluation_from_before_calibration_was_measured_still_counts(
    config: Config, workspace: Store
) -> None:
    for one in (evaluation(OLD, 0.5), evaluation(NEW, 0.7)):
        text = one.model_dump_json(exclude={"calibration"})
        workspace.write_bytes(text.encode(), "models", one.model_version, "evaluations", f"{SNAPSHOT}.json")
    assert run_promote(config).champion == NEW


def test_without_both_evaluations_or_a_challenger_there_is_nothing_to_decide(
    config: Config, workspace: Store
) -> None:
    with pytest.raises(NothingToDoError, match="sonoloop evaluate"):
        run_promote(config)
    measure(workspace, evaluation(NEW, 0.7))
    with pytest.raises(NothingToDoError, match="sonoloop evaluate"):
        run_promote(config)
    seen = registry.read_aliases(workspace, NAME)
    registry.set_aliases(workspace, NAME, {"challenger": None}, expected=seen)
    with pytest.raises(NothingToDoError, match="sonoloop finetune"):
        run_promote(config)


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    config: Config, workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(workspace, evaluation(OLD, 0.5), evaluation(NEW, 0.7))
    whole = Store.write_bytes

    def somebody_else_first(self: Store, data: bytes, *parts: str) -> None:
        whole(self, data, *parts)
        if parts[-1] == "decision.json":
            seen = registry.read_aliases(workspace, NAME)
            registry.set_aliases(workspace, NAME, {"champion": f"{NAME}/other"}, expected=seen)

    monkeypatch.setattr(Store, "write_bytes", somebody_else_first)
    with pytest.raises(ConflictError):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME).champion == f"{NAME}/other"


def test_rollback_swaps_champion_and_previous_and_again_swaps_back(config: Config, workspace: Store) -> None:
    with pytest.raises(ConfigError, match="no previous champion"):
        run_rollback(config)
    measure(workspace, evaluation(OLD, 0.5), evaluation(NEW, 0.7))
    run_promote(config)
    assert run_rollback(config).champion == OLD
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=OLD, previous=NEW)
    assert run_rollback(config).champion == NEW
