"""Drafts that came after the answer, brought to Label Studio through its API. Blocks: call it in a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import cast

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig, api_key
from sonoloop.platform.labelstudio.predictions import Prediction, TaskData
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.serve.labelstudio.protocol import SentTask

logger = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_S = 2.0
"""After a first failure; twice as long after each further one."""


def deliver(
    config: LabelStudioConfig, project_id: int, drafted: Sequence[tuple[SentTask, Prediction]]
) -> int:
    """Put predictions under their tasks; one that has a prediction of that version by now is left alone.

    Args:
        config: How to reach Label Studio.
        project_id: The tasks' project.
        drafted: Tasks, each with what was drafted for it.

    Returns:
        How many were new to the server; a task that was deleted meanwhile does not come back.

    Raises:
        ServiceError: the server did not take them in `ATTEMPTS` attempts.
    """
    for attempt in range(ATTEMPTS):
        try:
            with LabelStudioDoor(config, api_key()) as door:
                return _add(door, project_id, drafted)
        except ServiceError as err:
            if attempt + 1 == ATTEMPTS:
                raise
            pause_s = PAUSE_S * 2**attempt
            logger.warning("%s; %d drafts wait %.0f s", err, len(drafted), pause_s)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _add(door: LabelStudioDoor, project_id: int, drafted: Sequence[tuple[SentTask, Prediction]]) -> int:
    case_ids = list(dict.fromkeys(str(task.data["case_id"]) for task, _ in drafted))
    # By the task's id as well: another Label Studio than the configured one may have asked.
    seen = {(task.id, task.data.case_id): task for task in door.tasks_of(project_id, case_ids)}
    missing: dict[str, CaseUpload] = {}
    for sent, prediction in drafted:
        case_id = str(sent.data["case_id"])
        task = seen.get((sent.id, case_id))
        if task is not None and task.prediction(prediction["model_version"]) is None:
            missing[case_id] = CaseUpload(cast("TaskData", sent.data), prediction)
    return upload(door, project_id, list(missing.values())).num_new_predictions
