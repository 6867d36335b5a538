"""What vLLM calls in each of its processes first: the entry point ``vllm.general_plugins``."""

from __future__ import annotations

CONFIG_FORMAT = "echovlm"
"""The ``config_format`` under which vLLM reads a published folder as EchoVLM, not as dense Qwen2-VL."""
ARCHITECTURE = "EchoVLMForConditionalGeneration"


def register() -> None:
    """Make EchoVLM known to transformers' ``AutoModel`` and to vLLM. May run more than once."""
    from transformers import AutoModel
    from vllm import ModelRegistry
    from vllm.transformers_utils.config import register_config_parser

    from sonoloop.model.configuration import EchoVLMConfig
    from sonoloop.model.vllm_engine.registry import PublishedConfigParser, VllmEchoVLMModel

    AutoModel.register(EchoVLMConfig, VllmEchoVLMModel, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        register_config_parser(CONFIG_FORMAT)(PublishedConfigParser)
        # by name: the model's module initialises devices, which has to wait for vLLM
        ModelRegistry.register_model(ARCHITECTURE, f"sonoloop.model.vllm_engine.model:{ARCHITECTURE}")
