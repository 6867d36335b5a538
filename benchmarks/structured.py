"""Decoding under the lexicon's schema: what the grammar costs, beside the model and beside xgrammar.

1. Grammar engines alone, 16 rows in step, random logits, no model: milliseconds per step of 16 rows, and how
   many of the answers parse and validate. Both get the same schemas. xgrammar is measured where it is
   installed (it comes with vLLM: ``make bench-vllm``).
2. The default engine with a 0.25 B model: share of the time that choosing tokens takes, under the grammar and
   free, at 16 rows. Their difference is the overhead of the grammar.

The vocabulary is as wide as the published model's, 151,936: a byte-level BPE trained on Python's own library.
"""

from __future__ import annotations

import importlib.util
import json
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.workload import build_model, draw_requests
from sonoloop.model.generation import Request, Turn
from sonoloop.model.live import LiveBatch
from sonoloop.model.runner import ModelRunner
from sonoloop.model.scheduler import Limits, Scheduler
from sonoloop.model.structured import Grammars, RowConstraint, RowSpec
from sonoloop.platform.lexicon import ORGANS, parse_generated

WIDTH = 151_936
NUM_ROWS = 16
END = "<|im_end|>"


def wide_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE of about 120,000 tokens, in some 15 s."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sources = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    texts = (p.read_text("utf-8", errors="ignore") for p in sources if "site-packages" not in p.parts)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WIDTH - 8, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"additional_special_tokens": [END]})
    return fast


def specs(num: int) -> list[RowSpec]:
    """Rows over all organs, a hint for most."""
    return [RowSpec((*ORGANS, None)[i % (len(ORGANS) + 1)], 1 + i % 4) for i in range(num)]


def llguidance_walks(tokenizer: PreTrainedTokenizerFast, rows: Sequence[RowSpec]) -> tuple[float, int]:
    """Our constraint: milliseconds per step of all rows, and how many answers are valid."""
    grammar = Grammars(tokenizer, vocab_size=WIDTH, end_id=tokenizer.convert_tokens_to_ids(END))
    for row in rows:
        grammar.matcher(row)  # compiled once per kind of row, then kept
    constraints = [RowConstraint(grammar, row) for row in rows]
    answers = [constraint.take_forced() for constraint in constraints]
    rng, seconds, num_steps = np.random.default_rng(0), 0.0, 0
    while any(not constraint.is_finished() for constraint in constraints) and num_steps < 700:
        logits_RV = rng.normal(size=(len(rows), WIDTH)).astype(np.float32)
        begin = time.perf_counter()
        for constraint, answer, logits_V in zip(constraints, answers, logits_RV, strict=True):
            if not constraint.is_finished():
                allowed = constraint.allowed()
                shares = np.exp(logits_V[allowed] - logits_V[allowed].max())
                chosen = int(allowed[shares.argmax()])
                constraint.choose(chosen, allowed, shares / shares.sum())
                answer += [chosen, *constraint.take_forced()]
        seconds += time.perf_counter() - begin
        num_steps += 1
    return 1000 * seconds / num_steps, sum(map(_valid, [tokenizer.decode(a) for a in answers], rows))


def xgrammar_walks(tokenizer: PreTrainedTokenizerFast, rows: Sequence[RowSpec]) -> tuple[float, int]:
    """xgrammar as its own guide uses it: fill a bitmask, apply it to the logits, take the best token."""
    import xgrammar

    end_id = tokenizer.convert_tokens_to_ids(END)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=WIDTH, stop_token_ids=[end_id])
    compiler = xgrammar.GrammarCompiler(info)
    compiled = {
        row: compiler.compile_json_schema(row.schema(), any_whitespace=False, separators=(",", ":"))
        for row in rows
    }
    matchers = [xgrammar.GrammarMatcher(compiled[row]) for row in rows]
    answers: list[list[int]] = [[] for _ in rows]
    bitmask = xgrammar.allocate_token_bitmask(len(rows), WIDTH)
    rng, seconds, num_steps = np.random.default_rng(0), 0.0, 0
    while any(not matcher.is_terminated() for matcher in matchers) and num_steps < 700:
        logits_RV = torch.from_numpy(rng.normal(size=(len(rows), WIDTH)).astype(np.float32))
        begin = time.perf_counter()
        running = [i for i, matcher in enumerate(matchers) if not matcher.is_terminated()]
        for index in running:
            matchers[index].fill_next_token_bitmask(bitmask, index)
        xgrammar.apply_token_bitmask_inplace(logits_RV, bitmask, indices=running)
        best = logits_RV.argmax(dim=-1).tolist()
        for index in running:
            matchers[index].accept_token(best[index])
            answers[index].append(best[index])
        seconds += time.perf_counter() - begin
        num_steps += 1
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    return 1000 * seconds / num_steps, sum(map(_valid, texts, rows))


