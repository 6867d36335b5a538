"""Make ``echovlm-nano`` from nothing: phantoms, tokenizer, warm-up, conversations, model card.

``python -m sonoloop.model.nano.train --output FOLDER`` runs the whole recipe; the same seed on the same
machine gives the same weights. The phantoms are breast and thyroid on one kind of scanner; liver, kidney and
the other kind stay unseen, so that the loop has something to learn.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sonoloop.model.checkpoint import save_model
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.engine import EngineConfig, TransformersEngine
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.nano.card import write_card
from sonoloop.model.nano.data import (
    SEEN_ORGANS,
    SEEN_SCANNER,
    UNSEEN_ORGANS,
    UNSEEN_SCANNER,
    PhantomCase,
    augmented,
    corpus,
    phantom_cases,
)
from sonoloop.model.nano.schedule import adamw, descend, endless_batches, set_lr
from sonoloop.model.nano.scores import NanoScores, StoredScores, evaluate, write_scores
from sonoloop.model.nano.tokenizer import SPECIAL_TOKENS, train_tokenizer
from sonoloop.model.nano.warmup import DirectHeads, FieldIndex, direct_targets, smooth_patch_embedding
from sonoloop.model.processor import EchoVLMProcessor, prepare
from sonoloop.model.supervised import collate, supervised_example
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.scanners import ScannerKind

logger = logging.getLogger(__name__)

MAX_PIXELS = 224 * 168
"""48 image tokens for a 4:3 frame."""
HELD_OUT = 1
"""Added to the seed for the phantoms that score the weights."""


class NanoConfig(BaseModel):
    """The recipe's numbers; the defaults made the weights in this repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(20_251, description="of phantoms, initial weights and order")
    num_cases: int = Field(8000, ge=8, description="training cases drawn")
    num_held_out: int = Field(240, ge=4, description="phantoms per kind that score the weights")
    vocab_size: int = Field(1280, ge=512, description="tokens, a few of them spare")
    warmup_steps: int = Field(900, ge=1, description="optimiser steps with direct heads")
    warmup_batch: int = Field(32, ge=1, description="images per warm-up step")
    steps: int = Field(1800, ge=1, description="optimiser steps on conversations")
    batch: int = Field(16, ge=1, description="cases per step")
    warmup_lr: float = Field(1.5e-3, gt=0, description="peak learning rate, warm-up")
    lr: float = Field(1.5e-3, gt=0, description="peak learning rate, conversations")
    vision_lr_scale: float = Field(0.3, gt=0, le=1, description="the tower's share of lr after warm-up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW, matrices only")
    aux_coef: float = Field(0.01, ge=0, description="weight of the router's load-balancing loss")
    head_coef: float = Field(0.2, ge=0, description="weight of the direct heads beside the conversations")
    num_threads: int = Field(2, ge=1, description="torch threads")


