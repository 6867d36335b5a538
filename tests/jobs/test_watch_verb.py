"""When the watcher trains, what it counts as new, and what it survives.

Snapshots, registry, gate and claims are the real ones; pulling and training are stood in for, and are real in
tests/e2e/test_loop.py, where a Ray actor watches a real Label Studio.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests.jobs.outcomes import outcome, store
from tests.jobs.test_snapshot import FEW, PATIENTS, case, mark, review
from typer.testing import CliRunner

from sonoloop.jobs import watch as watch_module
from sonoloop.jobs.claims import Claim, HeldError
from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.held_out import held_out
from sonoloop.jobs.evaluating.stored import read_evaluation, snapshot_of
from sonoloop.jobs.freezing.sides import side_by_lot
from sonoloop.jobs.snapshot import freeze_snapshot
from sonoloop.jobs.watch import Watcher, watch
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.records import CaseRecord, ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.watch_hint import hinted_at, write_hint
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"
KIDNEY = '{"organ":"kidney","collecting_system":"not dilated","lesion":"absent"}'


class Stage:
    """A workspace with forty cases, and stand-ins that do what pull, finetune and evaluate leave behind."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Store(str(folder))
        cases = [case(f"c{number:02}", PATIENTS[number]) for number in range(40)]
        self.workspace.write_table(CaseRecord.table(cases), "cases", "0.parquet")
        registry.set_aliases(self.workspace, NAME, {"champion": f"{NAME}/0"}, expected=Aliases())
        self.workspace.write_bytes(b'{"base": "built in"}', "models", NAME, "0", "lineage.json")
        self.lines: list[str] = []
        self.trainings: list[str] = []
        self.on_pull: Callable[[], None] = lambda: None
        self.on_train: Callable[[], None] = lambda: None
        self.new_share_right = 1.0

    def config(self, **watch: Any) -> Config:
        return Config(
            workspace=self.workspace.uri,
            archive="a",
            watch={"every_s": 1, "min_reviews": 4, **watch},
            gate={"min_cases": 1, "may_be_unmeasured": ["calibration", "experts", "speed"]},
        )

    def watcher(self, *, promote: bool = False, **how: Any) -> Watcher:
        return Watcher(self.config(**how), promote=promote, say=self.lines.append)

    def people_review(self, *numbers: int, entities: str | None = None, hour: int = 0) -> None:
        changes = {} if entities is None else {"entities": entities}
        rows = [
            review(f"c{number:02}", hour=hour, annotation_id=number, task_id=number, **changes)
            for number in numbers
        ]
        name = f"{hour}-{'-'.join(map(str, numbers))}.parquet"
        self.workspace.write_table(ReviewRecord.table(rows), "reviews", name)

    def run_pull(self, _config: Config) -> None:
        self.on_pull()

    def run_finetune(self, config: Config) -> Any:
        snapshot = freeze_snapshot(self.workspace, FEW, test_share=config.finetune.test_share)
        self.trainings.append(snapshot.name)
        self.on_train()
        version = f"{NAME}/{len(self.trainings)}"
        lineage = json.dumps({"snapshot": snapshot.name}).encode()
        self.workspace.write_bytes(lineage, "models", *version.split("/"), "lineage.json")
        aliases = registry.read_aliases(self.workspace, NAME)
        registry.set_aliases(self.workspace, NAME, {"challenger": version}, expected=aliases)
        return SimpleNamespace(snapshot=snapshot.name, challenger=version, num_train=snapshot.num_train)

    def run_evaluate(self, _config: Config) -> Any:
        aliases = registry.read_aliases(self.workspace, NAME)
        assert aliases.champion is not None
        assert aliases.challenger is not None
        snapshot = snapshot_of(self.workspace, aliases.challenger)
        rows = held_out(self.workspace, snapshot, aliases.champion, aliases.challenger).rows
        ids = [row.case_id for row in rows] or ["none is held out"]
        old, new = (
            store(self.workspace, snapshot, [outcome(one, right=right, version=version) for one in ids])
            for version, right in ((aliases.champion, 0.4), (aliases.challenger, self.new_share_right))
        )
        return SimpleNamespace(num_cases=len(ids), champion=old, challenger=new)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path)
    for name in ("run_pull", "run_finetune", "run_evaluate"):
        monkeypatch.setattr(watch_module, name, getattr(stage, name))
    monkeypatch.setattr(registry, "check_available", lambda *_: None)  # its trainings leave no weights
    return stage


