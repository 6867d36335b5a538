"""A published folder loaded part by part, for whoever cannot or should not hold all of it at once.

Parts are the modules that have parameters of their own, a linear layer or the experts of a layer, say. Each
is made, filled and handed over before the next: a trainer may cut it up among ranks and keep its share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers.initialization import no_init_weights

from sonoloop.model.checkpoint import (
    check_keys,
    check_tied_head,
    copy_weights,
    published_views,
    stored_keys,
)
from sonoloop.model.configuration import read_config
from sonoloop.model.modeling import EchoVLMForConditionalGeneration


def load_by_parts(
    folder: Path, take: Callable[[nn.Module], None], *, dtype: torch.dtype | None = None
) -> EchoVLMForConditionalGeneration:
    """As `checkpoint.load_model` on the CPU, one part after the other.

    Args:
        folder: Holds ``config.json`` and the weights.
        take: Called with each part once it is filled; may take its parameters' memory away. A head that is
            tied to the embedding is no part.
        dtype: Of the parameters; None takes the configuration's.

    Raises:
        CheckpointError: A file, field or weight is missing, unexpected, unreadable or of another shape.
    """
    from accelerate import init_empty_weights  # of the extra "train", as what this is for

    config, stored = read_config(folder), stored_keys(folder)
    with no_init_weights(), init_empty_weights():  # parameters without memory; buffers are computed
        model: EchoVLMForConditionalGeneration = EchoVLMForConditionalGeneration._from_config(
            config, dtype=dtype or config.dtype
        )
    tied = config.tie_word_embeddings
    check_keys(set().union(*stored.values()), set(published_views(model.state_dict(), tied=tied)), tied=tied)
    if tied:
        check_tied_head(stored)
    for name, part in model.named_modules():
        own = dict(part.named_parameters(recurse=False))
        if own and not (tied and part is model.lm_head):
            for key, parameter in own.items():
                setattr(part, key, nn.Parameter(torch.empty_like(parameter, device="cpu")))
            views = published_views({f"{name}.{key}": getattr(part, key).data for key in own}, tied=tied)
            for path, keys in stored.items():
                copy_weights(path, keys, views)
            take(part)
    model.tie_weights()
    return model
