"""Published EchoVLM folders: load and save, every key accounted for.

On disk each expert has its own matrices; in memory they are one tensor per layer. ``published_views`` is the
one place that knows both namings: it gives each published key as a view into the model's own tensors, so that
loading copies into the views and saving writes them out, bit for bit. In memory L stands for
``model.language_model.layers.N``, I for the width of an expert.

| on disk | in memory |
|---|---|
| ``visual.*`` | ``model.visual.*`` |
| ``model.layers.N.moe.experts.e.gate_proj.weight`` | ``L.moe.experts.gate_up_proj[e, :I]`` |
| ``model.layers.N.moe.experts.e.up_proj.weight`` | ``L.moe.experts.gate_up_proj[e, I:]`` |
| ``model.layers.N.moe.experts.e.down_proj.weight`` | ``L.moe.experts.down_proj[e]`` |
| ``model.*`` | ``model.language_model.*`` |
| ``lm_head.weight`` | the same; absent when tied to the embedding |
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig
from transformers.initialization import no_init_weights

from sonoloop.model.configuration import (
    CONFIG_FILE,
    EchoVLMConfig,
    has_moe_fields,
    read_config,
    read_published,
    to_published,
)
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.platform.errors import CheckpointError

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
GENERATION_FILE = "generation_config.json"
MAX_SHARD_BYTES = 5_000_000_000  # what transformers writes by default
_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
_NUM_NAMED = 8  # keys an error message spells out


def published_name(name: str) -> str:
    """Name on disk of a tensor in memory, merged experts aside."""
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name.removeprefix("model.") if name.startswith("model.visual.") else name


def _expert_views(name: str, merged: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Split ``(E, 2I, D)`` gate and up, or ``(E, D, I)`` down, into the published matrix of each expert."""
    prefix, kind = name.rsplit(".", 1)
    parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[kind]
    for expert, matrix in enumerate(merged):
        for part, view in zip(parts, matrix.chunk(len(parts), dim=0), strict=True):
            yield f"{prefix}.{expert}.{part}.weight", view


