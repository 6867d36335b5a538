"""The benchmarks end to end: files in, the built-in model's answers scored, stored and shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.jobs.suite_files import conversation, picture, u2_row, whole_u2, write_json, write_u2

from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.items import ANSWERS, Source
from sonoloop.jobs.evaluating.results import SuiteResult, read_result
from sonoloop.jobs.evaluating.suite import Suite, run_benchmark
from sonoloop.jobs.evaluating.suites.conversations import conversation_files
from sonoloop.jobs.evaluating.suites.kmve import report_files
from sonoloop.jobs.evaluating.suites.u2_files import u2_files
from sonoloop.jobs.init import run_init
from sonoloop.jobs.output import show
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from conftest import S3Stack

pytestmark = pytest.mark.ray
FINDING = "甲状腺大小正常，回声均匀。"
SECRET = "Mrs Doe"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Config:
    """A workspace with the built-in model, which writes little."""
    folder = tmp_path_factory.mktemp("suites")
    for name in ("archive", "workspace"):
        (folder / name).mkdir()
    config = Config(
        workspace=str(folder / "workspace"),
        archive=str(folder / "archive"),
        annotate={"engine": {"max_report_tokens": 24}},
    )
    run_init(config)
    return config


def evaluated(suite: Suite, config: Config, path: Path) -> SuiteResult:
    result = run_benchmark(suite, config, str(path), model="champion")
    assert isinstance(result, SuiteResult)
    return result


def stored(config: Config, result: SuiteResult) -> Path:
    return Path(
        config.workspace, "models", result.model_version, "evaluations", f"{result.suite}-{result.data}"
    )


def test_u2bench_end_to_end_counts_every_row_and_goes_on_past_bad_ones(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = whole_u2(tmp_path)
    cells = {"class_label": "benign", "options": "['benign', 'malignant']"}
    write_u2(
        root,
        "disease_diagnosis",
        u2_row(**cells, img_data="bm8gaW1hZ2U="),  # base64 of no image
        u2_row(**{**cells, "class_label": SECRET}),
        name="bad.tsv",
    )
    result = evaluated(Suite.U2BENCH, config, root)
    assert (result.num_items, result.num_rejected) == (11, 2)
    assert result.rejected_by_reason == {"not-an-image": 1, "unreadable": 1}
    score = result.rows[-1].figures["U2-Score"]
    assert score is not None
    assert 0 <= score.value <= 1
    assert score.n == 9
    assert {row.task for row in result.rows} == {"DD", "VRA", "LL", "OD", "KD", "CVE", "RG", "CG", "U2-Score"}
    table = pq.read_table(f"{stored(config, result)}.parquet")
    assert table.schema.equals(ANSWERS)
    assert sorted(table["stage"].to_pylist(), key=str)[-2:] == ["read", "read"]
    assert table.num_rows == 11
    assert not [name for name in config.open_workspace().folders("runs") if name.startswith("answering-")]
    assert read_result(config.open_workspace(), "u2bench", result.model_version, result.data) == result
    show(result, title="evaluate", as_json=False)
    shown = capsys.readouterr().out
    assert "white space, case kept" in shown
    assert "U2-Score" in shown
    assert SECRET not in shown
    show(result, title="evaluate", as_json=True)
    assert json.loads(capsys.readouterr().out)["num_items"] == 11


def test_echovlm_end_to_end_goes_on_past_a_broken_file_and_a_lost_picture(
    config: Config, tmp_path: Path
) -> None:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    records = [
        conversation("<image>Write the report.", "A cyst.", "0.png", region="liver", task="report"),
        conversation("<image>Is it normal?", "yes", "1.png", region="heart", task="vqa"),
        conversation("What is it?", "A stone.", region="kidney", task="diagnosis"),
        conversation("Q", "A", "gone.png", region="kidney"),
    ]
    write_json(tmp_path / "test.json", records)
    (tmp_path / "broken.json").write_text("{")
    result = evaluated(Suite.ECHOVLM, config, tmp_path)
    assert result.num_items == 5
    assert result.rejected_by_reason == {"unreadable": 1, "image-missing": 1}
    assert [row.group for row in result.rows if row.group != "average"] == ["liver", "kidney", "heart"]
    (answer, *_) = (
        pq.read_table(f"{stored(config, result)}.parquet")
        .filter(pc.equal(pc.field("group"), "liver"))["num_tokens"]
        .to_pylist()
    )
    assert 0 < answer <= 24


def test_kmve_end_to_end_names_both_ways_of_cutting_chinese(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "Thyroid_report").mkdir()
    (tmp_path / "Thyroid_report" / "0.png").write_bytes(picture())
    records = [{"uid": SECRET, "image_path": ["0.png"], "finding": FINDING}] * 4
    write_json(tmp_path / "new_Thyroid2.json", {"train": [], "val": [], "test": records})
    with caplog.at_level(logging.DEBUG, logger="sonoloop"):
        result = evaluated(Suite.KMVE, config, tmp_path)
    assert (result.num_items, result.num_rejected, result.prompt_version) == (4, 0, "report/zh/1")
    assert [name.partition(" (")[0] for name in result.tokenizers] == [
        "jieba: jieba words",
        "characters: characters",
    ]
    (whole,) = [row for row in result.rows if row.group == "new_Thyroid2.json"]
    assert whole.num_items == 4
    assert {"BLEU-4 (jieba)", "METEOR (characters)"} <= set(whole.figures)
    assert SECRET not in caplog.text


def test_a_benchmark_without_a_path_says_what_is_needed(config: Config) -> None:
    with pytest.raises(ConfigError, match="needs --path"):
        run_benchmark(Suite.U2BENCH, config, None, model="champion")


def test_the_files_of_every_suite_read_the_same_from_s3_and_from_a_folder(
    ray_cluster: str, stack_s3: S3Stack, tmp_path: Path
) -> None:
    whole_u2(tmp_path / "u2")
    write_json(tmp_path / "talks" / "vqa.json", [conversation("Q", "A", "pictures/0.png")])
    write_json(tmp_path / "kmve" / "a.json", {"test": [{"image_path": ["0.png"], "finding": FINDING}]})
    for folder in ("talks", "kmve"):
        (tmp_path / folder / "pictures").mkdir()
        (tmp_path / folder / "pictures" / "0.png").write_bytes(picture())
    bucket = stack_s3.bucket()
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        key = f"data/{path.relative_to(tmp_path)}"
        stack_s3.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    readers: dict[str, Callable[[Store], Sequence[Source]]] = {
        "u2": u2_files,
        "talks": lambda store: conversation_files(store, max_images=4),
        "kmve": lambda store: report_files(store, max_images=4),
    }
    for folder, files in readers.items():
        local = Store(str(tmp_path / folder))
        remote = Store(f"s3://{bucket}/data/{folder}", S3Config(endpoint_url=stack_s3.endpoint))
        one, other = ([item for file in files(store) for item in file.items()] for store in (local, remote))
        assert [item.place for item in one] == [item.place for item in other]
        assert [item.item_hash for item in one] == [item.item_hash for item in other]
        assert all(item.images for item in one)
