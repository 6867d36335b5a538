"""Upcycling: a dense Qwen2-VL folder becomes an EchoVLM folder that computes the same, and can learn more.

``python -m sonoloop.model.upcycle DENSE OUT`` writes one. As in Sparse Upcycling (arXiv:2212.05055) experts
start from the dense MLP, but here they stand beside it, so the start has to leave the sum as it was:

- ``coefficient`` is zero, so (c0, c1) = (1/2, 1/2), and the dense ``down_proj`` is doubled. Powers of two are
  exact in every float format: 1/2 * (2 * MLP(x)) is MLP(x) bit for bit.
- Every expert's ``down_proj`` is zero, the shared expert's too, so the sparse branch adds exactly 0.
- An expert's ``gate_proj`` and ``up_proj`` are neurons of the dense MLP, drawn without repetition until all
  are used (``slices``), or noise (``noise``). The router is noise, so tokens spread over the experts at once.

What it costs: the dense branch runs at half weight with doubled weights, so an Adam step of the same size
moves it half as far. What it buys: at the first step ``down_proj`` of the chosen experts and ``coefficient``
have gradients of ordinary size, from the second on everything has. The obvious start, a bias gap in
``coefficient`` so wide that softmax gives exactly (0, 1), is as exact, but then the sparse branch never has a
gradient.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from transformers.initialization import no_init_weights

from sonoloop.model.checkpoint import (
    copy_companions,
    fill,
    is_echovlm,
    save_model,
    stored_keys,
)
from sonoloop.model.configuration import EchoVLMConfig, from_published, read_published
from sonoloop.model.modeling import EchoVLMDecoderLayer, EchoVLMForConditionalGeneration
from sonoloop.platform.errors import CheckpointError

logger = logging.getLogger(__name__)

_NESTED_ONLY = {"text_config", "rope_parameters", "layer_types", "dtype", "transformers_version"}


class UpcycleConfig(BaseModel):
    """The sparse branch to add; the defaults are the published release's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_experts: int = Field(4, ge=1, description="experts per layer")
    num_experts_per_tok: int = Field(2, ge=1, description="experts that one token uses")
    moe_intermediate_size: int = Field(1408, ge=1, description="neurons per expert")
    shared_expert_intermediate_size: int = Field(5632, ge=1, description="neurons of the shared expert")
    norm_topk_prob: bool = Field(False, description="whether the chosen experts' weights sum to 1")
    router_aux_loss_coef: float = Field(0.001, ge=0, description="weight of the load-balancing loss")
    start: Literal["slices", "noise"] = Field("slices", description="where the experts' neurons come from")
    seed: int = Field(0, description="of the draw of neurons and of the noise")

    @model_validator(mode="after")
    def _check_active(self) -> UpcycleConfig:
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok must be in 1..{self.num_experts}, got {self.num_experts_per_tok}"
            )
        return self


