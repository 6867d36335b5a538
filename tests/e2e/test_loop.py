"""The loop at small size on real parts: S3, Label Studio, Ray Data, and a watcher that trains with Ray
Train and DeepSpeed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.config import Config
from sonoloop.jobs.demo.archive import read_truth, write_archive
from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.demo.reader import read_tasks
from sonoloop.jobs.evaluating.stored import read_evaluation, snapshot_of
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.promote import run_promote, run_rollback
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.push import run_push
from sonoloop.jobs.snapshot import read_snapshot
from sonoloop.jobs.watch import Watcher
from sonoloop.model.calibration import read_calibrator
from sonoloop.platform import registry
from sonoloop.platform.errors import GateRefusedError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup
from sonoloop.platform.tables import current_reviews, read_cases, read_drafts, read_reviews
from sonoloop.platform.workspace import S3Config, Store, store_of

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

pytestmark = [pytest.mark.ray, pytest.mark.labelstudio]
NUM_STUDIES = 24


@pytest.fixture(scope="module")
def loop(
    stack_s3: S3Stack,
    stack_labelstudio: LabelStudioStack,
    ray_cluster: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A loop that has gone round once; each test looks at one seam of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack_labelstudio.env.items():
            patch.setenv(name, value)
        yield SimpleNamespace(**_go_round(stack_s3, stack_labelstudio))


def _go_round(s3: S3Stack, labelstudio: LabelStudioStack) -> dict[str, Any]:
    bucket = s3.bucket()
    config = Config(
        workspace=f"s3://{bucket}/workspace",
        archive=f"s3://{bucket}/archive",
        s3=S3Config(endpoint_url=s3.endpoint),
        labelstudio={"url": labelstudio.url, "project": f"Loop {bucket}"},
        push={"control_share": 0},
        finetune={"epochs": 2, "learning_rate": 1e-5, "test_share": 0.4},
        watch={"min_reviews": 6, "min_organs": 2},
        gate={
            "min_cases": 1,
            "min_gain": -1.0,
            "max_edits_rise": 20,
            "max_unusable_rise": 20,
            "max_ece_rise": 1,
            "max_slowdown": 20,
            "may_be_unmeasured": ["calibration", "speed"],
        },
    )
    truth_store = store_of(f"s3://{bucket}/truth", config.s3)
    steps = Steps(1)
    num_objects = write_archive(store_of(config.archive, config.s3), truth_store, _phantoms(), steps)
    first = run_init(config).champion
    indexed = run_index(config)
    annotated = run_annotate(config)
    workspace = store_of(config.workspace, config.s3)
    cases = {case.case_id: case for case in read_cases(workspace)}
    truth = read_truth(truth_store, cases, pseudonym_key())
    pushed = [run_push(config), run_push(config)]
    drafts = {(d.case_id, d.model_version): d for d in read_drafts(workspace) if d.status == "draft"}
    with open_project(config) as (door, project):
        read = read_tasks(door, project.id, drafts, truth, steps)
        tasks = list(door.all_tasks(project.id))
    looked = _watch_twice(config)
    versions = looked[0].champion, looked[0].challenger
    snapshot = snapshot_of(workspace, str(versions[1]))
    return {
        "config": config,
        "workspace": workspace,
        "num_objects": num_objects,
        "first": first,
        "indexed": indexed,
        "annotated": annotated,
        "cases": cases,
        "truth": truth,
        "pushed": pushed,
        "read": read,
        "tasks": tasks,
        "pulled_again": run_pull(config),
        "looked": looked,
        "train": read_snapshot(workspace, snapshot, "train"),
        "test": read_snapshot(workspace, snapshot, "test"),
        "evaluated": [read_evaluation(workspace, str(version), snapshot) for version in versions],
    }


def _watch_twice(config: Config) -> list[registry.Aliases]:
    """What stands after each of two looks of an actor that pulls, trains and evaluates."""
    import ray

    names = ("LABEL_STUDIO_API_KEY", "SONOLOOP_PSEUDONYM_KEY")
    environment = {"env_vars": {name: os.environ[name] for name in names}}
    actor: Any = ray.remote(num_cpus=0, runtime_env=environment)(Watcher).remote(config)
    stood = []
    for _ in range(2):
        ray.get(actor.run.remote(once=True))
        stood.append(registry.read_aliases(config.open_workspace(), config.model.name))
    ray.kill(actor)
    return stood


def _phantoms() -> PhantomConfig:
    kinds = (("thyroid", "A"), ("liver", "B"), ("kidney", "B"))
    groups = tuple(
        PhantomGroup(organ=organ, scanner=scanner, count=NUM_STUDIES // 3) for organ, scanner in kinds
    )
    return PhantomConfig(seed=11, groups=groups, workers=1)


def test_every_object_of_the_archive_is_indexed_or_rejected_with_a_reason(loop: Any) -> None:
    assert loop.indexed.objects == loop.num_objects
    assert loop.indexed.indexed + loop.indexed.rejected == loop.num_objects
    assert sum(loop.indexed.rejected_by_reason.values()) == loop.indexed.rejected
    assert {"empty-object", "not-ultrasound", "not-an-image"} <= loop.indexed.rejected_by_reason.keys()


def test_every_case_has_one_draft_or_one_rejection(loop: Any) -> None:
    rows = read_drafts(loop.workspace, model_version=loop.first)
    assert Counter(row.case_id for row in rows) == Counter(list(loop.cases))
    assert loop.annotated.drafted > 0.9 * len(loop.cases)


def test_a_second_annotate_finds_nothing_to_do(loop: Any) -> None:
    assert run_annotate(loop.config).cases == 0


def test_pushing_twice_makes_one_task_and_one_prediction_per_case(loop: Any) -> None:
    assert loop.pushed[0].new_tasks == loop.annotated.drafted
    assert (loop.pushed[1].new_tasks, loop.pushed[1].new_predictions) == (0, 0)
    assert max(Counter(task.data.case_id for task in loop.tasks).values()) == 1
    assert all(len(task.predictions) == 1 for task in loop.tasks)


def test_each_correction_is_pulled_once_with_the_draft_it_came_from(loop: Any) -> None:
    assert loop.pulled_again.new_reviews == 0
    reviews = read_reviews(loop.workspace)
    assert len({review.case_id for review in reviews}) == len(reviews) == loop.read > 0
    assert {review.model_version for review in reviews} == {loop.first}
    origins = Counter(origin for review in reviews for origin in review.origins.values())
    assert origins["prediction"] > 0
    assert origins["prediction-changed"] > 0


def test_reviews_say_what_the_truth_says_but_for_the_readers_few_errors(loop: Any) -> None:
    reviews = current_reviews(loop.workspace)
    same = sum(reviews[key].parsed_entities() == loop.truth[key].entities for key in reviews)
    assert same >= 0.8 * len(reviews)


def test_the_watcher_trains_and_evaluates_when_reviews_are_in_and_then_never_again(loop: Any) -> None:
    first, second = loop.looked
    assert first.champion == loop.first
    assert first.challenger not in (None, loop.first)
    assert second == first
    assert len([name for name in loop.workspace.folders("runs") if name.startswith("finetune-")]) == 1


def test_the_challenger_learned_from_training_patients_only(loop: Any) -> None:
    train, test = ({row.patient_key for row in rows} for rows in (loop.train, loop.test))
    assert not train & test
    assert len(loop.train) + len(loop.test) == loop.read
    assert {evaluation.scores.num_cases for evaluation in loop.evaluated} == {len(loop.test)}


def test_every_draft_says_how_sure_it_is_of_what_it_chose(loop: Any) -> None:
    drafts = [row for row in read_drafts(loop.workspace) if row.status == "draft"]
    for draft in drafts:
        assert draft.value_probabilities.keys() <= draft.parsed_entities().flat().keys()
        assert "lesion" in draft.value_probabilities
        assert 0 < draft.report_score < 1


def test_calibration_is_measured_and_stored_or_says_why_not(loop: Any) -> None:
    for evaluation in loop.evaluated:
        figures = evaluation.calibration
        stored = read_calibrator(loop.workspace, evaluation.model_version, evaluation.prompt_version)
        assert figures.num_values > 0
        assert (stored is None) == (figures.ece_after is None) == (figures.reason is not None)


def test_promotion_changes_the_champion_and_rollback_undoes_it(loop: Any) -> None:
    with pytest.raises(GateRefusedError, match=r"min_cases asks for 1000.*more are needed"):
        run_promote(
            loop.config.model_copy(update={"gate": loop.config.gate.model_copy(update={"min_cases": 1000})})
        )
    assert registry.resolve(loop.workspace, loop.config.model.name) == loop.first
    run_promote(loop.config)
    assert registry.resolve(loop.workspace, loop.config.model.name) == loop.looked[0].challenger
    run_rollback(loop.config)
    assert registry.resolve(loop.workspace, loop.config.model.name) == loop.first


def test_no_patient_name_or_identifier_lies_anywhere_in_the_workspace(loop: Any) -> None:
    names = _identifiers(store_of(loop.config.archive, loop.config.s3))
    assert names
    for info in loop.workspace.list_objects():
        data = _content(loop.workspace, info.uri)
        found = [name for name in names if name in data]
        assert not found, f"{Path(info.uri).name} holds an identifier"


def _content(workspace: Store, uri: str) -> bytes:
    """An object's bytes; of a table its values, but for the archive paths, which stay in ``instances``."""
    data = workspace.read_path(uri.removeprefix("s3://"))
    if not uri.endswith(".parquet"):
        return data
    table = pq.read_table(pa.BufferReader(data))
    kept = [name for name in table.column_names if name != "uri"]
    return str(table.select(kept).to_pylist()).encode()


def _identifiers(archive: Store) -> set[bytes]:
    import io

    import pydicom

    found: set[bytes] = set()
    for info in archive.list_objects():
        data = archive.read_path(info.uri.removeprefix("s3://"))
        if data[128:132] == b"DICM" and "/real/" not in info.uri and "/broken/" not in info.uri:
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            found |= {
                str(header[name].value).encode()
                for name in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID")
            }
    return found