def _sides(test_share: float = 0.25) -> tuple[list[int], list[int]]:
    """Numbers of the cases on the training side, and of those held out."""
    train = [n for n in range(40) if side_by_lot(PATIENTS[n], test_share) == "train"]
    return train, [n for n in range(40) if n not in train]


TRAIN, TEST = _sides()


def test_a_case_that_its_readers_disagree_on_is_no_news_until_it_is_settled(stage: Stage) -> None:
    stage.people_review(*TRAIN[:4])
    other = [
        review(
            f"c{TRAIN[0]:02}",
            annotation_id=900,
            task_id=TRAIN[0],
            reader="r2",
            entities=KIDNEY,
            review_id="second",
        )
    ]
    stage.workspace.write_table(ReviewRecord.table(other), "reviews", "second.parquet")
    stage.watcher().run(once=True)
    assert stage.trainings == []
    assert "3 new reviews" in stage.lines[-1]


def test_a_look_says_what_is_missing_until_the_next_training(stage: Stage) -> None:
    stage.people_review(*TRAIN[:3])
    stage.watcher(min_organs=2).run(once=True)
    assert stage.lines == [
        "3 new reviews of 1 organs; 1 more reviews and 1 more organs until the next training"
    ]
    stage.people_review(TRAIN[3], entities=KIDNEY)
    stage.watcher(min_organs=3).run(once=True)
    assert stage.lines[-1] == "4 new reviews of 2 organs; 1 more organs until the next training"
    assert stage.trainings == []


def test_enough_reviews_are_learned_from_once_whoever_watches(stage: Stage) -> None:
    stage.people_review(*TRAIN[:4], TEST[0])
    stage.watcher().run(once=True)
    assert len(stage.trainings) == 1
    assert "-> 1.000 on 1 held-out cases" in stage.lines[-1]
    stage.watcher().run(once=True)
    assert stage.lines[-1].startswith("0 new reviews")
    stage.people_review(*TRAIN[4:7])
    stage.people_review(TRAIN[0], hour=1)  # an edit is news
    stage.watcher().run(once=True)
    assert len(stage.trainings) == 2
    assert registry.read_aliases(stage.workspace, NAME).champion == f"{NAME}/0"


def test_a_watcher_that_died_after_its_training_is_followed_by_the_evaluation_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.people_review(*TRAIN[:5])
    with monkeypatch.context() as patch:
        patch.setattr(watch_module, "run_finetune", lambda config: (stage.run_finetune(config), _die()))
        with pytest.raises(KeyboardInterrupt):
            stage.watcher().run(once=True)
    stage.watcher().run(once=True)
    assert len(stage.trainings) == 1
    assert read_evaluation(stage.workspace, f"{NAME}/1", stage.trainings[0]) is not None


def test_where_another_model_became_champion_meanwhile_both_are_evaluated_again(stage: Stage) -> None:
    stage.people_review(*TRAIN[:5], *TEST[:3])
    stage.watcher().run(once=True)
    now = registry.read_aliases(stage.workspace, NAME)
    registry.set_aliases(stage.workspace, NAME, {"champion": f"{NAME}/other"}, expected=now)
    stage.watcher(promote=True).run(once=True)
    assert registry.read_aliases(stage.workspace, NAME).champion == f"{NAME}/1"
    assert len(stage.trainings) == 1


def _die() -> None:
    raise KeyboardInterrupt


def test_a_training_by_hand_counts_as_well(stage: Stage) -> None:
    stage.people_review(*TRAIN[:5])
    stage.run_finetune(stage.config())
    stage.watcher().run(once=True)
    assert len(stage.trainings) == 1
    assert stage.lines[-1].startswith("0 new reviews")


def test_trainings_that_fail_are_not_begun_for_ever_on_the_same_reviews(stage: Stage) -> None:
    stage.people_review(*TRAIN[:5])
    stage.on_train = _fail
    for _ in range(3):
        with pytest.raises(ServiceError, match="training failed"):
            stage.watcher().run(once=True)
    stage.watcher().run(once=True)
    assert len(stage.trainings) == 3
    assert "3 trainings on them came to nothing" in stage.lines[-1]
    stage.on_train = lambda: None
    stage.people_review(TRAIN[5])
    stage.watcher().run(once=True)
    assert registry.read_aliases(stage.workspace, NAME).challenger == f"{NAME}/4"


