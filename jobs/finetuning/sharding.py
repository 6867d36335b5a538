"""A base for ZeRO-3: each rank keeps its share of every parameter from the beginning.

DeepSpeed would cut up a model that every rank holds whole. Here a rank never holds more than its share and
one part, a layer's experts say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from sonoloop.jobs.finetuning.engine import import_deepspeed
from sonoloop.model.loading import load_by_parts
from sonoloop.model.modeling import EchoVLMForConditionalGeneration


def load_sharded(
    folder: Path, settings: dict[str, Any], *, dtype: torch.dtype
) -> EchoVLMForConditionalGeneration:
    """Load a base, cut up among all ranks; every rank calls it.

    Args:
        folder: The base, on this rank's disk.
        settings: DeepSpeed's, of stage 3.
        dtype: Of the parameters.

    Raises:
        CheckpointError: as of `load_by_parts`.
    """
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    deepspeed = import_deepspeed()
    deepspeed.init_distributed(distributed.get_backend(), dist_init_required=False)
    first: list[nn.Parameter] = []

    def cut(part: nn.Module) -> None:
        own = list(part.parameters(recurse=False))
        if first:
            first[0].convert_to_zero_parameters(param_list=own)  # type: ignore[attr-defined]
        else:
            deepspeed.zero.Init(module=part, config_dict_or_path=settings, dtype=dtype)
            first.append(next(parameter for parameter in own if is_zero_param(parameter)))

    return load_by_parts(folder, cut, dtype=dtype)


@contextmanager
def whole(parameter: nn.Parameter) -> Iterator[Tensor]:
    """A parameter to be written to by every rank alike, whether it is cut up or not."""
    if not hasattr(parameter, "ds_id"):
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield parameter
