"""What vLLM builds EchoVLM from: the configuration of a published folder, and classes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.transformers_utils.config_parser_base import ConfigParserBase

from sonoloop.model.configuration import EchoVLMConfig, read_config, read_published
from sonoloop.model.modeling import EchoVLMModel, EchoVLMTextModel
from sonoloop.model.vllm_engine.plugin import ARCHITECTURE


class PublishedConfigParser(ConfigParserBase):  # type: ignore[misc]  # no vLLM where types are checked
    """The ``config_format`` ``echovlm``; read as ``qwen2_vl``, as files say, it loses its experts."""

    def parse(self, model: str | Path, **_kwargs: Any) -> tuple[dict[str, Any], EchoVLMConfig]:
        """Read ``config.json``.

        Raises:
            CheckpointError: the folder is not EchoVLM's.
        """
        config = read_config(Path(model))
        config.architectures = [ARCHITECTURE]
        return read_published(Path(model)), config


# vLLM decorates the decoder's class in place, after which it builds nothing outside vLLM: give it a subclass.


class VllmTextModel(EchoVLMTextModel):
    """The decoder that vLLM may change."""


class VllmEchoVLMModel(EchoVLMModel):
    """`EchoVLMModel` around that decoder."""

    _decoder_class = VllmTextModel