def _valid(text: str, row: RowSpec) -> bool:
    try:
        json.loads(text)
        parse_generated(text, num_images=row.num_images)
    except ValueError:
        return False
    return True


def engine_overhead(tokenizer: PreTrainedTokenizerFast) -> dict[str, tuple[float, float, int]]:
    """Kind of turn -> seconds inside the model, seconds outside it, and steps of the model."""
    model = build_model("0.25b", torch.float32, "cpu", vocab=WIDTH)
    runner = ModelRunner(model)
    end_id = tokenizer.convert_tokens_to_ids(END)
    grammar = Grammars(tokenizer, vocab_size=WIDTH, end_id=end_id)
    prompts = [request.prompt for request in draw_requests(NUM_ROWS, 56, WIDTH, seed=0)]
    rows = specs(NUM_ROWS)
    for row in rows:
        grammar.matcher(row)
    turns = {
        "free": [Turn(60)] * NUM_ROWS,
        "under the grammar": [Turn(row.max_tokens(), constraint=row) for row in rows],
    }
    figures = {}
    for kind, wanted in turns.items():
        requests = [Request(prompt, (turn,)) for prompt, turn in zip(prompts, wanted, strict=True)]
        figures[kind] = _inside_and_outside(runner, Scheduler(runner, grammar, (end_id,), _LIMITS), requests)
    return figures


_LIMITS = Limits(max_rows=NUM_ROWS, max_cached_tokens=2**20, max_step_tokens=2048)


def _inside_and_outside(
    runner: ModelRunner, scheduler: Scheduler, requests: Sequence[Request]
) -> tuple[float, float, int]:
    inside: list[float] = []

    def timed(work: Callable[..., object]) -> Callable[..., object]:
        def call(*inputs: object) -> object:
            begin = time.perf_counter()
            result = work(*inputs)
            inside.append(time.perf_counter() - begin)
            return result

        return call

    step, embed = runner.step, runner.embed_prompt
    runner.step, runner.embed_prompt = timed(step), timed(embed)  # type: ignore[method-assign,assignment]
    begin = time.perf_counter()
    with torch.inference_mode():
        for _ in LiveBatch(scheduler).run(requests, streamed=False):
            pass
    whole = time.perf_counter() - begin
    runner.step, runner.embed_prompt = step, embed  # type: ignore[method-assign]
    return sum(inside), whole - sum(inside), len(inside) - len(requests)


def main() -> None:
    """Measure and print."""
    tokenizer = wide_tokenizer()
    rows = specs(NUM_ROWS)
    engines = {"llguidance (ours)": llguidance_walks}
    if importlib.util.find_spec("xgrammar"):
        engines["xgrammar"] = xgrammar_walks
    print(f"grammar engines, {NUM_ROWS} rows, logits {WIDTH:,} wide, {len(tokenizer):,} tokens")
    for name, walks in engines.items():
        runs = [walks(tokenizer, rows) for _ in range(3)]
        times = sorted(ms for ms, _ in runs)
        valid = min(count for _, count in runs)
        print(
            f"{name}: {times[0]:.2f} / {times[1]:.2f} / {times[2]:.2f} ms a step, {valid} of {NUM_ROWS} valid"
        )
    print("default engine, 0.25 B, float32, 16 rows")
    shares = {}
    for kind, (inside, outside, num_steps) in engine_overhead(tokenizer).items():
        shares[kind] = outside / inside
        print(
            f"{kind}: {num_steps} steps, {inside:.1f} s in the model, {outside:.2f} s beside it "
            f"({100 * shares[kind]:.1f} %)"
        )
    overhead = shares["under the grammar"] - shares["free"]
    print(f"overhead of the grammar: {100 * overhead:.1f} % of decode time")


if __name__ == "__main__":
    main()
