"""The engine that generates with vLLM."""

from __future__ import annotations

from pathlib import Path

from sonoloop.model.engine import DraftingEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.vllm_engine.backend import VllmBackend


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
