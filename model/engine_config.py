"""Settings of an engine, apart from it: commands that only read a configuration need not load torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch


class EngineConfig(BaseModel):
    """How a model folder is loaded, what it may hold in memory and how long its answers may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="what generates drafts; auto: vLLM where it is installed, else transformers"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights; auto: bfloat16 on CUDA, float32 on CPU"
    )
    language: Literal["en", "zh"] = Field("en", description="of prompts and reports; entities are English")
    max_pixels: int | None = Field(None, ge=56 * 56, description="pixels per image; None: the folder's own")
    max_images: int = Field(
        16, ge=1, description="images of a case that the model sees; of more, evenly spaced ones are chosen"
    )
    max_rows: int = Field(16, ge=1, description="cases that are written at the same time")
    kv_cache_gib: float = Field(
        2.0, gt=0, description="memory for keys and values, GiB; fewer rows run at once where it is short"
    )
    max_step_tokens: int = Field(
        2048, ge=64, description="tokens read in one step; bounds the memory of reading long prompts"
    )
    max_prompt_tokens: int = Field(8192, ge=64, description="tokens, images included; longer is rejected")
    max_report_tokens: int = Field(512, ge=8, description="new tokens of a report")
    max_entities_tokens: int = Field(
        768,
        ge=32,
        description="new tokens of entities and boxes; any tokenizer can finish within the default",
    )

    def resolved_device(self) -> torch.device:
        """The device that ``auto`` means on this machine."""
        import torch

        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(automatic if self.device == "auto" else self.device)

    def resolved_dtype(self) -> torch.dtype:
        """The dtype that ``auto`` means on the resolved device."""
        import torch

        automatic = "bfloat16" if self.resolved_device().type == "cuda" else "float32"
        found: torch.dtype = getattr(torch, automatic if self.dtype == "auto" else self.dtype)
        return found
