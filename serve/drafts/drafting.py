"""The replica's side: cases in, drafts or rejections out, by the engine that also answers questions."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from sonoloop.model.chosen import choose_images
from sonoloop.model.draft import Draft, draft_columns
from sonoloop.model.frames import Rgb, decode_frame
from sonoloop.model.open_engine import LoadedEngine
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.model.prompts import draft_recipe
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.records import DraftRecord, content_id
from sonoloop.platform.workspace import Store
from sonoloop.serve.drafts.case import CaseEvent, DraftCase, DraftedCase, ImageSource

logger = logging.getLogger(__name__)

RUN_ID = "serve"
FETCHED_AT_ONCE = 8


def draft_cases(
    engine: LoadedEngine, workspace: Store, version: str, cases: Sequence[DraftCase]
) -> list[DraftRecord]:
    """A draft or a rejection for each case, in order. Blocks for as long as the model takes.

    Args:
        engine: The loaded model.
        workspace: Where the images lie.
        version: What is loaded, ``<name>/<version>``.
        cases: Cases, drafted together.
    """
    with ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch") as pool:
        prepared = [_prepared(engine, workspace, pool, case) for case in cases]
    alive = [case for case in prepared if isinstance(case, PreparedCase)]
    results = iter(_drafted(engine, alive))
    outcomes = [next(results) if isinstance(case, PreparedCase) else case for case in prepared]
    return [_record(engine, version, case, outcome) for case, outcome in zip(cases, outcomes, strict=True)]


def draft_events(
    engine: LoadedEngine, workspace: Store, version: str, case: DraftCase
) -> Generator[CaseEvent, None, None]:
    """As `draft_cases` for one case: pieces of its report as the model writes them, then what became of it.

    Closing the generator stops the model.
    """
    with ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch") as pool:
        prepared = _prepared(engine, workspace, pool, case)
    outcome: Draft | RejectedError
    usage = engine.backend.new_usage()
    try:
        if isinstance(prepared, RejectedError):
            raise prepared
        outcome = yield from engine.draft_stream(prepared, usage)
    except RejectedError as err:
        outcome = err
    except Exception as err:  # the boundary, as for many cases
        outcome = _failed(err)
    counts = tuple(map(tuple, usage.counts().tolist())) if usage and isinstance(outcome, Draft) else None
    yield DraftedCase(_record(engine, version, case, outcome), counts)


def _drafted(engine: LoadedEngine, cases: list[PreparedCase]) -> list[Draft | RejectedError]:
    try:
        return engine.draft(cases) if cases else []
    except Exception as err:  # the boundary: Ray would log the text, which may quote the prompt
        failure: Draft | RejectedError = _failed(err)
        return [failure] * len(cases)


def _failed(err: Exception) -> RejectedError:
    frames = "".join(traceback.format_tb(err.__traceback__))
    logger.error("drafting failed with %s at\n%s", type(err).__name__, frames)
    return RejectedError(Reason.MODEL_FAILED, type(err).__name__, retryable=True)


def _prepared(
    engine: LoadedEngine, workspace: Store, pool: ThreadPoolExecutor, case: DraftCase
) -> PreparedCase | RejectedError:
    indices = choose_images(len(case.images), engine.config.max_images)
    try:
        files = pool.map(lambda index: _read(workspace, case.images[index]), indices)
        images: tuple[Rgb, ...] = tuple(decode_frame(file) for file in files)
        taken = CaseInput(case.case_id, images, case.organ_hint, image_indices=indices)
        return prepare(engine.processor, taken, max_images=None)  # the choice is made
    except RejectedError as err:
        return err
    except Exception as err:  # the stage's boundary: whatever a picture provokes stays with its case
        logger.warning("a case cannot be prepared (%s)", type(err).__name__)
        return RejectedError(Reason.UNREADABLE, f"the images cannot be prepared ({type(err).__name__})")


def _read(workspace: Store, image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return workspace.read_bytes(image)
    except FileNotFoundError as err:
        raise RejectedError(Reason.IMAGE_MISSING, "a key frame is gone; run `sonoloop index` again") from err
    except StorageError as err:
        raise RejectedError(Reason.STORAGE, "a key frame could not be fetched", retryable=True) from err


def _record(
    engine: LoadedEngine, version: str, case: DraftCase, outcome: Draft | RejectedError
) -> DraftRecord:
    return DraftRecord(
        case_id=case.case_id,
        run_id=RUN_ID,
        model_version=version,
        prompt_version=draft_recipe(engine.config.language).id,
        config_hash=content_id(engine.config.model_dump_json(), length=12),
        **draft_columns(outcome, stage=RUN_ID),
    )
