"""From planned indices to micro-batches: images prepared apart from the words, tasks and weights in them."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.jobs.learnable import NAME, config_of, make_workspace

from sonoloop.jobs.finetuning.data import Reader, steps_of
from sonoloop.jobs.finetuning.inputs import TrainingCase, freeze_inputs
from sonoloop.jobs.finetuning.plan import Plan, Planned
from sonoloop.jobs.finetuning.preparing import Preparer
from sonoloop.jobs.snapshot import ConversationRow, freeze_snapshot, read_snapshot
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import IGNORED
from sonoloop.platform import registry
from sonoloop.platform.errors import StorageError
from sonoloop.platform.records import Turn
from sonoloop.platform.workspace import Store

ANSWER = "A dark round spot."
CONVERSATION = ConversationRow(
    conversation_id="talk",
    source_id=None,
    image_keys=("images/00.png", "images/01.png"),
    turns=(Turn(role="user", text="<image><image>What is it?"), Turn(role="assistant", text=ANSWER)),
    group_key="g",
    indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
    split="train",
    weight=3.0,
)


class Frozen:
    """A run whose input is frozen, and what reads it."""

    def __init__(self, workspace: Store) -> None:
        self.workspace = workspace
        self.config = config_of(workspace, recipe="full").finetune
        base = registry.resolve(workspace, NAME)
        self.processor = EchoVLMProcessor.from_folder(registry.fetch(workspace, base))
        rows = read_snapshot(workspace, freeze_snapshot(workspace, test_share=0.2).name, "train")
        how: Any = {"processor": self.processor, "reading": EngineConfig(), "learnt": frozenset()}
        self.cases: list[TrainingCase] = freeze_inputs(workspace, "run", rows, [CONVERSATION], **how)
        words = {row.case_id: row for row in rows} | {"talk": CONVERSATION}
        self.reader = Reader(self.processor, words, self.config, EngineConfig())
        self.preparer = Preparer(workspace, "run", base, None, 0)

    def prepared(self, *examples: int) -> list[PreparedCase]:
        (row,) = self.preparer(pa.table({"examples": [list(examples)]}))["prepared"].to_pylist()
        cases: list[PreparedCase] = pickle.loads(row)
        return cases


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    return Frozen(make_workspace(tmp_path_factory.mktemp("data") / "workspace"))


def test_a_micro_batch_holds_its_examples_in_order_with_their_weights(frozen: Frozen) -> None:
    last = len(frozen.cases) - 1
    batch = frozen.reader.batch(Planned((last, 2)), frozen.prepared(last, 2), epoch=0)
    assert batch.inputs["weights"].tolist() == [3.0, 1.0]
    assert len(batch.inputs["image_grid_thw"]) == 3
    ids, labels = batch.inputs["input_ids"][0], batch.inputs["labels"][0]
    learnt = frozen.processor.tokenizer.decode(ids[labels != IGNORED])
    assert learnt == f"{ANSWER}<|im_end|>"
    alone = [frozen.reader.batch(Planned((i,)), frozen.prepared(i), epoch=0) for i in (last, 2)]
    assert batch.weight == pytest.approx(sum(one.weight for one in alone))
    assert batch.num_tokens == sum(one.num_tokens for one in alone)


def test_a_micro_batch_that_does_not_count_weighs_nothing(frozen: Frozen) -> None:
    batch = frozen.reader.batch(Planned((0,), counts=False), frozen.prepared(0), epoch=0)
    assert (batch.weight, batch.num_tokens) == (0.0, 0)
    assert batch.inputs["attention_mask"].sum() > 0


def test_a_case_is_an_example_of_several_tasks_over_the_epochs(frozen: Frozen) -> None:
    prepared = frozen.prepared(0)
    answered = {frozen.reader.batch(Planned((0,)), prepared, epoch).weight for epoch in range(30)}
    assert len(answered) > 2


def test_the_stated_tokens_are_near_those_of_the_conversation(frozen: Frozen) -> None:
    report = Reader(
        frozen.processor, frozen.reader.rows, config_of(frozen.workspace).finetune, EngineConfig()
    )
    found = [
        report.batch(Planned((index,)), frozen.prepared(index), 0).num_tokens - frozen.cases[index].num_tokens
        for index in range(6)
    ]
    assert max(found) - min(found) <= 2  # what the prompts add is the same for all


def test_steps_come_in_the_order_of_the_plan_from_where_it_goes_on(frozen: Frozen) -> None:
    plan = Plan([c.num_tokens for c in frozen.cases], [c.is_new for c in frozen.cases], frozen.config)
    planned = [p for step in range(3, plan.num_steps) for p in plan.of_rank(step, 1, 2)]
    prepared = (frozen.prepared(*one.examples) for one in planned)
    steps = list(steps_of(plan, prepared, frozen.reader, first=3, rank=1, world=2))
    assert [number for number, _ in steps] == list(range(3, plan.num_steps))
    assert [batch.counts for _, batches in steps for batch in batches] == [one.counts for one in planned]


def test_an_image_that_cannot_be_read_is_told_with_its_case_and_nothing_of_what_was_written(
    tmp_path: Path,
) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    frozen = Frozen(workspace)
    first, second = frozen.cases[:2]
    workspace.write_bytes(b"no picture", first.image_keys[0])
    workspace.remove(second.image_keys[0])
    with pytest.raises(
        StorageError, match=rf"case {first.case_id} cannot be read \((unreadable|not-an-image)\)"
    ):
        frozen.prepared(0)
    with pytest.raises(StorageError, match=rf"case {second.case_id} cannot be read \(image-missing\)"):
        frozen.prepared(1)
