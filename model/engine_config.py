"""Settings of an engine, apart from it: commands that only read a configuration need not load torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch


class EngineConfig(BaseModel):
    """How a model folder is loaded and how long its answers may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights; auto: bfloat16 on CUDA, float32 on CPU"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="attention"
    )
    max_pixels: int | None = Field(None, ge=56 * 56, description="pixels per image; None: the folder's own")
    max_prompt_tokens: int = Field(8192, ge=64, description="tokens, images included; longer is rejected")
    max_report_tokens: int = Field(512, ge=8, description="new tokens of a report")
    max_entities_tokens: int = Field(512, ge=32, description="new tokens of entities and boxes")

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
