"""Training: our steps beside the published way, same weights, same conversations, same trained parameters.

Both sides go once through the same conversations and then take one optimizer step:

- ``published``: batches at random, padded to their longest row; the loss mask found in Python, token by
  token; experts one after the other, vision attention over all images at once (`published`); logits of every
  position over the whole vocabulary, made float32 for the loss, as transformers 4.47 does;
- ``ours``: rows of like length together, as one sequence without padding; the mask that came with the tokens;
  experts grouped; logits of the supervised positions alone, in parts (`sonoloop.model.training`).

The published side has no auxiliary loss, which its release switches off, and its mask covers what ours
covers. Before anything is timed both sides must find the same loss on the same rows.

A conversation holds 1 to 8 images and 20 to 120 words, an answer of 40 to 400 tokens, log-normal around 110,
a second request and an answer of 60: the shape of a draft with its entities. Tokens of conversations are
counted, images included and padding not. The vocabulary is EchoVLM's, of 151,936 words. The weights are
random: speed does not depend on what they say.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published import as_published
from benchmarks.workload import FIRST_WORD, IMAGE, PAD, SIZES, build_model, draw_requests
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.supervised import IGNORED, SupervisedExample, collate
from sonoloop.model.training.batching import plan_batches
from sonoloop.model.training.objective import Objective
from sonoloop.model.training.recipes import recipe
from sonoloop.model.training.schedule import checkpoint_activations
from sonoloop.model.training.trainable import make_trainable, parameter_groups

SIDES = ("published", "ours")
TURN_START, TURN_END = 5, 6  # of an assistant's answer, in the vocabulary of random words
VOCABULARY = 151_936
LIKE = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far the losses of the two sides may be apart, relative."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second of a card, from its maker's data sheet."""


def draw_conversations(num: int, image_px: int, vocab: int, seed: int) -> list[SupervisedExample]:
    """Conversations of mixed length, the first part of each a request of `draw_requests`."""
    rng = np.random.default_rng(seed)
    examples = []
    for request in draw_requests(num, image_px, vocab, seed):
        ids, is_answer = list(request.prompt.token_ids), [False] * len(request.prompt.token_ids)
        for num_answer, num_asked in ((request.turns[0].max_new_tokens, 40), (60, 0)):
            words = rng.integers(FIRST_WORD, vocab, num_answer + num_asked).tolist()
            ids += [TURN_START, *words[:num_answer], TURN_END, *words[num_answer:]]
            is_answer += [False, *[True] * (num_answer + 1), *[False] * num_asked]
        input_ids = torch.tensor(ids)
        examples.append(
            SupervisedExample(
                input_ids=input_ids,
                labels=input_ids.where(torch.tensor(is_answer), IGNORED),
                mm_token_type_ids=(input_ids == IMAGE).long(),
                patches=request.prompt.patches,
                image_grid_thw=torch.from_numpy(request.prompt.image_grid_thw),
            )
        )
    return examples


def masked_in_python(input_ids_BT: Tensor) -> Tensor:
    """Labels as the published training finds them: every token of every row is looked at."""
    labels = []
    for row in input_ids_BT.tolist():
        inside, found = False, []
        for token in row:
            found.append(token if inside else IGNORED)
            inside = token == TURN_START or (inside and token != TURN_END)
        labels.append(found)
    return torch.tensor(labels)


