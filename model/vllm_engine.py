"""Choosing an engine, and the one that generates with vLLM."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeAlias

from sonoloop.model.configuration import read_config
from sonoloop.model.engine import DraftingEngine, TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.vllm_backend import VllmBackend
from sonoloop.model.vllm_core import unsupported
from sonoloop.model.vllm_settings import is_available

logger = logging.getLogger(__name__)


class VllmEngine(DraftingEngine[VllmBackend]):
    """Drafts and chats with vLLM. Weights load once, in the constructor.

    Args:
        folder: A model folder: published weights, tokenizer, preprocessor configuration.
        config: Dtype, limits and language; ``device`` is what vLLM was built for.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
        ConfigError: vLLM is not installed, cannot run this model, or refuses the settings.
    """

    def __init__(self, folder: Path, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        processor = EchoVLMProcessor.from_folder(folder, max_pixels=config.max_pixels)
        super().__init__(VllmBackend(folder, processor, config), processor, config)


LoadedEngine: TypeAlias = TransformersEngine | VllmEngine


def open_engine(folder: Path, config: EngineConfig | None = None) -> LoadedEngine:
    """Load a model folder into the engine that ``config.engine`` names.

    ``auto`` takes vLLM where it is installed and has kernels for the model, else transformers.

    Raises:
        CheckpointError: the folder is incomplete or of another architecture.
        ConfigError: vLLM was named and is not installed, or refuses the settings.
    """
    config = config or EngineConfig()
    if config.engine == "transformers" or (config.engine == "auto" and not is_available()):
        return TransformersEngine(folder, config)
    if config.engine == "auto" and (reason := unsupported(read_config(folder), config)):
        logger.info("transformers drafts, although vLLM is installed: %s", reason)
        return TransformersEngine(folder, config)
    return VllmEngine(folder, config)
