"""DeepSpeed as we use it: its settings, the optimizer and the rate of each step.

The rate is a function of the step alone and is set before it, so no scheduler has a state to be kept. At
stage 0 bfloat16 is torch's autocast over float32 weights: DeepSpeed 0.19 gives no access to the float32
weights that it would keep beside bfloat16 ones there, and a checkpoint needs them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from sonoloop.jobs.finetuning.config import FinetuneConfig

GRADIENT_CLIPPING = 1.0


def import_deepspeed() -> Any:
    """DeepSpeed, without the kernel that it would compile before the first process group of a CPU.

    Training does not use it. It takes a minute; and whoever is killed meanwhile leaves a lock that all later
    trainings of the machine wait for without end (DeepSpeed 0.19.8, torch 2.13).
    """
    import deepspeed  # probes the accelerator and prints when imported: in workers only

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def open_engine(
    model: nn.Module, config: FinetuneConfig, groups: list[dict[str, Any]], *, accumulated: int
) -> Any:
    """Wrap a model for training, on every rank.

    Args:
        model: With what is to be trained requiring gradients.
        config: The training's.
        groups: Parameter groups with their ``lr`` (the peak) and ``weight_decay``.
        accumulated: Micro-batches of a step on each rank.

    Returns:
        DeepSpeed's engine; its ``optimizer``'s groups carry ``peak_lr``.
    """
    deepspeed = import_deepspeed()
    groups = [{**group, "peak_lr": group["lr"]} for group in groups]
    # torch's own: DeepSpeed's would be compiled first, on every machine (71 s, 2 cores)
    optimizer = torch.optim.AdamW(groups, fused=True)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings(config, accumulated), dist_init_required=False
    )
    engine.train()
    return engine


def settings(config: FinetuneConfig, accumulated: int) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.use_gpu}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": config.use_gpu}
    chosen = {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": accumulated,
        "gradient_clipping": GRADIENT_CLIPPING,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if config.computes_in_bf16 and config.zero_stage:
        chosen |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return chosen


def computing(config: FinetuneConfig, device: torch.device) -> AbstractContextManager[Any]:
    """What the forward pass runs in."""
    if config.computes_in_bf16 and not config.zero_stage:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def set_rate(engine: Any, factor: float) -> float:
    """Give every group its share of its peak rate; returns the first group's rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]
    return float(engine.optimizer.param_groups[0]["lr"])
