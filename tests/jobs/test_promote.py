"""From two evaluations to a champion: what is asked of them, what is written down, and the way back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.outcomes import outcomes, store
from tests.jobs.test_calibrating import NORMAL, row

from sonoloop.jobs.config import Config
from sonoloop.jobs.finetuning.curve import StepRecord, write_curve
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.jobs.gating.decision import Decision, read_decisions
from sonoloop.jobs.promote import run_promote
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.platform import registry
from sonoloop.platform.duplicates import DuplicateRecord, write_duplicates
from sonoloop.platform.errors import (
    CheckpointError,
    ConfigError,
    ConflictError,
    GateRefusedError,
    NothingToDoError,
)
from sonoloop.platform.registry import Aliases
from sonoloop.platform.registry.versions import _version_of
from sonoloop.platform.tasks import TaskRecord, write_tasks
from sonoloop.platform.workspace import Store

NAME, SNAPSHOT, RUN = "echovlm-nano", "abc", "finetune-1"
SETTINGS = (b'{"a": 1}', b'{"a": 2}')
OLD, NEW = (f"{NAME}/{_version_of({'config.json': sha256(one).hexdigest()})}" for one in SETTINGS)
NUM = 40


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(workspace=str(tmp_path), archive="a")


@pytest.fixture
def workspace(config: Config) -> Store:
    """A challenger that was trained on a snapshot; nothing is evaluated yet."""
    place = Store(config.workspace)
    for settings in SETTINGS:
        folder = Path(config.workspace, "folder")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes(settings)
        registry.publish(place, folder, NAME, lineage={})
    lineage(place, NEW, base=OLD, snapshot=SNAPSHOT, run=RUN)
    usage(place, 0.2, 0.3)
    freeze(place, SNAPSHOT, train=["t"], test=[case.case_id for case in outcomes(NUM, right=1)])
    registry.set_aliases(place, NAME, {"champion": OLD, "challenger": NEW}, expected=Aliases())
    return place


def lineage(workspace: Store, version: str, **values: str) -> None:
    workspace.write_bytes(json.dumps(values).encode(), "models", version, "lineage.json")


def usage(workspace: Store, *shares: float) -> None:
    """What a training's epochs say of their least used expert; the steps between them say nothing."""
    told = [share for last in shares for share in (None, last)]
    curve = [
        StepRecord(
            step=step,
            epoch=step // 2,
            loss=1.0,
            aux_loss=0.0,
            learning_rate=1e-3,
            gradient_norm=None,
            num_tokens=1,
            seconds=1.0,
            workers=1,
            least_used_expert_share=share,
        )
        for step, share in enumerate(told)
    ]
    write_curve(workspace, RUN, curve)


def freeze(workspace: Store, name: str, *, train: list[str], test: list[str]) -> None:
    rows = [
        row(case_id, NORMAL, f"patient of {case_id}").model_copy(update={"split": side})
        for side, cases in (("train", train), ("test", test))
        for case_id in cases
    ]
    workspace.write_table(SnapshotRow.table(rows), "training", name, "reviews.parquet")


def measure(workspace: Store, old: float, new: float, num: int = NUM, **changes: Any) -> None:
    """Leave what `sonoloop evaluate` leaves, for models that are right in these shares of the values."""
    store(workspace, SNAPSHOT, outcomes(num, right=old, version=OLD))
    store(workspace, SNAPSHOT, outcomes(num, right=new, version=NEW, **changes))


def decision(workspace: Store) -> Decision:
    return Decision.model_validate_json(workspace.read_bytes("models", NEW, "decision.json"))


def page(workspace: Store) -> str:
    return workspace.read_bytes("models", NEW, "decision.md").decode()


def test_a_winner_becomes_champion_and_the_decision_is_kept(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    summary = run_promote(config)
    assert (summary.champion, summary.previous) == (NEW, OLD)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=NEW, previous=OLD, challenger=None)
    kept = decision(workspace)
    assert kept.promoted
    assert all(check.passed for check in kept.checks)
    assert kept.gate == config.gate