def _flat(dense: Mapping[str, Any]) -> dict[str, Any]:
    """The published flat layout of a dense ``config.json``; transformers nests it from 4.52 on."""
    nested = dense.get("text_config")
    if nested is None:
        return dict(dense)
    # one dictionary since transformers 5, rope_scaling beside rope_theta before
    rope = nested.get("rope_parameters") or nested | (nested.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields = {key: value for key, value in {**nested, **dense}.items() if key not in _NESTED_ONLY}
    vision = {key: value for key, value in dense["vision_config"].items() if key not in _NESTED_ONLY}
    return {
        **fields,
        "vision_config": vision | {"model_type": "qwen2_vl"},
        "rope_theta": rope.get("rope_theta"),
        "rope_scaling": {"type": kind, "rope_type": kind, "mrope_section": rope.get("mrope_section")},
        "torch_dtype": dense.get("dtype", dense.get("torch_dtype", "float32")),
    }


def grown_config(dense: Mapping[str, Any], config: UpcycleConfig) -> EchoVLMConfig:
    """The configuration of the folder to come.

    Args:
        dense: A dense Qwen2-VL's parsed ``config.json``.
        config: The branch to add.

    Raises:
        CheckpointError: It is not Qwen2-VL's, or lacks a field.
    """
    if dense.get("model_type") != "qwen2_vl":
        raise CheckpointError(f"only Qwen2-VL can be upcycled, found model_type {dense.get('model_type')!r}")
    published = _flat(dense) | config.model_dump(exclude={"start", "seed"})
    return from_published(
        published | {"architectures": ["Qwen2VLMOEForConditionalGeneration"], "output_router_logits": False}
    )


def _neurons(count: int, widths: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Deal ``count`` neurons to branches of these widths, none twice before all were dealt once."""
    rounds = -(-sum(widths) // count)
    deck = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])
    return list(torch.split(deck[: sum(widths)], list(widths)))


def _noise(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).mul_(std)


def _fill_expert(gate: Tensor, up: Tensor, layer: EchoVLMDecoderLayer, neurons: Tensor) -> None:
    gate.copy_(layer.mlp.gate_proj.weight[neurons])
    up.copy_(layer.mlp.up_proj.weight[neurons])


@torch.no_grad()
def _add_branch(
    layer: EchoVLMDecoderLayer, config: UpcycleConfig, std: float, generator: torch.Generator
) -> None:
    """Give one layer, whose dense weights are in place, its sparse branch at the start described above."""
    moe = layer.moe
    layer.mlp.down_proj.weight.mul_(2)
    for zero in (layer.coefficient.weight, layer.coefficient.bias, moe.shared_expert_gate.weight):
        zero.zero_()
    moe.gate.weight.copy_(_noise(moe.gate.weight, std, generator))
    shared = moe.shared_expert
    branches = [expert.chunk(2) for expert in moe.experts.gate_up_proj]
    branches.append((shared.gate_proj.weight, shared.up_proj.weight))
    deal = _neurons(len(layer.mlp.gate_proj.weight), [len(gate) for gate, _ in branches], generator)
    for (gate, up), neurons in zip(branches, deal, strict=True):
        if config.start == "slices":
            _fill_expert(gate, up, layer, neurons)
        else:
            gate.copy_(_noise(gate, std, generator))
            up.copy_(_noise(up, std, generator))
    moe.experts.down_proj.zero_()
    shared.down_proj.weight.zero_()


def _is_new(key: str) -> bool:
    return ".moe." in key or ".coefficient." in key


def upcycle(dense: Path, out: Path, config: UpcycleConfig | None = None) -> None:
    """Write an EchoVLM folder whose first forward pass equals the dense model's bit for bit.

    The whole new model is in memory once, in the dense folder's dtype.

    Args:
        dense: A Qwen2-VL folder with safetensors, single or sharded; tokenizer files are copied with it.
        out: The folder to write; made if absent, holds no weights yet.
        config: The branch to add; None is the published release's.

    Raises:
        CheckpointError: ``dense`` is EchoVLM already, another architecture or incomplete; or ``out`` holds
            weights.
    """
    config = config or UpcycleConfig()
    if any(out.glob("*.safetensors*")):
        raise CheckpointError(f"{out} already holds weights; upcycle into a new folder")
    if is_echovlm(dense):
        raise CheckpointError(f"{dense} is EchoVLM already; upcycling starts from a dense Qwen2-VL folder")
    grown = grown_config(read_published(dense), config)
    with no_init_weights():
        model = EchoVLMForConditionalGeneration._from_config(grown, dtype=grown.dtype)
    model.tie_weights()
    fill(model, dense, stored_keys(dense), expects=lambda key: not _is_new(key))
    generator = torch.Generator().manual_seed(config.seed)
    for layer in model.model.language_model.layers:
        _add_branch(layer, config, grown.text_config.initializer_range, generator)
    save_model(model, out)
    copy_companions(dense, out)
    logger.info("upcycled %s into %s: %d parameters", dense, out, model.num_parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and upcycle."""
    parser = argparse.ArgumentParser(prog="python -m sonoloop.model.upcycle", description="Dense to EchoVLM.")
    parser.add_argument("dense", type=Path, help="a dense Qwen2-VL folder")
    parser.add_argument("out", type=Path, help="the EchoVLM folder to write")
    for name, field in UpcycleConfig.model_fields.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, default=field.default, help=f"{field.description} (%(default)s)")
    given = vars(parser.parse_args(arguments))
    dense, out = given.pop("dense"), given.pop("out")
    upcycle(dense, out, UpcycleConfig(**given))


if __name__ == "__main__":
    main()
