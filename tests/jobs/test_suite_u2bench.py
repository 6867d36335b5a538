"""U2-BENCH: rows to items, answers to figures, and the weighted score by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.jobs.suite_files import picture, u2_row, whole_u2, write_u2

from sonoloop.jobs.config import EvaluateConfig
from sonoloop.jobs.evaluating.items import Answered, Item, answers_table, data_hash
from sonoloop.jobs.evaluating.results import SuiteRow
from sonoloop.jobs.evaluating.suites.u2_files import TASKS, u2_files
from sonoloop.jobs.evaluating.suites.u2bench import WEIGHTS, score_u2bench, value_errors
from sonoloop.jobs.evaluating.texts import TextFigures
from sonoloop.model.metrics.tokens import white_space
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.workspace import Store

TEXTS = TextFigures((white_space(),), EvaluateConfig())


def items(root: Path) -> list[Item]:
    return [item for file in u2_files(Store(str(root))) for item in file.items()]


def one(tmp_path: Path, folder: str, **cells: Any) -> Item:
    write_u2(tmp_path, folder, u2_row(**cells))
    (found,) = items(tmp_path)
    return found


def answered(item: Item, answer: str | None) -> Answered:
    return Answered(item, item.item_hash, answer)


def row(rows: list[SuiteRow], task: str, group: str = "all") -> SuiteRow:
    (found,) = [one for one in rows if (one.task, one.group) == (task, group)]
    return found


def value(rows: list[SuiteRow], task: str, name: str, group: str = "all") -> float:
    estimate = row(rows, task, group).figures[name]
    assert estimate is not None
    return estimate.value


def test_the_weights_add_up_to_one_and_name_every_task() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert set(WEIGHTS) == set(TASKS.values())


def test_every_task_is_read_with_its_reference_its_options_and_its_picture(tmp_path: Path) -> None:
    found = {item.task: item for item in items(whole_u2(tmp_path))}
    assert {task: item.reference for task, item in found.items()} == {
        "DD": "malignant",
        "VRA": "4CH",
        "LL": "upper left",
        "OD": "upper left",
        "KD": "lower center",
        "CVE": "55.0",
        "RG": "The liver is normal.",
        "CG": "Lung with B-lines",
    }
    assert found["VRA"].options == ("2CH", "4CH")
    assert found["VRA"].group == "21.Breast/View"
    assert not any(item.rejection for item in found.values())
    assert all(item.images == (picture(),) for item in found.values())
    assert found["DD"].place == "disease_diagnosis/21.tsv#1"


def test_a_published_prompt_is_unescaped_and_filled_and_never_shows_the_reference(tmp_path: Path) -> None:
    prompt = r"Focus on the {anatomy\_location}.\nChoose. {caption} options: benign, malignant"
    item = one(
        tmp_path,
        "disease_diagnosis",
        prompt=prompt,
        caption="secret",
        class_label="benign",
        options="['benign', 'malignant']",
    )
    ((role, text),) = item.turns
    assert (role, text) == (
        "user",
        "Focus on the breast.\nChoose. {caption} options: benign, malignant",
    )


def test_a_prompt_of_ours_names_the_options(tmp_path: Path) -> None:
    item = one(tmp_path, "lesion_localisation", gt_bbox="")
    assert item.reference == "not visible"
    assert "middle right, lower left" in item.turns[0][1]


@pytest.mark.parametrize(
    ("folder", "cells", "detail"),
    [
        ("disease_diagnosis", {"class_label": "x", "options": "['a', 'b']"}, "none of its 2 options"),
        ("disease_diagnosis", {"class_label": "a", "options": ""}, "expected options"),
        ("lesion_localisation", {"gt_bbox": "[{'lesion': [120, 80, 10, 10]}]"}, "fractions"),
        ("lesion_localisation", {"gt_bbox": "somewhere"}, "expected coordinates"),
        ("lesion_localisation", {"gt_bbox": "[0.1, null]"}, "expected coordinates"),
        ("lesion_localisation", {"gt_bbox": f"[1{'0' * 400}, 0]"}, "cannot be read (OverflowError)"),
        ("clinical_value_estimation", {"dataset_name": "99.x", "measurement": "{'EF': 5}"}, "no range"),
        ("clinical_value_estimation", {"dataset_name": "18.x", "measurement": "{'EF': 'n'}"}, "no number"),
        (
            "clinical_value_estimation",
            {"dataset_name": "18.x", "measurement": f"{{'EF': 1{'0' * 400}}}"},
            "no number",
        ),
        ("report_generation", {}, "reference text"),
        ("caption_generation", {"caption": "x", "img_data": "%%%"}, "no base64"),
        ("caption_generation", {"caption": "x", "img_data": "\u00e4"}, "no base64"),
    ],
)
def test_a_bad_row_is_a_rejected_item_that_says_why(
    tmp_path: Path, folder: str, cells: dict[str, Any], detail: str
) -> None:
    rejection = one(tmp_path, folder, **cells).rejection
    assert rejection is not None
    assert detail in rejection.detail


def test_a_class_called_none_is_a_class(tmp_path: Path) -> None:
    item = one(tmp_path, "disease_diagnosis", class_label="none", options="['none', 'optimal']")
    assert (item.reference, item.rejection) == ("none", None)


def test_rows_of_one_patient_are_drawn_together_and_the_identifier_goes_nowhere(tmp_path: Path) -> None:
    first, second = (item for item in items(whole_u2(tmp_path)) if item.task == "DD")
    assert first.cluster == second.cluster != ""
    assert "p1" not in repr(first)
    stored = answers_table([answered(first, "benign")])
    assert not {"cluster", "images"} & set(stored.column_names)


def test_a_folder_without_the_benchmark_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "an_explanation_of_the_columns.tsv").write_text("dataset_name\n")
    with pytest.raises(NothingToDoError, match="disease_diagnosis"):
        items(tmp_path)


def test_the_data_is_named_by_its_content_whatever_its_files_are_called(tmp_path: Path) -> None:
    cells = {"class_label": "benign", "options": "['benign', 'malignant']"}
    write_u2(tmp_path / "a", "disease_diagnosis", u2_row(**cells))
    write_u2(tmp_path / "b", "disease_diagnosis", u2_row(**cells), name="other.tsv")
    write_u2(tmp_path / "c", "disease_diagnosis", u2_row(**{**cells, "class_label": "malignant"}))
    names = [data_hash([answered(item, None) for item in items(tmp_path / name)]) for name in "abc"]
    assert names[0] == names[1] != names[2]


def test_the_score_is_the_weighted_sum_of_the_tasks_main_figures(tmp_path: Path) -> None:
    answers = {
        "DD": "benign",  # of benign and malignant: half right
        "VRA": "4CH",
        "LL": "upper left",
        "OD": "no idea",
        "KD": "lower center",
        "CVE": "48.5",  # 6.5 of 65
        "RG": "The liver is normal.",
        "CG": "nothing alike",
    }
    rows = score_u2bench([answered(i, answers[i.task]) for i in items(whole_u2(tmp_path))], TEXTS)
    expected = {"DD": 0.5, "VRA": 1, "LL": 1, "OD": 0, "KD": 1, "CVE": 0.9, "RG": 1, "CG": 0}
    assert value(rows, "U2-Score", "U2-Score") == pytest.approx(
        sum(WEIGHTS[task] * figure for task, figure in expected.items())
    )
    assert value(rows, "DD", "accuracy") == 0.5
    assert value(rows, "DD", "macro F1") == pytest.approx((2 / 3 + 0) / 2)
    assert value(rows, "CVE", "RMSE") == pytest.approx(0.1)
    assert value(rows, "CVE", "within tolerance") == 1.0
    assert row(rows, "OD").num_unreadable == 1
    score = row(rows, "U2-Score").figures["U2-Score"]
    assert score is not None
    assert score.n == 9
    assert score.low is not None
    assert score.low <= score.value


def test_a_task_is_the_mean_over_its_data_sets_however_large_each_is(tmp_path: Path) -> None:
    cells = {"class_label": "benign", "options": "['benign', 'malignant']"}
    write_u2(tmp_path, "disease_diagnosis", *[u2_row(**cells)] * 3)
    write_u2(tmp_path, "disease_diagnosis", u2_row(**cells, dataset_name="25.Skin"), name="25.tsv")
    found = [answered(i, "benign" if i.group == "25.Skin" else "malignant") for i in items(tmp_path)]
    rows = score_u2bench(found, TEXTS)
    accuracy = row(rows, "DD").figures["accuracy"]
    assert accuracy is not None
    assert (accuracy.value, accuracy.n) == (pytest.approx(0.5), 4)
    assert (accuracy.low, accuracy.high) == (0.0, 1.0)  # of some draws, one data set is all there is
    assert value(rows, "DD", "accuracy", "21.Breast") == 0.0
    assert value(rows, "DD", "accuracy", "25.Skin") == 1.0
    assert not [one for one in rows if one.task == "U2-Score"]  # seven tasks are missing


def test_a_value_that_cannot_be_read_errs_by_the_whole_range(tmp_path: Path) -> None:
    item = one(tmp_path, "clinical_value_estimation", dataset_name="27.IMT", measurement="{'IMT': [0.9]}")
    assert value_errors([answered(item, "0.6")]) == pytest.approx([0.25])
    assert value_errors([answered(item, "null"), answered(item, None)]) == [1.0, 1.0]