def test_the_decision_says_what_chose_the_cases_by_their_first_task(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    tasks = [
        TaskRecord(
            project=project,
            case_id=case_id,
            task_id=1,
            purpose="draft",
            strategy=strategy,
            num_readers=1,
            model_version=OLD,
            state="sent",
            written_at=datetime(2026, 1, day, tzinfo=UTC),
        )
        for project, case_id, strategy, day in (
            ("p", "c0001", "uncertain", 1),
            ("q", "c0001", "found", 2),
            ("p", "c0002", "uncertain", 1),
            ("p", "t", "random", 1),
        )
    ]
    write_tasks(workspace, tasks)
    run_promote(config)
    assert "chosen to be read: uncertain 2; none by lot" in page(workspace)


def test_a_winner_whose_files_are_gone_does_not_draft(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    workspace.remove("models", NEW, "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is missing; publish the model again"):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=OLD, challenger=NEW)
    assert not workspace.exists("models", NEW, "decision.json")


def test_an_evaluation_of_another_version_of_sonoloop_is_to_be_made_again(
    config: Config, workspace: Store
) -> None:
    measure(workspace, 0.4, 0.8)
    workspace.write_bytes(b'{"scores": {}}', "models", OLD, "evaluations", f"{SNAPSHOT}.json")
    with pytest.raises(NothingToDoError, match=r"of another version.*run `sonoloop evaluate` again"):
        run_promote(config)


def test_a_loser_leaves_the_champion_and_the_decision_says_why(config: Config, workspace: Store) -> None:
    measure(workspace, 0.8, 0.4)
    with pytest.raises(GateRefusedError, match=r"not promoted: entity macro-F1 .*a rise above 0 is asked"):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME) == Aliases(champion=OLD, challenger=NEW)
    kept = decision(workspace)
    assert not kept.promoted
    assert {check.name for check in kept.checks if not check.passed} == {"gain", "edits", "organs"}


def test_the_page_shows_a_person_what_was_asked_and_found(config: Config, workspace: Store) -> None:
    measure(workspace, 0.8, 0.4)
    with pytest.raises(GateRefusedError, match=rf"models/{NEW}/decision\.md"):
        run_promote(config)
    text = page(workspace)
    assert text.startswith(f"# {NEW}: not promoted\n")
    assert "| gain | **failed** | entity macro-F1 0." in text
    assert "| usable drafts | passed |" in text
    assert "| entity macro-F1 | 0." in text
    for name, field in GateConfig.model_fields.items():
        assert f"| gate.{name} | " in text
        assert f"| {field.description} |" in text


