"""What a recipe does to a model: freezes, adapts by LoRA, groups for the optimizer, and merges at the end.

Adapters are peft's, put into the model itself: it keeps its class and its ``forward``, and DeepSpeed sees
nothing but modules and parameters. Between `make_trainable` and `merge` adapted layers have other names in
the ``state_dict``; training checkpoints carry these, published folders never do.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from sonoloop.model.training.recipes import AdapterConfig, Part, RecipeConfig

logger = logging.getLogger(__name__)

ADAPTER_MARK = ".lora_"
ADAPTER_INPUT = f"{ADAPTER_MARK}A."
"""The matrix of an adapter that begins at random; the other one, B, begins as 0."""
# The first mark that a parameter's name holds tells its part; the vision tower has mlp and norms of its own.
_MARKS: tuple[tuple[str, Part], ...] = (
    ("visual.merger.", "merger"),
    ("visual.", "vision"),
    (".moe.gate.", "router"),
    (".moe.experts.", "experts"),
    (".moe.shared_expert", "shared_expert"),  # its gate too
    (".coefficient.", "mix"),
    (".self_attn.", "attention"),
    (".mlp.", "mlp"),
    ("norm.", "norms"),
    ("embed_tokens.", "embedding"),
    ("lm_head.", "embedding"),
)


def part_of(name: str) -> Part:
    """The part that a parameter or module of EchoVLM belongs to.

    Args:
        name: As ``named_parameters`` gives it, under any prefix; a module's name needs its last dot.

    Raises:
        ValueError: It belongs to none.
    """
    for mark, part in _MARKS:
        if mark in name:
            return part
    raise ValueError(f"{name} belongs to no part of EchoVLM")


def make_trainable(model: nn.Module, recipe: RecipeConfig) -> None:
    """Freeze and unfreeze parameters as the recipe says, and put its adapters into the model, in place.

    Args:
        model: EchoVLM without adapters, whole or cut up by ZeRO-3.
        recipe: Which parts learn, and how.
    """
    if recipe.adapter is not None:
        _inject(model, recipe.adapter)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ADAPTER_MARK in name or part_of(name) in recipe.train)
    sizes = {parameter: _shape(parameter).numel() for parameter in model.parameters()}
    trained = sum(size for parameter, size in sizes.items() if parameter.requires_grad)
    logger.info("recipe %s trains %d of %d parameters", recipe.name, trained, sum(sizes.values()))


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter, also where ZeRO-3 has cut it up."""
    found: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return found


def _inject(model: nn.Module, adapter: AdapterConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and of the extra "train"

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if part_of(f"{name}.") in adapter.parts]
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # every rank and every restart begins with the same adapters
        inject_adapter_in_model(config, model)


def parameter_groups(
    model: nn.Module, recipe: RecipeConfig, *, learning_rate: float, weight_decay: float
) -> list[dict[str, object]]:
    """Trainable parameters by learning rate and weight decay, for a torch optimizer.

    Args:
        model: After `make_trainable`.
        recipe: The same.
        learning_rate: Peak rate of the run; parts and adapters get their multiple of it.
        weight_decay: Of matrices; norms and biases, which have one axis, do not decay.

    Returns:
        Groups ``{"params", "lr", "weight_decay"}`` in the order of the model's parameters.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if len(_shape(parameter)) > 1 else 0.0
            key = (learning_rate * _rate_scale(name, recipe), decay)
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def _rate_scale(name: str, recipe: RecipeConfig) -> float:
    if recipe.adapter is not None and ADAPTER_MARK in name:
        return recipe.adapter.rate_scale
    return recipe.rate_scales.get(part_of(name), 1.0)


def merge(model: nn.Module) -> None:
    """Fold the adapters into the weights beneath them and take them away; without adapters nothing happens.

    The model then computes what it did in evaluation mode, up to rounding of the folded weights, and its
    ``state_dict`` has its own names again. Weights change in place, so that it also works where a sharded
    model's parameters are gathered (``deepspeed.zero.GatheredParameters``, ``modifier_rank=0``).
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
