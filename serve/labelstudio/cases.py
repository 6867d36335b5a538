"""From a task's data to the case that the model drafts; only images of the workspace are ever read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

from sonoloop.platform.errors import Reason
from sonoloop.platform.lexicon import ORGANS, Organ
from sonoloop.serve.drafts.case import DraftCase

Status: TypeAlias = (
    Reason
    | Literal[
        "drafted", "waiting", "asked-before", "no-room", "not-a-case", "foreign-image", "control", "failed"
    ]
)
"""Of a task: its draft is here; it comes later, through the API; an earlier call asked for it and it is under
way; too many wait; it is none of ours; an image lies elsewhere than in the workspace; it is to be read
without a draft; the model was lost, or its draft does not fit the page. Otherwise the reason why the case was
rejected."""

# Whole keys only: an address with "..", a query or a second host has no such form.
_IMAGE_KEY = re.compile(r"images/[0-9a-f]{2}/[0-9a-f]{64}\.png")


class TaskRefusedError(ValueError):
    """A task that is not drafted.

    Args:
        status: Why.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(f"the task is refused: {status}")
        self.status = status


def case_of(data: Mapping[str, Any], workspace_uri: str) -> DraftCase:
    """The case that a task shows.

    Args:
        data: The task's data, as anybody may have written it.
        workspace_uri: Where the images must lie.

    Raises:
        TaskRefusedError: the task is none of ours, or an image lies elsewhere.
    """
    case_id, images, organ = data.get("case_id"), data.get("images"), data.get("organ_hint")
    if not isinstance(case_id, str) or not case_id or not isinstance(images, list) or not images:
        raise TaskRefusedError("not-a-case")
    prefix = f"{workspace_uri.rstrip('/')}/"
    keys = tuple(str(image).removeprefix(prefix) for image in images)
    if not all(
        str(image).startswith(prefix) and _IMAGE_KEY.fullmatch(key)
        for image, key in zip(images, keys, strict=True)
    ):
        raise TaskRefusedError("foreign-image")
    return DraftCase(case_id, cast("Organ", organ) if organ in ORGANS else None, keys)
