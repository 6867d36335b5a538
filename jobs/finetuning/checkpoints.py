"""Checkpoints that any number of workers and any ZeRO stage can go on from.

DeepSpeed's own are cut for one number of ranks and one stage. Here each trained parameter is gathered, one at
a time, by all ranks together and kept by one of them, in turn: its float32 weights and the optimizer's two
moments, whole. So no rank ever holds more than what it is about to write. What is not trained is not kept.

| file | content |
|---|---|
| ``state-<rank>-<number>.safetensors`` | ``<parameter>|<kind>``: weights, exp_avg, exp_avg_sq |
| ``position.json`` | how many steps were taken |
| ``metrics.jsonl`` | the loss curve until then |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from sonoloop.jobs.finetuning.curve import CURVE_FILE, StepRecord, from_lines, to_lines
from sonoloop.jobs.finetuning.sharding import whole
from sonoloop.jobs.finetuning.task import DivergedError
from sonoloop.model.training.trainable import ADAPTER_INPUT
from sonoloop.platform.errors import CheckpointError

POSITION_FILE = "position.json"
WEIGHTS, MOMENTS = "weights", ("exp_avg", "exp_avg_sq")
SHARD_BYTES = 2**31
"""What a rank gathers before it writes: beside one parameter, all that a checkpoint costs it in memory."""
_FLAT = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
"""Where the optimizers of stage 3, of stages 1 and 2, and of stage 1 in bfloat16 keep what a rank owns."""


class Position(BaseModel):
    """How far a training had come."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_steps: int


@dataclass
class _Writer:
    """Writes this rank's tensors, a file whenever enough are there."""

    folder: Path
    rank: int
    _waiting: dict[str, Tensor] = field(default_factory=dict)
    _num_files: int = 0

    def add(self, name: str, tensor: Tensor) -> None:
        self._waiting[name] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        if sum(waiting.nbytes for waiting in self._waiting.values()) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            save_file(self._waiting, self.folder / f"state-{self.rank:05d}-{self._num_files:05d}.safetensors")
            self._num_files += 1
            self._waiting.clear()


def save(engine: Any, folder: Path, curve: Sequence[StepRecord], *, num_steps: int, last: bool) -> None:
    """Write this rank's share of a checkpoint; every rank calls it.

    Args:
        engine: Of `open_engine`.
        folder: This rank's own, empty.
        curve: One record for each step taken.
        num_steps: So many steps were taken.
        last: Nothing is trained after it, so the moments are left out.

    Raises:
        OSError: no room in ``folder``.
        DivergedError: a weight is no number, on every rank alike: the loss was one, its gradient was not.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    _link_states(engine)
    writer = _Writer(folder, rank)
    try:
        for place, (name, parameter) in enumerate(_trained(engine.module.model)):
            for kind in (WEIGHTS,) if last else (WEIGHTS, *MOMENTS):
                found = _gathered(engine, parameter, kind)
                if kind == WEIGHTS and not found.isfinite().all():
                    raise DivergedError(_diverged(name, num_steps))
                if place % world == rank:
                    writer.add(f"{name}|{kind}", found)
        writer.flush()
    except SafetensorError as err:  # its way to say that a file could not be written
        raise OSError(str(err)) from err
    if rank == 0:
        (folder / CURVE_FILE).write_bytes(to_lines(curve))
        (folder / POSITION_FILE).write_text(Position(num_steps=num_steps).model_dump_json())


def _diverged(name: str, num_steps: int) -> str:
    return (
        f"{name} holds weights that are no numbers after step {num_steps}; lower finetune.learning_rate or "
        "raise finetune.warmup_share, and run the same command again"
    )


def read_position(folder: Path) -> tuple[int, list[StepRecord]]:
    """How many steps a checkpoint's training had taken, and its curve until then."""
    position = Position.model_validate_json((folder / POSITION_FILE).read_bytes())
    return position.num_steps, from_lines((folder / CURVE_FILE).read_bytes())


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path, *, base_share: float = 0) -> None:
    """Put a checkpoint's weights into a model, in its own dtype; of one that is cut up, every rank calls it.

    Args:
        model: The base, made trainable.
        folder: The checkpoint.
        base_share: How much of its own weights the model keeps: W = share * base + (1 - share) * trained.
            Of an adapter, B * A on top of the base, B alone is mixed: it began as 0.

    Raises:
        CheckpointError: the checkpoint holds other parameters than are trained now.
    """
    parameters = dict(_trained(model))
    for name, _, value in _stored(folder, parameters, only=WEIGHTS):
        with whole(parameters[name]) as parameter:
            kept = 0 if ADAPTER_INPUT in name else base_share
            parameter.copy_(value if not kept else torch.lerp(value, parameter.to(value), kept))


