"""The drafting pipeline on Ray Data: cases in, exactly one draft or rejection per case out.

read cases -> fetch and prepare images (CPU tasks) -> model actors -> Parquet, with Ray Data's two-phase
checkpoint. Pixels live between the two middle stages only. Annotate and evaluate share it.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from sonoloop.jobs.config import AnnotateConfig
from sonoloop.jobs.runs import Run
from sonoloop.model.chosen import choose_images
from sonoloop.model.engine import Draft
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.frames import Rgb, decode_frame
from sonoloop.model.open_engine import open_engine
from sonoloop.model.processor import CaseInput, EchoVLMProcessor, PreparedCase, prepare
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, Reason, RejectedError, StorageError
from sonoloop.platform.lexicon import entities_json
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

SPARE_CPUS = 2
"""Reading and the checkpoint's filter hold a logical CPU each beside the actors (measured, Ray 2.60)."""

_PREPARED = pa.schema([("case_id", pa.string()), ("prepared", pa.binary()), ("rejection", pa.binary())])


def write_drafts(
    workspace: Store,
    run: Run,
    *,
    model_version: str,
    prompt_version: str,
    config: AnnotateConfig,
    counter: Any,
) -> None:
    """Draft the cases of ``runs/<run_id>/input.parquet`` into ``drafts/<run_id>/``.

    Killed at any moment and called again, it does what is missing and nothing twice.
    """
    check_schedulable(config)
    stamp = {
        "run_id": run.run_id,
        "model_version": model_version,
        "prompt_version": prompt_version,
        "config_hash": run.key,
    }
    with _checkpointed(workspace, run.run_id):
        cases = ray.data.read_parquet(workspace.path("runs", run.run_id, "input"), filesystem=workspace.fs)
        blocks = cases.repartition(target_num_rows_per_block=config.cases_per_block)
        prepared = blocks.map_batches(
            Preparer,
            fn_constructor_args=(workspace, model_version, config.engine),
            compute=ActorPoolStrategy(size=1),
            batch_size=config.batch_size,
            num_cpus=0.5,
        )
        drafts = prepared.map_batches(
            Drafter,
            fn_constructor_args=(workspace, model_version, config, stamp, counter),
            compute=ActorPoolStrategy(size=config.num_actors),
            batch_size=config.batch_size,
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
        )
        drafts.write_parquet(workspace.path("drafts", run.run_id), filesystem=workspace.fs)


def check_schedulable(config: AnnotateConfig) -> None:
    """Refuse a pool that would wait for CPUs for ever.

    Raises:
        ConfigError: the cluster has too few logical CPUs or GPUs for the actors.
    """
    cluster = ray.cluster_resources()
    wanted = config.num_actors * config.cpus_per_actor + SPARE_CPUS
    if cluster.get("CPU", 0) < wanted:
        raise ConfigError(
            f"annotate needs {wanted:g} logical CPUs, the cluster has {cluster.get('CPU', 0):g}; "
            "lower annotate.num_actors or annotate.cpus_per_actor, or add nodes"
        )
    if cluster.get("GPU", 0) < config.num_actors * config.gpus_per_actor:
        raise ConfigError("annotate asks for more GPUs than the cluster has; lower annotate.num_actors")


@contextmanager
def _checkpointed(workspace: Store, run_id: str) -> Iterator[None]:
    """Ray Data's checkpoint for the length of one pipeline; small blocks make a fine grain."""
    context = DataContext.get_current()
    before = (context.checkpoint_config, context.use_datasource_v2)
    context.use_datasource_v2 = False  # the V2 reader merges small files into one block: one grain for all
    context.checkpoint_config = CheckpointConfig(
        id_column="case_id",
        checkpoint_path=workspace.path("runs", run_id, "checkpoint"),
        override_filesystem=workspace.fs,
        delete_checkpoint_on_success=False,
    )
    try:
        yield
    finally:
        context.checkpoint_config, context.use_datasource_v2 = before