def _fail() -> None:
    raise ServiceError("training failed, the champion is untouched")


def test_reviews_that_a_training_had_to_leave_out_are_not_new_afterwards(stage: Stage) -> None:
    mark(stage.workspace, (f"c{TRAIN[0]:02}", f"c{TEST[0]:02}"))  # a picture on both sides
    stage.people_review(*TRAIN[:5], TEST[0])
    stage.people_review(TRAIN[5], entities=None)
    stage.watcher().run(once=True)
    stage.watcher(min_reviews=1).run(once=True)
    assert len(stage.trainings) == 1
    assert stage.lines[-1].startswith("0 new reviews")


def test_reviews_that_are_all_held_out_are_told_and_no_failure(stage: Stage) -> None:
    stage.people_review(*TEST[:4])
    stage.watcher().run(once=True)
    assert "no review to learn from" in stage.lines[-1]


@pytest.mark.parametrize(("promote", "right", "champion"), [(False, 1.0, 0), (True, 1.0, 1), (True, 0.1, 0)])
def test_a_challenger_drafts_only_where_that_was_asked_for_and_the_gate_agrees(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, promote: bool, right: float, champion: int
) -> None:
    stage.new_share_right = right
    stage.people_review(*TRAIN[:5], *TEST)
    for _ in range(2):
        stage.watcher(promote=promote).run(once=True)
    assert registry.read_aliases(stage.workspace, NAME).champion == f"{NAME}/{champion}"
    refusals = [line for line in stage.lines if "not promoted" in line]
    assert len(refusals) == (promote and right < 0.4)


def test_of_two_watchers_the_second_is_told(stage: Stage) -> None:
    with Claim(stage.workspace, "watch", NAME, "claim.json"), pytest.raises(HeldError, match=f"watch/{NAME}"):
        stage.watcher().run(once=True)
    stage.watcher().run(once=True)


def test_a_server_that_is_down_is_asked_again_and_again_but_once_tells(stage: Stage) -> None:
    answers = [ServiceError("Label Studio does not answer"), None, KeyboardInterrupt()]

    def pull() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    stage.on_pull = pull
    with pytest.raises(KeyboardInterrupt):
        stage.watcher().run()
    assert stage.lines[0] == "Label Studio does not answer; looking again in 2 s"
    assert stage.lines[1].startswith("0 new reviews")
    answers[:] = [ServiceError("Label Studio does not answer")]
    with pytest.raises(ServiceError):
        stage.watcher().run(once=True)
    answers[:] = [ConfigError("no key")]
    with pytest.raises(ConfigError):
        stage.watcher().run()


def test_pauses_after_failures_double_up_to_an_hour(stage: Stage) -> None:
    quick, slow = stage.watcher(every_s=300), stage.watcher(every_s=7200)
    assert [quick._pause_s(n) for n in range(6)] == [300, 600, 1200, 2400, 3600, 3600]
    assert [slow._pause_s(n) for n in range(3)] == [7200, 7200, 7200]


def test_a_hint_brings_the_next_look_forward(stage: Stage) -> None:
    write_hint(stage.workspace)
    begin = time.monotonic()
    watch_module._pause(stage.workspace, 1.0, hinted_at(stage.workspace))
    assert time.monotonic() - begin >= 1.0  # the hint was known
    timer = threading.Timer(0.3, lambda: write_hint(stage.workspace))
    timer.start()
    begin = time.monotonic()
    watch_module._pause(stage.workspace, 100.0, hinted_at(stage.workspace))
    assert time.monotonic() - begin < 100
    timer.join()


def test_the_verb_tells_in_its_lines_and_needs_a_key(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sonoloop.toml"
    file.write_text(f'workspace = "{stage.workspace.uri}"\narchive = "a"\n[watch]\nmin_reviews = 9\n')
    app = typer.Typer()
    app.command()(watch)
    answer = CliRunner().invoke(app, ["--once", "-c", str(file)])
    assert answer.exit_code == 0, answer.output
    assert "watch: 0 new reviews of 0 organs; 9 more reviews and 1 more organs" in answer.output
    monkeypatch.undo()
    for name in ("LABEL_STUDIO_API_KEY", "SONOLOOP_PSEUDONYM_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(CliRunner().invoke(app, ["--once", "-c", str(file)]).exception, ConfigError)