def published_batches(
    examples: Sequence[SupervisedExample], batch: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Rows at random, each batch padded to its longest."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    for start in range(0, len(order), batch):
        inputs = collate([examples[index] for index in order[start : start + batch]], PAD)
        inputs["labels"] = masked_in_python(inputs["input_ids"])
        del inputs["weights"]
        yield inputs


def our_batches(examples: Sequence[SupervisedExample], batch: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Rows of like length."""
    lengths = [len(example.input_ids) for example in examples]
    (plan,) = plan_batches(lengths, batch_size=batch, world=1, seed=seed, epoch=0)
    for rows in plan:
        yield collate([examples[index] for index in rows], PAD)


class Side:
    """A model under one recipe, and how it goes through conversations."""

    def __init__(self, name: str, model: EchoVLMForConditionalGeneration, args: argparse.Namespace) -> None:
        self.name, self.args, self.model = name, args, model
        config = recipe(args.recipe)
        make_trainable(model, config)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config, learning_rate=1e-6, weight_decay=0.01)
        )
        if args.checkpointing:
            checkpoint_activations(model)
        self.objective = Objective(model.train())

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """What is minimised, the published way without the auxiliary loss."""
        inputs = {name: tensor.to(self.args.device) for name, tensor in inputs.items()}
        if self.name == "ours":
            total: Tensor = self.objective(**inputs)["total"]
            return total
        loss: Tensor = self.model(**inputs, output_router_logits=False, use_cache=False).loss
        return loss

    def epoch(self, examples: Sequence[SupervisedExample], seed: int) -> float:
        """Go through the conversations once and take a step; returns seconds."""
        batches = our_batches if self.name == "ours" else published_batches
        begin = _now()
        for inputs in batches(examples, self.args.batch, seed):
            self.loss(inputs).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _now() - begin


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_side(name: str, args: argparse.Namespace) -> Side:
    """One side; the weights are drawn with one seed, so they are the same on both."""
    model = build_model(args.size, getattr(torch, args.dtype), args.device, vocab=args.vocab)
    return Side(name, as_published(model) if name == "published" else model, args)


def check_equal(sides: Sequence[Side], examples: Sequence[SupervisedExample]) -> None:
    """Both sides find the same loss on the same rows."""
    inputs = collate(examples, PAD)
    losses = []
    with torch.no_grad():
        for side in sides:
            if side.name == "ours":
                on_device = {name: tensor.to(side.args.device) for name, tensor in inputs.items()}
                losses.append(side.objective(**on_device)["loss"].item())
            else:
                marked = inputs | {"labels": masked_in_python(inputs["input_ids"])}
                losses.append(side.loss({k: v for k, v in marked.items() if k != "weights"}).item())
    spread = (max(losses) - min(losses)) / min(losses)
    assert spread < LIKE[sides[0].args.dtype], f"the sides find different losses: {losses}"


def used_flops(side: Side, examples: Sequence[SupervisedExample]) -> float:
    """Floating-point operations that an epoch needs: 2 per weight and token forward, twice that backward.

    Experts that a token does not choose, padding, attention scores and the head of positions without loss are
    not counted. All weights learn: the recipe is ``full``.
    """
    tokens = sum(len(example.input_ids) for example in examples)
    patches = sum(len(example.patches) for example in examples)
    supervised = sum(int((example.labels != IGNORED).sum()) for example in examples)
    config, model = side.model.config.text_config, side.model.model
    layers = sum(p.numel() for p in model.language_model.layers.parameters())
    idle = config.num_experts - config.num_experts_per_tok
    layers -= config.num_hidden_layers * idle * 3 * config.hidden_size * config.moe_intermediate_size
    blocks = sum(p.numel() for p in model.visual.blocks.parameters())
    head = config.vocab_size * config.hidden_size
    return 6.0 * (tokens * layers + patches * blocks + supervised * head)


def compare(args: argparse.Namespace) -> dict[str, list[float]]:
    """Every repeat runs both sides on conversations of its own; returns seconds per side."""
    sides = [make_side(name, args) for name in SIDES if name in args.sides]
    learning = sum(p.numel() for p in sides[-1].model.parameters() if p.requires_grad)
    size = sum(p.numel() for p in sides[-1].model.parameters())
    print(f"{size / 1e6:.0f} M parameters, recipe {args.recipe} trains {learning / 1e6:.0f} M, {args.dtype}")
    check_equal(sides, draw_conversations(2, args.image_px, args.vocab, args.seed - 1))
    for side in sides:  # the first steps allocate
        side.epoch(draw_conversations(2, 56, args.vocab, args.seed - 1), args.seed)
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for seed in range(args.seed, args.seed + args.repeats):
        examples = draw_conversations(args.cases, args.image_px, args.vocab, seed)
        num_tokens = sum(len(example.input_ids) for example in examples)
        for side in sides:
            seconds[side.name].append(taken := side.epoch(examples, seed))
            speed = f"{num_tokens / taken:7.1f} tokens/s"
            if args.recipe == "full":
                speed += _utilisation(used_flops(side, examples) / taken)
            print(f"seed {seed} {side.name:9}: {taken:6.1f} s, {speed}", flush=True)
    return seconds


def _utilisation(flops_per_s: float) -> str:
    speed = f", {flops_per_s / 1e12:.3f} TFLOP/s"
    if not torch.cuda.is_available():
        return speed
    known = [peak for card, peak in PEAK_FLOPS.items() if card in torch.cuda.get_device_name()]
    return speed + (f", {100 * flops_per_s / known[0]:.0f} % of the card's peak" if known else "")


def main(argv: Sequence[str] = ()) -> None:
    """Measure and print one line per side and repeat, then the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="0.25b")
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    recipes = ("corrections", "stage1", "stage2", "full")
    parser.add_argument("--recipe", choices=recipes, default="corrections")
    parser.add_argument("--dtype", choices=LIKE, default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", type=int, default=12, help="conversations per repeat")
    parser.add_argument("--batch", type=int, default=6, help="rows per batch; 6 as the published script")
    parser.add_argument("--threads", type=int, default=1, help="1: others may use the cores as well")
    parser.add_argument("--image-px", type=int, default=224, help="sides of the square images, pixels")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations twice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of the first repeat's data; the next adds 1")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    seconds = compare(args)
    where = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else f"{args.threads} threads of {os.cpu_count()}"
    )
    print(f"{where}, {platform.machine()}, torch {torch.__version__}; throughput ratios")
    if len(seconds) == len(SIDES):
        values = [slow / fast for slow, fast in zip(*(seconds[name] for name in SIDES), strict=True)]
        spread = f"min {min(values):.2f}, median {statistics.median(values):.2f}, max {max(values):.2f}"
        print(f"ours / published: {spread}")


if __name__ == "__main__":
    main(sys.argv[1:])
