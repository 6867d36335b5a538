"""What every stage of a run knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.workspace import Store


@dataclass(frozen=True)
class RunContext:
    """A run of annotate, as it travels to its workers.

    Attributes:
        workspace: Where everything lies.
        run_id: The run.
        model_version: What drafts.
        prompt_version: What it is asked.
        config_hash: Of the settings that shape a draft.
        config: All settings.
        watch: Handle of the actor that the workers report each unit to; None where nobody looks.
        guard: Handle of the actor that knows what each worker has in hand; None where nobody looks.
    """

    workspace: Store
    run_id: str
    model_version: str
    prompt_version: str
    config_hash: str
    config: AnnotateConfig
    watch: Any = None
    guard: Any = None