def published_views(state: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """Name a model's tensors as the published checkpoint does.

    Args:
        state: In-memory name -> tensor: a ``state_dict``, also one gathered from a sharded trainer.
        tied: Whether the head is the embedding, and so is not on disk.

    Returns:
        Published name -> view into the tensors of ``state``.
    """
    views: dict[str, Tensor] = {}
    for name, tensor in state.items():
        published = published_name(name)
        if ".moe.experts." in published:
            views.update(_expert_views(published, tensor))
        elif not (tied and published == _HEAD):
            views[published] = tensor
    return views


def _name_some(keys: set[str]) -> str:
    shown = sorted(keys)[:_NUM_NAMED]
    rest = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _keys_in(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except FileNotFoundError as err:
        raise CheckpointError(f"{path} is missing, but the index names it; copy the folder again") from err
    except SafetensorError as err:
        raise CheckpointError(f"{path} is cut short or not safetensors; copy it again") from err


def _read_index(path: Path) -> dict[str, set[str]]:
    """Shard file -> the keys it must hold."""
    shards: dict[str, set[str]] = {}
    try:
        for key, shard in json.loads(path.read_text(encoding="utf-8"))["weight_map"].items():
            shards.setdefault(shard, set()).add(key)
    except (ValueError, KeyError, AttributeError) as err:
        raise CheckpointError(f"{path} has no readable weight_map; copy the folder again") from err
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise CheckpointError(f"{path} points outside its folder: {outside[0]}")
    return shards


def stored_keys(folder: Path) -> dict[Path, set[str]]:
    """List the keys of each weight file, headers only.

    Raises:
        CheckpointError: No safetensors, both layouts at once, or shards that differ from their index.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists() and index.exists():
        raise CheckpointError(f"{folder} holds {WEIGHTS_FILE} and {INDEX_FILE}; delete the stale one")
    if single.exists():
        return {single: _keys_in(single)}
    if not index.exists():
        raise CheckpointError(
            f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; only safetensors are read"
        )
    stored = {}
    for shard, expected in _read_index(index).items():
        stored[folder / shard] = found = _keys_in(folder / shard)
        if found != expected:
            raise CheckpointError(f"{shard} and the index differ in {_name_some(found ^ expected)}")
    return stored


def is_echovlm(folder: Path) -> bool:
    """Whether a folder is EchoVLM rather than the dense Qwen2-VL its ``model_type`` claims.

    Expert fields in the configuration or expert weights are enough; ``load_model`` then says what is missing.

    Raises:
        CheckpointError: ``config.json`` or the weights cannot be read.
    """
    if has_moe_fields(read_published(folder)):
        return True
    return any(".moe.experts." in key for keys in stored_keys(folder).values() for key in keys)


def check_keys(stored: set[str], expected: set[str], *, tied: bool) -> None:
    """Compare published names; a tied checkpoint may repeat the head.

    Raises:
        CheckpointError: Names are missing or unexpected; it tells both.
    """
    optional = {_HEAD} if tied else set()
    differences = {"missing": expected - stored, "unexpected": stored - expected - optional}
    if told := [
        f"{what} weights ({len(keys)}): {_name_some(keys)}" for what, keys in differences.items() if keys
    ]:
        raise CheckpointError("; ".join(told))


def _check_shape(key: str, found: torch.Size, expected: torch.Size) -> None:
    if found != expected:
        raise CheckpointError(f"{key} has shape {tuple(found)}, the configuration says {tuple(expected)}")


def copy_weights(path: Path, keys: set[str], views: Mapping[str, Tensor]) -> None:
    """Copy tensors of one file into views of the same names; dtype and device are the views'.

    Raises:
        CheckpointError: A tensor's shape is not its view's.
    """
    with safe_open(path, framework="pt") as file:
        for key in sorted(keys & views.keys()):
            tensor = file.get_tensor(key)
            _check_shape(key, tensor.shape, views[key].shape)
            views[key].copy_(tensor)


def check_tied_head(stored: Mapping[Path, set[str]]) -> None:
    """A tied checkpoint may repeat the head; if the copy differs, one of the two would be lost.

    Raises:
        CheckpointError: The two differ.
    """
    where = {key: path for path, keys in stored.items() for key in keys & {_HEAD, _EMBEDDING}}
    if _HEAD not in where:
        return
    with (
        safe_open(where[_HEAD], framework="pt") as head,
        safe_open(where[_EMBEDDING], framework="pt") as body,
    ):
        if not torch.equal(head.get_tensor(_HEAD), body.get_tensor(_EMBEDDING)):
            raise CheckpointError(f"{_HEAD} differs from {_EMBEDDING}, but tie_word_embeddings is true")


def _stored_shapes(path: Path, keys: set[str]) -> dict[str, torch.Size]:
    with safe_open(path, framework="pt") as file:
        return {key: torch.Size(file.get_slice(key).get_shape()) for key in keys}


def check_folder(folder: Path) -> EchoVLMConfig:
    """Check, from the headers alone, that another program may load a published EchoVLM folder.

    For engines that read the weights themselves and leave what they do not find as it is.

    Raises:
        CheckpointError: A file, field or weight is missing, unexpected, unreadable or of another shape, or
            the folder holds weight files that its index does not name.
    """
    config = read_config(folder)
    stored = stored_keys(folder)
    if stray := {path.name for path in folder.glob("*.safetensors")} - {path.name for path in stored}:
        raise CheckpointError(f"{folder} holds weight files that belong to nothing: {_name_some(stray)}")
    with no_init_weights(), torch.device("meta"):
        state = EchoVLMForConditionalGeneration(config).state_dict()
    views = published_views(state, tied=config.tie_word_embeddings)
    check_keys(set().union(*stored.values()), set(views), tied=config.tie_word_embeddings)
    for path, keys in stored.items():
        for key, shape in _stored_shapes(path, keys & views.keys()).items():
            _check_shape(key, shape, views[key].shape)
    if config.tie_word_embeddings:
        check_tied_head(stored)
    return config


def fill(
    model: EchoVLMForConditionalGeneration,
    folder: Path,
    stored: Mapping[Path, set[str]],
    *,
    expects: Callable[[str], bool] = lambda _: True,
) -> int:
    """Copy a folder's weights into a model, every key accounted for, and its generation settings.

    Args:
        model: Of the folder's configuration; a tied head must be tied.
        folder: Holds the weights.
        stored: The folder's `stored_keys`, read before the model is made: a broken folder fails early.
        expects: Which published keys the folder has to hold, and may hold; all by default.

    Returns:
        How many weights were copied.

    Raises:
        CheckpointError: A file or weight is missing, unexpected, unreadable or of another shape.
    """
    tied = model.config.tie_word_embeddings
    views = published_views(model.state_dict(), tied=tied)
    views = {key: view for key, view in views.items() if expects(key)}
    check_keys(set().union(*stored.values()), set(views), tied=tied)
    if tied:
        check_tied_head(stored)
    for path, keys in stored.items():
        copy_weights(path, keys, views)
    if (folder / GENERATION_FILE).exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return len(views)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    attn_implementation: str | None = None,
    experts_implementation: str | None = None,
) -> EchoVLMForConditionalGeneration:
    """Load a published EchoVLM folder, in evaluation mode.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` or its shards and index.
        dtype: Of the parameters; None takes the configuration's ``torch_dtype``.
        device: Where the parameters are made; the weights are copied there one by one.
        attn_implementation: ``eager``, ``sdpa``, ``flash_attention_2``; None is transformers' choice (sdpa).
        experts_implementation: ``eager``, ``grouped_mm``, ``batched_mm``; None is transformers' choice.

    Raises:
        CheckpointError: A file, field or weight is missing, unexpected, unreadable or of another shape.
    """
    start = time.monotonic()
    config = read_config(folder)
    stored = stored_keys(folder)
    with no_init_weights(), torch.device(device):
        model: EchoVLMForConditionalGeneration = EchoVLMForConditionalGeneration._from_config(
            config,
            dtype=dtype or config.dtype,
            attn_implementation=attn_implementation,
            experts_implementation={"text_config": experts_implementation},  # the vision tower refuses one
        )
    model.tie_weights()
    num_weights = fill(model, folder, stored)
    logger.info("loaded %d weights in %.1f s", num_weights, time.monotonic() - start)
    return model.eval()  # type: ignore[no-any-return]


def copy_companions(source: Path, target: Path) -> None:
    """Copy what stands beside the weights (tokenizer, image settings, chat template), overwriting nothing."""
    own = {INDEX_FILE, "README.md", "scores.json"}  # these describe the source's weights
    for path in source.iterdir():
        is_ours = path.is_file() and path.suffix not in _WEIGHT_SUFFIXES and path.name not in own
        if is_ours and not (target / path.name).exists():
            shutil.copy2(path, target / path.name)


def _shards(views: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Cut the keys, in order, into runs of at most ``max_bytes``; a larger tensor stands alone."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, view in views.items():
        if shards[-1] and used + view.nbytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += view.nbytes
    return shards


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(views: Mapping[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    shards = _shards(views, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else WEIGHTS_FILE
        # copies, because safetensors refuses tensors that share memory, which views do
        tensors = {key: views[key].detach().to("cpu", copy=True).contiguous() for key in keys}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(keys, name))
    if len(shards) > 1:
        total = sum(view.nbytes for view in views.values())
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def save_state(
    state: Mapping[str, Tensor],
    config: EchoVLMConfig,
    folder: Path,
    *,
    generation_config: GenerationConfig | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a published EchoVLM folder from tensors; ``config.json`` comes last: a cut write does not load.

    Args:
        state: In-memory name -> tensor, complete, all of one dtype, on any device.
        config: The configuration the tensors belong to.
        folder: Made if absent; may hold tokenizer files, but no weights.
        generation_config: Written beside the weights when given.
        max_shard_bytes: Above it the weights are split and indexed.

    Raises:
        CheckpointError: The folder already holds weights, or ``state`` is of another architecture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.safetensors*")):
        raise CheckpointError(f"{folder} already holds weights; save to a new folder")
    with no_init_weights(), torch.device("meta"):
        expected = EchoVLMForConditionalGeneration(config).state_dict()
    tied = config.tie_word_embeddings
    views = published_views(state, tied=tied)
    check_keys(set(views), set(published_views(expected, tied=tied)), tied=tied)
    _write_weights(views, folder, max_shard_bytes)
    if generation_config is not None:
        generation_config.save_pretrained(folder)
    _write_json(folder / CONFIG_FILE, to_published(config, views[_EMBEDDING].dtype))


def save_model(
    model: EchoVLMForConditionalGeneration, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write a model as a published EchoVLM folder: key names, values and configuration as they were read.

    Raises:
        CheckpointError: The folder already holds weights.
    """
    save_state(
        model.state_dict(),
        model.config,
        folder,
        generation_config=model.generation_config,
        max_shard_bytes=max_shard_bytes,
    )