class Preparer:
    """CPU stage: fetch a case's images and cut them into patches; a bad case becomes a rejection."""

    def __init__(self, workspace: Store, model_version: str, config: EngineConfig) -> None:
        self._workspace = workspace
        self._max_images = config.max_images
        folder = registry.fetch(workspace, model_version)
        self._processor = EchoVLMProcessor.from_folder(folder, max_pixels=config.max_pixels)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        """Cases in, one row of `PreparedCase` or rejection out per case."""
        names = CaseRecord.ARROW.names
        rows = (dict(zip(names, row, strict=True)) for row in zip(*(batch[n] for n in names), strict=True))
        return pa.Table.from_pylist([self._row(row) for row in rows], schema=_PREPARED)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"case_id": row["case_id"], "prepared": pickle.dumps(self._prepared(row))}
        except RejectedError as err:
            rejected = err
        except Exception as err:  # the stage's boundary: whatever a picture provokes stays with its case
            logger.warning("a case cannot be prepared (%s)", type(err).__name__)
            detail = f"the images cannot be prepared ({type(err).__name__})"
            rejected = RejectedError(Reason.UNREADABLE, detail, retryable=isinstance(err, MemoryError))
        return {
            "case_id": row["case_id"],
            "rejection": pickle.dumps((rejected.reason, rejected.detail, rejected.retryable)),
        }

    def _prepared(self, row: dict[str, Any]) -> PreparedCase:
        chosen = choose_images(len(row["images"]), self._max_images)  # before they are fetched
        images = tuple(self._load(row["images"][index]["image_key"]) for index in chosen)
        case = CaseInput(row["case_id"], images, row["organ_hint"], image_indices=chosen)
        return prepare(self._processor, case, max_images=None)

    def _load(self, image_key: str) -> Rgb:
        try:
            return decode_frame(self._workspace.read_bytes(image_key))
        except FileNotFoundError as err:
            raise RejectedError(
                Reason.IMAGE_MISSING, "a key frame is gone; run `sonoloop index` again"
            ) from err
        except StorageError as err:
            raise RejectedError(Reason.STORAGE, "a key frame could not be fetched", retryable=True) from err


class Drafter:
    """Model stage: weights load once per actor; every case in leaves as a draft or a rejection."""

    def __init__(
        self,
        workspace: Store,
        model_version: str,
        config: AnnotateConfig,
        stamp: dict[str, str],
        counter: Any,
    ) -> None:
        self._engine = open_engine(registry.fetch(workspace, model_version), config.engine)
        self._stamp = stamp
        self._counter = counter

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        """Prepared cases in, one `DraftRecord` row per case out."""
        rows: dict[str, DraftRecord] = {}
        prepared: list[PreparedCase] = []
        columns = (batch["case_id"], batch["prepared"], batch["rejection"])
        for case_id, case, rejection in zip(*columns, strict=True):
            if rejection is None:
                prepared.append(pickle.loads(case))
            else:
                reason, detail, retryable = pickle.loads(rejection)
                rejected = RejectedError(reason, detail, retryable=retryable)
                rows[case_id] = self._rejection(case_id, rejected, "prepare")
        for done, result in zip(prepared, self._engine.draft(prepared), strict=True):
            if isinstance(result, RejectedError):
                rows[done.case_id] = self._rejection(done.case_id, result, "draft")
            else:
                rows[done.case_id] = self._draft(done.case_id, result)
        self._counter.add.remote(len(rows), sum(row.status == "rejected" for row in rows.values()))
        return DraftRecord.table([rows[case_id] for case_id in batch["case_id"]])

    def _rejection(self, case_id: str, error: RejectedError, stage: str) -> DraftRecord:
        return DraftRecord(
            case_id=case_id,
            status="rejected",
            stage=stage,
            reason=error.reason,
            detail=error.detail,
            retryable=error.retryable,
            **self._stamp,
        )

    def _draft(self, case_id: str, result: Draft) -> DraftRecord:
        return DraftRecord(
            case_id=case_id,
            status="draft",
            findings=result.findings,
            impression=result.impression,
            entities=entities_json(result.entities),
            boxes=tuple(result.boxes),
            confidence=result.confidence,
            value_probabilities=dict(result.value_probabilities),
            report_score=result.report_score,
            num_tokens=result.num_tokens,
            **self._stamp,
        )
