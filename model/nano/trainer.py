"""The two stages of nano's training: direct heads over the vision tower, then conversations.

Shape letters: B images or rows, T tokens, M merged patches per image, D model width, V vocabulary,
E box edges, N numbers from 0 to 100.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.nano.data import SEEN_ORGANS, PhantomCase, augmented
from sonoloop.model.nano.recipe import NanoConfig, nano_config
from sonoloop.model.nano.schedule import adamw, descend, endless_batches, set_lr
from sonoloop.model.nano.warmup import DirectHeads, FieldIndex, direct_targets, smooth_patch_embedding
from sonoloop.model.patches import Patches
from sonoloop.model.prepared import prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import collate, supervised_example
from sonoloop.platform.lexicon import BOX_GRID

logger = logging.getLogger(__name__)

EDGE_WIDTH = 2.0
"""Standard deviation of the soft loss on box edges, percent of the image."""


class Trainer:
    """The model under training with its direct heads, and the two stages.

    Args:
        config: The recipe.
        processor: Nano's.
        cases: Training cases at the size the processor gives them.
    """

    def __init__(self, config: NanoConfig, processor: EchoVLMProcessor, cases: Sequence[PhantomCase]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.processor, self.cases = config, processor, cases
        self.model: EchoVLMForConditionalGeneration = EchoVLMForConditionalGeneration._from_config(
            nano_config(config), experts_implementation="eager"
        )
        _widen(self.model.model.visual)
        smooth_patch_embedding(self.model.model.visual.patch_embed.proj)
        self.index = FieldIndex(SEEN_ORGANS)
        width = self.model.config.text_config.hidden_size
        self.heads = DirectHeads(width, self.index.sizes())
        spell = processor.tokenizer.convert_tokens_to_ids
        self._comma = spell(",")
        self._numbers = torch.tensor(spell([str(number) for number in range(BOX_GRID + 1)]))
        self._by_id = self._numbers.argsort()
        alone = not dist.is_initialized()
        self._rank, self._world = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
        self._order = np.random.default_rng(config.seed)  # the same in every process
        self._rng = np.random.default_rng([config.seed, self._rank])

    def warm_up(self) -> None:
        """Stage 1: the vision tower under direct heads, one image of each case at a time."""
        config = self.config
        optimizer = adamw(
            [(self.model.model.visual, config.warmup_lr), (self.heads, config.warmup_lr)], config.weight_decay
        )
        log = _Progress("warm-up", config.warmup_steps)
        batches = endless_batches(len(self.cases), config.warmup_batch, self._order)
        for step, indices in zip(range(config.warmup_steps), batches, strict=False):
            set_lr(optimizer, step, config.warmup_steps)
            cases = [case.one_image(self._rng) for case in self._share(indices)]
            prepared = [prepare(self.processor, case.input) for case in cases]
            patches = Patches.joined([case.patches for case in prepared]).normalised()
            grids = torch.from_numpy(np.concatenate([case.image_grid_thw for case in prepared]))
            features = self.model.model.visual(patches, grid_thw=grids).pooler_output
            loss = self._direct_loss(features, grids, cases)
            descend(optimizer, loss)
            log.note(step, loss)

    def converse(self) -> None:
        """Stage 2: the whole model on conversations, the direct heads beside them at a small weight."""
        config = self.config
        text = nn.ModuleList([self.model.model.language_model])  # the head is tied to its embedding
        tower_lr = config.lr * config.vision_lr_scale
        optimizer = adamw(
            [(text, config.lr), (self.model.model.visual, tower_lr), (self.heads, tower_lr)],
            config.weight_decay,
        )
        log = _Progress("conversations", config.steps)
        batches = endless_batches(len(self.cases), config.batch, self._order)
        for step, indices in zip(range(config.steps), batches, strict=False):
            set_lr(optimizer, step, config.steps)
            loss = self._conversation_loss(self._share(indices))
            descend(optimizer, loss)
            log.note(step, loss)

    def _share(self, indices: list[int]) -> list[PhantomCase]:
        """This process's part of a batch, each case augmented."""
        return [augmented(self.cases[index], self._rng) for index in indices[self._rank :: self._world]]

    def _conversation_loss(self, cases: list[PhantomCase]) -> Tensor:
        examples = [
            supervised_example(self.processor, prepare(self.processor, case.input), case.target)
            for case in cases
        ]
        batch = collate(examples, self.processor.tokenizer.pad_token_id)
        del batch["weights"]  # all 1
        features: list[Tensor] = []
        hook = self.model.model.visual.register_forward_hook(
            lambda _module, _inputs, output: features.append(output.pooler_output)
        )
        output = self.model(**batch, output_router_logits=True)
        hook.remove()
        direct = self._direct_loss(features[0], batch["image_grid_thw"], cases)
        edges = self._edge_loss(output.logits, batch["labels"])
        total: Tensor = output.loss_with_aux + self.config.head_coef * direct + self.config.edge_coef * edges
        return total

    def _edge_loss(self, logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
        """Cross-entropy of box edges against a bell: an edge that is one percent off is nearly right."""
        is_edge_BT = torch.isin(labels_BT[:, 1:], self._numbers) & (labels_BT[:, :-1] == self._comma)
        if not bool(is_edge_BT.any()):
            return torch.zeros(())
        edges_E = torch.searchsorted(self._numbers, labels_BT[:, 1:][is_edge_BT], sorter=self._by_id)
        values_E = self._by_id[edges_E]
        off_EN = torch.arange(len(self._numbers)) - values_E[:, None]
        bell_EN = torch.softmax(-(off_EN.float() ** 2) / (2 * EDGE_WIDTH**2), dim=-1)
        log_probs_EV = logits_BTV[:, :-1][is_edge_BT].log_softmax(dim=-1)
        return -(bell_EN * log_probs_EV[:, self._numbers]).sum(dim=-1).mean()

    def _direct_loss(self, features: Tensor, grids: Tensor, cases: list[PhantomCase]) -> Tensor:
        rows, columns = (grids[0, 1:] // 2).tolist()
        labels = torch.tensor([self.index.labels(c.target.entities) for c in cases for _ in c.input.images])
        boxes = torch.tensor([corners for case in cases for corners in case.corners()])
        x_BMD = features.view(len(labels), rows * columns, -1)
        return self.heads.loss(x_BMD, direct_targets(labels, boxes, rows, columns))


def _widen(module: nn.Module) -> None:
    """Glorot's initial weights: the published 0.02 suits widths of thousands and starves one of 128."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class _Progress:
    """One log line every 50 steps: mean loss since the last, steps per second."""

    def __init__(self, stage: str, num_steps: int) -> None:
        self._stage, self._num_steps = stage, num_steps
        self._losses: list[float] = []
        self._start = time.monotonic()

    def note(self, step: int, loss: Tensor) -> None:
        self._losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == self._num_steps:
            mean = sum(self._losses) / len(self._losses)
            rate = (step + 1) / (time.monotonic() - self._start)
            logger.info(
                "%s %d/%d: loss %.4f, %.2f steps/s", self._stage, step + 1, self._num_steps, mean, rate
            )
            self._losses.clear()