def nano_config(config: NanoConfig) -> EchoVLMConfig:
    """The architecture: 4.7 million parameters, of which 1.3 in the vision tower."""
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return EchoVLMConfig(
        text_config={
            "vocab_size": config.vocab_size,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 96,
            "norm_topk_prob": False,
            "router_aux_loss_coef": config.aux_coef,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 4},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


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
        self._rng = np.random.default_rng(config.seed)

    def warm_up(self) -> None:
        """Stage 1: the vision tower under direct heads, one image of each case at a time."""
        config = self.config
        optimizer = adamw(
            [(self.model.model.visual, config.warmup_lr), (self.heads, config.warmup_lr)], config.weight_decay
        )
        log = _Progress("warm-up", config.warmup_steps)
        batches = endless_batches(len(self.cases), config.warmup_batch, self._rng)
        for step, indices in zip(range(config.warmup_steps), batches, strict=False):
            set_lr(optimizer, step, config.warmup_steps)
            cases = [self._augmented(index).one_image(self._rng) for index in indices]
            prepared = [prepare(self.processor, case.input) for case in cases]
            patches = torch.from_numpy(np.concatenate([case.pixel_values for case in prepared]))
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
        batches = endless_batches(len(self.cases), config.batch, self._rng)
        for step, indices in zip(range(config.steps), batches, strict=False):
            set_lr(optimizer, step, config.steps)
            loss = self._conversation_loss([self._augmented(index) for index in indices])
            descend(optimizer, loss)
            log.note(step, loss)

    def _augmented(self, index: int) -> PhantomCase:
        return augmented(self.cases[index], self._rng)

    def _conversation_loss(self, cases: list[PhantomCase]) -> Tensor:
        examples = [
            supervised_example(self.processor, prepare(self.processor, case.input), case.target)
            for case in cases
        ]
        batch = collate(examples, self.processor.tokenizer.pad_token_id)
        features: list[Tensor] = []
        hook = self.model.model.visual.register_forward_hook(
            lambda _module, _inputs, output: features.append(output.pooler_output)
        )
        output = self.model(**batch, output_router_logits=True)
        hook.remove()
        direct = self._direct_loss(features[0], batch["image_grid_thw"], cases)
        return output.loss_with_aux + self.config.head_coef * direct  # type: ignore[no-any-return]

    def _direct_loss(self, features: Tensor, grids: Tensor, cases: list[PhantomCase]) -> Tensor:
        rows, columns = (grids[0, 1:] // 2).tolist()
        labels = torch.tensor([self.index.labels(c.target.entities) for c in cases for _ in c.input.images])
        boxes = torch.tensor([corners for case in cases for corners in case.corners()])
        x_BMD = features.view(len(labels), rows * columns, -1)
        return self.heads.loss(x_BMD, direct_targets(labels, boxes, rows, columns))


def _widen(module: nn.Module) -> None:
    """Glorot's initial weights: the published 0.02 suits widths of thousands, at 128 it starves the layers."""
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


def make_processor(config: NanoConfig) -> EchoVLMProcessor:
    """Nano's tokenizer, trained here, and its pixel budget."""
    tokenizer = train_tokenizer(corpus(config.seed, 4000), vocab_size=config.vocab_size)
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": MAX_PIXELS})
    return EchoVLMProcessor(image_processor, tokenizer)


def measure(folder: Path, seed: int, num_cases: int) -> StoredScores:
    """Score a folder on held-out phantoms of the seen kind and on the unseen one."""
    engine = TransformersEngine(folder, EngineConfig(device="cpu", dtype="float32", max_report_tokens=192))

    def scores(organs: Sequence[Organ], scanner: ScannerKind) -> NanoScores:
        cases = phantom_cases(seed, num_cases, organs, scanner)
        return evaluate(engine, engine.processor, cases)

    return StoredScores(seen=scores(SEEN_ORGANS, SEEN_SCANNER), unseen=scores(UNSEEN_ORGANS, UNSEEN_SCANNER))


def train(config: NanoConfig, folder: Path) -> StoredScores:
    """The whole recipe; the folder ends with weights, tokenizer, scores and card.

    Args:
        config: The recipe's numbers.
        folder: Must not hold weights.

    Raises:
        CheckpointError: the folder already holds weights.
    """
    start = time.monotonic()
    torch.set_num_threads(config.num_threads)
    processor = make_processor(config)
    cases = phantom_cases(config.seed, config.num_cases, SEEN_ORGANS, SEEN_SCANNER)
    trainer = Trainer(config, processor, cases)
    trainer.warm_up()
    trainer.converse()
    model = trainer.model.to(torch.bfloat16)
    save_model(model, folder)
    processor.save(folder)
    stored = measure(folder, config.seed + HELD_OUT, config.num_held_out)
    write_scores(stored, folder)
    write_card(
        folder,
        stored,
        seed=config.seed,
        num_cases=config.num_cases,
        num_parameters=model.num_parameters(),
        scanner=f"kind {SEEN_SCANNER}",
        minutes=(time.monotonic() - start) / 60,
    )
    return stored


def main() -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(description="train echovlm-nano from scratch")
    parser.add_argument("--output", type=Path, required=True, help="new model folder")
    for name, field in NanoConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=field.description)
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = options.pop("output")
    logger.info("scores: %s", train(NanoConfig(**options), folder).model_dump_json())


if __name__ == "__main__":
    main()