def test_the_share_of_the_last_epoch_counts(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    usage(workspace, 0.3, 0.001)
    with pytest.raises(GateRefusedError, match=r"least used expert got 0\.1%"):
        run_promote(config)


def test_a_training_that_says_nothing_of_its_experts_is_not_taken_on_trust(
    config: Config, workspace: Store
) -> None:
    measure(workspace, 0.4, 0.8)
    lineage(workspace, NEW, base=OLD, snapshot=SNAPSHOT, run="gone")
    with pytest.raises(GateRefusedError, match="says nothing of its experts"):
        run_promote(config)
    allowed = config.model_copy(update={"gate": GateConfig(may_be_unmeasured=frozenset({"experts"}))})
    assert run_promote(allowed).champion == NEW


def test_too_few_cases_are_refused_and_the_message_says_how_many(config: Config, workspace: Store) -> None:
    freeze(workspace, SNAPSHOT, train=["t"], test=[case.case_id for case in outcomes(7, right=1)])
    measure(workspace, 0.4, 0.8, num=7)
    with pytest.raises(GateRefusedError, match=r"7 held-out cases of 7 patients.*: 3 more are needed"):
        run_promote(config)


def test_an_evaluation_on_cases_of_another_snapshot_decides_nothing(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    freeze(workspace, SNAPSHOT, train=["t"], test=["c0000", "c0001", "x"])
    with pytest.raises(GateRefusedError, match="on 2 of them and 38 others"):
        run_promote(config)


@pytest.mark.parametrize("who", [OLD, NEW, f"{NAME}/first"])
def test_what_a_training_behind_either_model_saw_proves_nothing(
    config: Config, workspace: Store, who: str
) -> None:
    """Also where it was held out later only: the champion's training counts as much as the challenger's."""
    measure(workspace, 0.4, 0.8)
    freeze(workspace, "before", train=["c0003"], test=[])
    if who == NEW:
        lineage(workspace, NEW, base=OLD, snapshot="before", run=RUN)
    else:
        lineage(workspace, OLD, base=f"{NAME}/first", snapshot="before" if who == OLD else SNAPSHOT)
        lineage(workspace, f"{NAME}/first", base="built in", snapshot="before")
    with pytest.raises(
        GateRefusedError, match=f"{who} learned from patients or pictures of 1 of them, c0003"
    ):
        run_promote(config.model_copy(), snapshot=SNAPSHOT)


def test_a_training_that_nobody_can_look_into_any_more_is_an_error(config: Config, workspace: Store) -> None:
    measure(workspace, 0.4, 0.8)
    lineage(workspace, OLD, base="built in", snapshot="lost")
    with pytest.raises(ConfigError, match=f"training/lost is gone, so nobody can say what {OLD}"):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME).champion == OLD


@pytest.mark.parametrize("how", ["gone", "broken"])
def test_a_model_whose_lineage_is_lost_is_not_taken_for_one_that_was_never_trained(
    config: Config, workspace: Store, how: str
) -> None:
    measure(workspace, 0.4, 0.8)
    if how == "gone":
        workspace.remove("models", OLD, "lineage.json")
    else:
        workspace.write_bytes(b"{", "models", OLD, "lineage.json")
    with pytest.raises(ConfigError, match=f"models/{OLD}/lineage.json is gone or is no JSON"):
        run_promote(config)
    assert registry.read_aliases(workspace, NAME).champion == OLD


def test_a_case_that_shares_a_picture_with_one_that_was_trained_on_proves_nothing(
    config: Config, workspace: Store
) -> None:
    """Marked after the snapshot was frozen, or there it would stand on no side."""
    measure(workspace, 0.4, 0.8)
    now = datetime.now(UTC)
    marks = [
        DuplicateRecord(case_id=one, group_key="c0003", distance=2, marked_at=now) for one in ("c0003", "t")
    ]
    write_duplicates(workspace, marks)
    with pytest.raises(
        GateRefusedError, match=f"{NEW} learned from patients or pictures of 1 of them, c0003"
    ):
        run_promote(config)


def test_without_both_evaluations_or_a_challenger_there_is_nothing_to_decide(
    config: Config, workspace: Store
) -> None:
    with pytest.raises(NothingToDoError, match="sonoloop evaluate"):
        run_promote(config)
    store(workspace, SNAPSHOT, outcomes(NUM, right=0.8, version=NEW))
    with pytest.raises(NothingToDoError, match="sonoloop evaluate"):
        run_promote(config)
    seen = registry.read_aliases(workspace, NAME)
    registry.set_aliases(workspace, NAME, {"challenger": None}, expected=seen)
    with pytest.raises(NothingToDoError, match="sonoloop finetune"):
        run_promote(config)


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    config: Config, workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(workspace, 0.4, 0.8)
    whole = Store.write_bytes

    def somebody_else_first(self: Store, data: bytes, *parts: str) -> None:
        whole(self, data, *parts)
        if parts[-1] == "decision.json":
            seen = registry.read_aliases(workspace, NAME)
            registry.set_aliases(workspace, NAME, {"champion": f"{NAME}/other"}, expected=seen)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", somebody_else_first)
        with pytest.raises(ConflictError):
            run_promote(config)
    assert registry.read_aliases(workspace, NAME).champion == f"{NAME}/other"
    (decision,) = read_decisions(workspace, NAME)
    assert (decision.promoted, "changed meanwhile" in decision.reason) == (False, True)
