"""The stage that asks a model: what has an answer is not asked again, what breaks the engine breaks alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.suite_files import conversation, picture

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.jobs.evaluating.answering import Answerer, _packed
from sonoloop.jobs.evaluating.items import Answered, Item
from sonoloop.jobs.evaluating.kept import KeptAnswer, KeptAnswers
from sonoloop.jobs.evaluating.suites.conversations import ConversationFile
from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.workspace import Store

CONFIG = AnnotateConfig.model_validate({"engine": {"max_report_tokens": 8}})
ITEMS = [
    Item(f"f#{at}", "t", "g", turns=(("user", f"Question {at}?"),), images=(picture(at),), reference="a")
    for at in range(3)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    workspace = Store(str(tmp_path_factory.mktemp("workspace")))
    version = registry.publish(workspace, nano.folder(), "nano", lineage={})
    return RunContext(workspace, "r", version, "", "", CONFIG)


@pytest.fixture
def kept(run: RunContext, tmp_path: Path) -> KeptAnswers:
    return KeptAnswers(Store(str(tmp_path)), "key")


def ask(run: RunContext, kept: KeptAnswers, items: Sequence[Item], engine: Any = None) -> list[Answered]:
    answerer = Answerer(run, kept)
    if engine is not None:
        answerer._engine = engine(answerer._engine)
    return [pickle.loads(row["packed"]) for row in answerer(_packed(items)).to_pylist()]


def test_what_has_an_answer_is_not_asked_again(run: RunContext, kept: KeptAnswers) -> None:
    first = ask(run, kept, ITEMS[:2])
    assert [one.item.place for one in first] == ["f#0", "f#1"]
    assert all(one.answer is not None and one.num_tokens > 0 for one in first)
    again = ask(run, kept, ITEMS)
    assert again[:2] == first
    told = Answered(ITEMS[1], ITEMS[1].item_hash, "told", num_tokens=7)
    KeptAnswers(kept.workspace, "told").keep([told])
    found = ask(run, KeptAnswers(kept.workspace, "told"), ITEMS)
    assert [one.answer for one in found] == [first[0].answer, "told", again[2].answer]
    kept.forget()
    assert kept.read() == {}


class Breaking:
    """An engine that is broken by the question 1."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def answer(self, conversations: Sequence[Any], **settings: Any) -> Any:
        if "Question 1" in str(conversations):
            raise RuntimeError("a kernel says what it was given")
        return self._engine.answer(conversations, **settings)


def test_an_item_that_breaks_the_engine_is_one_that_the_model_failed_on(
    run: RunContext, kept: KeptAnswers
) -> None:
    found = ask(run, kept, ITEMS, Breaking)
    assert [one.is_scored for one in found] == [True] * 3
    assert [one.rejection and (one.rejection.reason, one.rejection.detail) for one in found] == [
        None,
        (Reason.MODEL_FAILED, "RuntimeError"),
        None,
    ]
    assert set(kept.read()) == {item.item_hash for item in ITEMS}


def test_what_may_succeed_later_and_what_cannot_be_asked_is_not_kept(kept: KeptAnswers) -> None:
    late = RejectedError(Reason.TIMED_OUT, "d", retryable=True)
    kept.keep([Answered(ITEMS[0], "a", None, rejection=late), Answered(ITEMS[1], "b", "x")])
    assert kept.read() == {"b": KeptAnswer(item_hash="b", answer="x", reason=None, detail=None, num_tokens=0)}


def test_odd_records_of_the_published_form_are_read_or_rejected_one_by_one(tmp_path: Path) -> None:
    asked = {"from": "human", "value": "Q"}
    lines = [
        conversation("<image>Q\u2028more\x85", "A", "a.png"),
        conversation("Q", "A", "gone.png"),
        {"conversations": [asked, {"from": "gpt", "value": "A"}, {"from": "gpt", "value": "B"}]},
        {"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ]
    (tmp_path / "a.png").write_bytes(picture())
    text = "\r\n".join(json.dumps(one, ensure_ascii=False) for one in lines)
    (tmp_path / "odd.jsonl").write_text(text + "\r\n\r\n")
    items = list(ConversationFile(Store(str(tmp_path)), "odd.jsonl", 8).items())
    assert [one.rejection and str(one.rejection.reason) for one in items] == [
        None,
        "image-missing",
        "unreadable",
        None,
    ]
    assert items[0].turns[0][1].startswith("Q\u2028more")