@torch.no_grad()
def restore(engine: Any, folder: Path, *, num_steps: int) -> None:
    """Give a new engine the optimizer's state of a checkpoint whose `load_weights` its model has had.

    Raises:
        CheckpointError: the checkpoint holds other parameters than are trained now.
    """
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    _begin_states(engine, inner, num_steps)
    parameters = dict(_trained(engine.module.model))
    for name, kind, value in _stored(folder, parameters):
        _set(engine, inner, parameters[name], kind, value)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _gathered(engine: Any, parameter: nn.Parameter, kind: str) -> Tensor:
    """One parameter's float32 weights or moments, whole, on every rank."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not engine.zero_optimization_stage():
        found = parameter if kind == WEIGHTS else engine.optimizer.state[parameter][kind]
    elif kind == WEIGHTS:
        found = safe_get_full_fp32_param(parameter)
    else:
        found = safe_get_full_optimizer_state(parameter, kind)
    assert isinstance(found, Tensor), "a trained parameter has float32 weights and, after a step, moments"
    return found


def _stored(
    folder: Path, parameters: dict[str, nn.Parameter], *, only: str | None = None
) -> Iterator[tuple[str, str, Tensor]]:
    missing = {(name, kind) for name in parameters for kind in ([only] if only else [WEIGHTS, *MOMENTS])}
    for path in sorted(folder.glob("state-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                name, _, kind = key.rpartition("|")
                if only is None or kind == only:
                    if (name, kind) not in missing:
                        raise _other(folder)
                    missing.discard((name, kind))
                    yield name, kind, file.get_tensor(key)
    if missing:
        raise _other(folder)


def _other(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name} holds other parameters than are trained now; remove the run's folder, and "
        "the same command begins anew"
    )


def _begin_states(engine: Any, inner: Any, num_steps: int) -> None:
    """What the optimizer would have after so many steps, moments still 0: it is made with the first step."""
    flat = next((getattr(engine.optimizer, name) for name in _FLAT if hasattr(engine.optimizer, name)), None)
    for owned in flat or [value for group in inner.param_groups for value in group["params"]]:
        inner.state[owned] = {
            "step": torch.tensor(float(num_steps), device=owned.device),
            **{kind: torch.zeros_like(owned) for kind in MOMENTS},
        }
    _link_states(engine)


def _link_states(engine: Any) -> None:
    """Let the parameters of stages 1 and 2 find their moments.

    DeepSpeed does so once, after the first step of the first group, when other groups have none yet (0.19.8).
    """
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _set(engine: Any, inner: Any, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    stage = engine.zero_optimization_stage()
    if stage == 3:
        mine = _own_part(parameter, value)
        if kind == WEIGHTS:
            safe_set_local_fp32_param(parameter, mine)
        else:
            safe_set_local_optimizer_state(parameter, mine, kind)
    elif not stage:
        if kind != WEIGHTS:
            inner.state[parameter][kind].copy_(value)
    elif kind == WEIGHTS:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)


def _own_part(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This rank's part of a parameter that stage 3 has cut into equal ones, the last padded with zeros.

    DeepSpeed's ``safe_set_full_...`` read beyond the end where a parameter does not divide (0.19.8).
    """
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    begin = size * distributed.get_rank()
    mine = value.flatten()[begin : begin + size]
    return nn.functional.pad(mine, (0, size - len(mine)))
