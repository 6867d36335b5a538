"""Published conversations and KMVE's reports: records to items, answers to the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.jobs.suite_files import conversation, picture, write_json

from sonoloop.jobs.config import EvaluateConfig
from sonoloop.jobs.evaluating.items import Answered, Item
from sonoloop.jobs.evaluating.results import SuiteRow
from sonoloop.jobs.evaluating.suites.conversations import conversation_files
from sonoloop.jobs.evaluating.suites.echovlm import score_echovlm
from sonoloop.jobs.evaluating.suites.kmve import findings_of, report_files, score_kmve
from sonoloop.jobs.evaluating.texts import TextFigures
from sonoloop.model.metrics.tokens import english, tokenizers_for
from sonoloop.platform.errors import NothingToDoError, Reason, RejectedError
from sonoloop.platform.workspace import Store

FINDING = "甲状腺大小正常，回声均匀。"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for seed in range(3):
        (tmp_path / "pictures" / f"{seed}.png").write_bytes(picture(seed))
    return tmp_path


def items(root: Path, *, max_images: int = 16) -> list[Item]:
    files = conversation_files(Store(str(root)), max_images=max_images)
    return [item for file in files for item in file.items()]


def answered(item: Item, answer: str | None) -> Answered:
    return Answered(item, item.item_hash, answer)


def value(rows: list[SuiteRow], task: str, group: str, name: str) -> tuple[float, int]:
    (found,) = [row for row in rows if (row.task, row.group) == (task, group)]
    estimate = found.figures[name]
    assert estimate is not None
    return estimate.value, estimate.n


def test_a_record_becomes_a_question_with_its_pictures_first_and_its_last_answer_as_reference(
    root: Path,
) -> None:
    record = conversation("<image>\n<image>What now?", "A cyst.", "pictures/0.png", "pictures/1.png")
    record["conversations"] = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image><image>Which organ?"},
        {"from": "gpt", "value": "Liver."},
        *record["conversations"],
    ]
    write_json(root / "liver_report.json", [record])
    (item,) = items(root)
    assert item.turns == (
        ("system", "Be brief."),
        ("user", "Which organ?"),
        ("assistant", "Liver."),
        ("user", "What now?"),
    )
    assert (item.reference, item.task, item.group) == ("A cyst.", "report generation", "liver")
    assert item.images == (picture(0), picture(1))
    assert "patient-7" not in repr(item)


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("thyriod/chinese_finding.json", {}, ("report generation", "thyroid")),
        ("heart/impression.json", {}, ("diagnosis", "heart")),
        ("x/judge.json", {"region": "Gynecology"}, ("VQA", "gynaecology")),
        ("x/y.json", {"region": "血管", "task": "diagnosis"}, ("diagnosis", "vessel")),
        ("x/y.json", {}, ("VQA", "other")),
    ],
)
def test_task_and_region_come_from_the_record_or_the_path(
    root: Path, path: str, fields: dict[str, str], expected: tuple[str, str]
) -> None:
    write_json(root / path, [conversation("Q", "A", **fields)])
    (item,) = items(root)
    assert (item.task, item.group) == expected


def test_messages_and_json_lines_are_read_the_same_way(root: Path) -> None:
    messages = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "R"}]
    lines = [json.dumps({"messages": messages, "images": ["pictures/0.png"]}), "", "{broken", "[]"]
    (root / "vqa.jsonl").write_text("\n".join(lines))
    good, *bad = items(root)
    assert (good.turns, good.reference, len(good.images)) == ((("user", "Q"),), "R", 1)
    assert [item.place for item in bad] == ["vqa.jsonl#1", "vqa.jsonl#2"]
    assert all(item.rejection for item in bad)


def test_bad_records_are_rejected_and_say_why_without_what_they_hold(root: Path) -> None:
    records = [
        conversation("Q", "A", "pictures/gone.png"),
        {"conversations": [{"from": "human", "value": "Q"}]},
        {"conversations": [{"from": "alien", "value": "secret"}, {"from": "gpt", "value": "A"}]},
        conversation("Q", "A", options="A"),
        conversation("Q", ""),
        "text",
    ]
    write_json(root / "vqa.json", records)
    found = items(root)
    assert [item.rejection and str(item.rejection.reason) for item in found] == [
        "image-missing",
        *["unreadable"] * 5,
    ]
    assert "secret" not in str([item.rejection for item in found])


def test_a_record_that_nobody_foresaw_is_rejected_alone_and_the_file_is_read_on(root: Path) -> None:
    names = ("pictures/secret\0.png", f"../{root.name}/pictures/0.png")
    odd = [{"conversations": 7}, *(conversation("Q", "A", name) for name in names)]
    write_json(root / "vqa.json", [*odd, conversation("Q", "A", "pictures/0.png")])
    *rejected, good = items(root)
    assert [item.place for item in rejected] == [f"vqa.json#{number}" for number in range(3)]
    assert [item.rejection and item.rejection.reason for item in rejected] == [
        Reason.UNREADABLE,
        *[Reason.IMAGE_MISSING] * 2,
    ]
    assert "secret" not in str([item.rejection for item in rejected])
    assert (good.rejection, good.images) == (None, (picture(0),))
    write_json(root / "kmve" / "a.json", {"test": [{"image_path": names[0], "finding": FINDING}]})
    (lost,) = kmve_items(root / "kmve")
    assert lost.rejection is not None
    assert lost.rejection.reason is Reason.IMAGE_MISSING


def test_of_many_pictures_evenly_spaced_ones_are_shown(root: Path) -> None:
    names = [f"pictures/{seed}.png" for seed in range(3)]
    write_json(root / "vqa.json", conversation("Q", "A", *names))
    (item,) = items(root, max_images=2)
    assert item.images == (picture(0), picture(2))


def test_the_layout_is_tasks_by_regions_with_the_average_over_regions(root: Path) -> None:
    records = [
        conversation("Q", "A cyst of the liver", region="liver", task="report"),
        conversation("Q", "A cyst of the liver", region="liver", task="report"),
        conversation("Q", "A stone", region="kidney", task="report"),
        conversation("Q", "B", region="heart", task="vqa"),
        conversation("Q", "yes", region="heart", task="vqa"),
        conversation("Q", "free text", region="heart", task="vqa"),
        conversation("Q", "stone", region="kidney", task="diagnosis", options=["stone", "cyst"]),
        conversation("Q", "A stone with shadow", region="kidney", task="report", labels=["stone", "shadow"]),
    ]
    write_json(root / "all.json", records)
    said = [
        "A cyst of the liver",
        None,
        "A stone",
        "b) benign",
        "perhaps",
        "free text",
        "a stone, I think",
        "stone",
    ]
    answers = [answered(item, text) for item, text in zip(items(root), said, strict=True)]
    rows = score_echovlm(answers, TextFigures((english(),), EvaluateConfig()))
    assert [(row.task, row.group) for row in rows] == [
        ("report generation", "average"),
        ("report generation", "kidney"),
        ("report generation", "liver"),
        ("diagnosis", "average"),
        ("diagnosis", "kidney"),
        ("VQA", "average"),
        ("VQA", "heart"),
    ]
    liver, kidney = (
        value(rows, "report generation", group, "ROUGE-1 (13a)") for group in ("liver", "kidney")
    )
    assert liver == (pytest.approx(0.5), 2)
    average = value(rows, "report generation", "average", "ROUGE-1 (13a)")
    assert average == (pytest.approx((liver[0] + kidney[0]) / 2), 4)
    assert value(rows, "VQA", "heart", "closed accuracy") == (0.5, 2)  # the free text is no closed question
    assert value(rows, "diagnosis", "kidney", "closed accuracy") == (1.0, 1)
    assert value(rows, "report generation", "kidney", "entity macro recall") == (0.5, 1)
    assert value(rows, "report generation", "kidney", "entity Hamming accuracy") == (0.5, 1)
    assert [row.num_unanswered for row in rows if row.group == "liver"] == [1]
    assert [row.num_unreadable for row in rows if row.group == "heart"] == [1]


def kmve_items(root: Path) -> list[Item]:
    files = report_files(Store(str(root)), max_images=16)
    return [item for file in files for item in file.items()]


def test_the_test_side_of_a_report_file_is_asked_with_the_chinese_report_prompt(root: Path) -> None:
    record = {"uid": 7, "image_path": ["0.png", "1.png"], "finding": FINDING, "labels": [1]}
    bad = [{**record, "image_path": ["gone.png", "1.png"]}, {**record, "finding": " "}, None]
    write_json(root / "new_Thyroid2.json", {"train": [record], "val": [record], "test": [record, *bad]})
    good, *rejected = kmve_items(root)
    assert (good.reference, good.group, good.images) == (
        FINDING,
        "new_Thyroid2.json",
        (picture(0), picture(1)),
    )
    assert [role for role, _ in good.turns] == ["system", "user"]
    assert "超声" in good.turns[1][1]
    assert [item.rejection and str(item.rejection.reason) for item in rejected] == [
        "image-missing",
        "unreadable",
        "unreadable",
    ]


def test_the_findings_of_a_chinese_report_are_scored_by_words_and_by_characters(root: Path) -> None:
    record = {"uid": 7, "image_path": ["0.png"], "finding": FINDING}
    write_json(root / "a.json", {"test": [record, record]})
    whole, plain = f"超声所见：{FINDING}\n超声提示：未见异常。", "甲状腺正常"
    assert findings_of(whole) == FINDING
    assert findings_of(plain) == plain
    answers = [answered(item, text) for item, text in zip(kmve_items(root), (whole, None), strict=True)]
    rows = score_kmve(answers, TextFigures(tokenizers_for([FINDING]), EvaluateConfig()))
    for name in ("ROUGE-L (jieba)", "ROUGE-L (characters)"):
        assert value(rows, "report generation", "a.json", name) == (pytest.approx(0.5), 2)


def test_a_file_of_another_form_is_refused_as_a_whole(root: Path) -> None:
    write_json(root / "a.json", [1, 2])
    with pytest.raises(RejectedError, match="whose test is a list"):
        kmve_items(root)


@pytest.mark.parametrize("read", [items, kmve_items])
def test_an_empty_folder_says_what_was_expected(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(NothingToDoError, match=r"holds no \.json"):
        read(tmp_path)
