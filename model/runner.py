"""One loaded model, run step by step: prompts become embeddings, steps become logits.

Shape letters: T tokens of a prompt, D model width, N tokens of a step, R rows whose next token is wanted,
V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sonoloop.model.generation import Prompt
from sonoloop.model.kv_arena import KVArena, StepPlan, use_arena_attention
from sonoloop.model.modeling import EchoVLMForConditionalGeneration, RouterSink
from sonoloop.model.patches import Grids, Patches

_NUM_CACHED_IMAGES = 64


@dataclass(frozen=True, eq=False, slots=True)
class EmbeddedPrompt:
    """A prompt as the decoder reads it.

    Attributes:
        embeddings_TD: Token embeddings, image features in place, in the model's dtype.
        positions_3T: M-RoPE positions over time, height and width, int64.
        next_position: Position of the first token after the prompt.
        num_shared: Leading tokens before the first image: the part that other prompts may share.
    """

    embeddings_TD: Tensor
    positions_3T: Tensor
    next_position: int
    num_shared: int


class ModelRunner:
    """Runs a model over an arena. The model's decoder attends through the arena from then on.

    Args:
        model: In evaluation mode.
        max_patches: Image patches that go through the vision tower at once.
    """

    def __init__(self, model: EchoVLMForConditionalGeneration, *, max_patches: int = 16_384) -> None:
        self.model = model
        self.arena = KVArena(model.config.text_config, dtype=model.dtype, device=model.device)
        self._max_patches = max_patches
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        use_arena_attention(model.model.language_model.config)

    @property
    def context_tokens(self) -> int:
        """Tokens of a conversation that the model has positions for."""
        return int(self.model.config.text_config.max_position_embeddings)

    def embed_prompt(self, prompt: Prompt) -> EmbeddedPrompt:
        """Look up tokens, put the images' features in place, and number the positions."""
        config, device = self.model.config, self.model.device
        ids_1T = torch.tensor([prompt.token_ids], device=device)
        types_1T = (ids_1T == config.image_token_id).long()
        grids = torch.from_numpy(np.asarray(prompt.image_grid_thw, dtype=np.int64))
        positions, delta = self.model.model.get_rope_index(ids_1T, types_1T, image_grid_thw=grids)
        embeddings_TD = self.embed_tokens(ids_1T[0])
        if len(grids):
            embeddings_TD[types_1T[0].bool()] = self._image_features(prompt)
        first_image = int(types_1T[0].argmax()) if len(grids) else ids_1T.shape[1] - 1
        return EmbeddedPrompt(
            embeddings_TD=embeddings_TD,
            positions_3T=positions[:, 0],
            next_position=ids_1T.shape[1] + int(delta),
            num_shared=first_image,
        )

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of token ids ``(N,)``."""
        embeddings: Tensor = self.model.get_input_embeddings()(token_ids)
        return embeddings

    def step(
        self,
        embeddings_ND: Tensor,
        positions_3N: Tensor,
        plan: StepPlan,
        last_R: Tensor,
        router_sink: RouterSink | None = None,
    ) -> Tensor:
        """Feed N tokens and read the logits of R of them.

        Args:
            embeddings_ND: Of the tokens that the step feeds.
            positions_3N: Their M-RoPE positions, int64.
            plan: Where they belong in the arena.
            last_R: Indices of the tokens whose successor is wanted, int64; may be empty.
            router_sink: Where to leave the router logits ``(N, E)`` of each layer; None leaves none.

        Returns:
            ``(R, V)`` float32.
        """
        self.arena.plan = plan
        hidden_ND = self.model.model.language_model(
            inputs_embeds=embeddings_ND[None],
            position_ids=positions_3N[:, None],
            past_key_values=self.arena,
            attention_mask={"full_attention": plan},
            use_cache=False,
            router_sink=router_sink,
        ).last_hidden_state[0]
        logits_RV: Tensor = self.model.lm_head(hidden_ND[last_R])
        return logits_RV.float()

    def _image_features(self, prompt: Prompt) -> Tensor:
        """Features of a prompt's images in order, ``(image tokens, D)``; each distinct image once."""
        counts = np.asarray(prompt.image_grid_thw).prod(axis=1)
        patches = prompt.patches.split(prompt.image_grid_thw)
        keys = [_image_key(p, grid) for p, grid in zip(patches, prompt.image_grid_thw, strict=True)]
        found = {key: self._features[key] for key in keys if key in self._features}
        missing = {key: index for index, key in enumerate(keys) if key not in found}
        for group in _groups(list(missing.items()), counts, self._max_patches):
            indices = [index for _, index in group]
            computed = self._encode(
                Patches.joined([patches[i] for i in indices]), prompt.image_grid_thw[indices]
            )
            found |= dict(zip((key for key, _ in group), computed, strict=True))
        self._remember(found)
        return torch.cat([found[key] for key in keys])

    def _encode(self, patches: Patches, grids: Grids) -> Sequence[Tensor]:
        device = self.model.device
        features = self.model.model.get_image_features(
            patches.normalised(device), torch.from_numpy(grids).to(device)
        )
        pooled: Sequence[Tensor] = features.pooler_output
        return pooled

    def _remember(self, found: dict[bytes, Tensor]) -> None:
        for key, features in found.items():
            self._features[key] = features
            self._features.move_to_end(key)
        while len(self._features) > _NUM_CACHED_IMAGES:
            self._features.popitem(last=False)


def _image_key(patches: Patches, grid: Grids) -> bytes:
    digest = hashlib.blake2b(np.ascontiguousarray(patches.values).data, digest_size=16)
    digest.update(b"" if patches.levels is None else patches.levels.data)
    digest.update(np.asarray(grid, dtype=np.int64).tobytes())
    return digest.digest()


def _groups(items: list[tuple[bytes, int]], counts: Grids, most: int) -> list[list[tuple[bytes, int]]]:
    """Cut images, in order, into groups of at most ``most`` patches; a larger one stands alone."""
    groups: list[list[tuple[bytes, int]]] = []
    used = 0
    for item in items:
        size = int(counts[item[1]])
        if not groups or used + size > most:
            groups.append([])
            used = 0
        groups[-1].append(item)
        used += size
    return groups
