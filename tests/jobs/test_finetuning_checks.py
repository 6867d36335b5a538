"""What is refused before anything is trained, and that it says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.jobs.learnable import NAME, config_of, make_workspace

from sonoloop.jobs.finetune import make_challenger, run_finetune
from sonoloop.jobs.finetuning.checks import check_fits, check_vocabulary
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.inputs import freeze_inputs, learnt_from, read_inputs
from sonoloop.jobs.snapshot import freeze_snapshot, read_snapshot
from sonoloop.model import nano
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform import registry
from sonoloop.platform.errors import CheckpointError, ConfigError, ConflictError, StorageError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

CPU_NODE = {"CPU": 4.0}


@pytest.fixture(scope="module")
def processor() -> EchoVLMProcessor:
    return EchoVLMProcessor.from_folder(nano.folder())


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return make_workspace(tmp_path / "workspace")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_gpu": True}, "2 GPUs for 2 workers, the cluster has 0; set finetune.use_gpu = false"),
        ({"num_workers": 4}, "6 logical CPUs for 4 workers and 1 preparers each, the cluster has 4"),
        ({"num_workers": 1, "cpus_per_worker": 5, "cpus_per_preparer": 0.1}, "5.1 logical CPUs"),
    ],
)
def test_workers_that_find_no_place_are_refused_with_numbers(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_fits(FinetuneConfig(**settings), [CPU_NODE])


def test_workers_fit_where_they_do_and_the_fewest_count_where_there_may_be_fewer() -> None:
    check_fits(FinetuneConfig(), [CPU_NODE])
    check_fits(FinetuneConfig(num_workers=64, min_workers=1), [CPU_NODE])
    check_fits(FinetuneConfig(num_workers=2, use_gpu=True), [{"CPU": 2, "GPU": 1}] * 2)
    with pytest.raises(ConfigError, match="room for 0 of 2 workers that hold 3 CPU"):
        check_fits(FinetuneConfig(cpus_per_worker=3), [{"CPU": 2.0}] * 4)


def test_a_tokenizer_that_is_larger_than_the_embedding_or_of_another_base_is_refused(
    processor: EchoVLMProcessor, tmp_path: Path
) -> None:
    check_vocabulary(nano.folder(), processor)
    other = tmp_path / "other"
    shutil.copytree(nano.folder(), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(CheckpointError, match=r"token ids up to \d+, its embedding has 100 rows"):
        check_vocabulary(other, processor)
    (other / "config.json").write_text(json.dumps({**config, "image_token_id": 9}))
    with pytest.raises(CheckpointError, match=r"images as token 5, its configuration says 9"):
        check_vocabulary(other, processor)


def test_inputs_are_frozen_with_the_images_that_the_model_sees(
    workspace: Store, processor: EchoVLMProcessor
) -> None:
    snapshot = freeze_snapshot(workspace, test_share=0.2)
    rows = read_snapshot(workspace, snapshot.name, "train")
    learnt = frozenset(row.review_id for row in rows[:3])
    cases = freeze_inputs(workspace, "run", rows, processor=processor, reading=EngineConfig(), learnt=learnt)
    assert read_inputs(workspace, "run") == cases
    assert [case.case_id for case in cases] == [row.case_id for row in rows]
    assert [case.is_new for case in cases] == [False] * 3 + [True] * (len(rows) - 3)
    assert all(len(case.image_keys) == 1 and case.num_tokens > 12 for case in cases)  # 12 of the image
    assert learnt_from(workspace, snapshot.name) == {row.review_id for row in rows}
    assert learnt_from(workspace, None) == frozenset()


def test_images_that_are_gone_are_told_by_case_before_anything_is_trained(
    workspace: Store, processor: EchoVLMProcessor
) -> None:
    rows = read_snapshot(workspace, freeze_snapshot(workspace, test_share=0.2).name, "train")
    gone = [row.case_id for row in rows[2:7]]
    for case_id in gone[1:]:
        workspace.remove("images", f"{case_id.removeprefix('case-')}.png")
    workspace.write_bytes(b"", "images", f"{gone[0].removeprefix('case-')}.png")
    with pytest.raises(StorageError, match=rf"case {gone[0]}, .* \(and 2 more\) has images that are gone"):
        freeze_inputs(workspace, "run", rows, processor=processor, reading=EngineConfig(), learnt=frozenset())


@pytest.mark.ray
def test_a_cluster_without_the_room_and_a_store_with_gaps_stop_the_command_and_leave_the_champion(
    workspace: Store, ray_cluster: str
) -> None:
    before = registry.read_aliases(workspace, NAME)
    with pytest.raises(ConfigError, match="2 GPUs for 2 workers"):
        run_finetune(config_of(workspace, use_gpu=True, bf16=False))
    assert workspace.folders("runs") == [workspace.folders("runs")[0]]  # the claim's; no run was begun
    for image in Path(workspace.root, "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(StorageError, match="trained on; restore them"):
        run_finetune(config_of(workspace))
    assert registry.read_aliases(workspace, NAME) == before


def test_a_training_whose_aliases_were_changed_meanwhile_says_what_it_made(tmp_path: Path) -> None:
    workspace, seen = Store(str(tmp_path)), Aliases()
    now = registry.set_aliases(workspace, "nano", {"champion": "nano/1"}, expected=seen)
    with pytest.raises(ConflictError, match=r"nano/2 was trained and is published.* the same command makes"):
        make_challenger(workspace, "nano/2", expected=seen, run_id="run")
    make_challenger(workspace, "nano/2", expected=now, run_id="run")
    assert registry.read_aliases(workspace, "nano").challenger == "nano/2"
