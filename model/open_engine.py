"""Choosing the engine that a configuration names.

Here a model's machinery is imported, and not before an engine is opened: it takes seconds and 300 MB of every
process, and most of those that name an engine only hand its work on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.vllm_engine.settings import is_available

if TYPE_CHECKING:
    from sonoloop.model.engine import TransformersEngine
    from sonoloop.model.vllm_engine.engine import VllmEngine

logger = logging.getLogger(__name__)

LoadedEngine: TypeAlias = "TransformersEngine | VllmEngine"


def open_engine(folder: Path, config: EngineConfig | None = None) -> LoadedEngine:
    """Load a model folder into the engine that ``config.engine`` names.

    ``auto`` takes vLLM where it is installed and has kernels for the model, else transformers.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
        ConfigError: vLLM was named and is not installed, or refuses the settings.
    """
    from sonoloop.model.configuration import read_config
    from sonoloop.model.engine import TransformersEngine
    from sonoloop.model.vllm_engine.core import unsupported
    from sonoloop.model.vllm_engine.engine import VllmEngine

    config = config or EngineConfig()
    if config.engine == "transformers" or (config.engine == "auto" and not is_available()):
        return TransformersEngine(folder, config)
    if config.engine == "auto" and (reason := unsupported(read_config(folder), config)):
        logger.info("transformers drafts, although vLLM is installed: %s", reason)
        return TransformersEngine(folder, config)
    return VllmEngine(folder, config)
