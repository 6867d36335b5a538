"""Generation: our engine beside the published way and beside plain transformers, same weights, same prompts.

Three sides answer the same requests, greedily, and must write the same tokens in float32:

- ``published``: a left-padded batch through ``generate`` with the published implementation (`published`);
- ``plain``: the same batches through ``generate`` with our model class;
- ``unpacked``: the scheduler of the default engine alone, the same number of rows at a time;
- ``ours``: the default engine, which on CPU also has its weights laid out for the kernels beforehand;
- ``vllm``: the same weights through our vLLM backend, where vLLM is installed (``make bench-vllm``).

Prompts hold 1 to 8 images and 20 to 120 words; answers have 40 to 400 tokens, log-normal around 110, which is
how report lengths spread. No answer ends by itself, so that every side writes exactly as much. The weights
are random: speed does not depend on what they say.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.published import as_published, generate_rows
from benchmarks.workload import IMAGE, PAD, SIZES, build_model, draw_requests
from sonoloop.model.checkpoint import save_model
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Backend, Prompt, Request
from sonoloop.model.live import LiveBatch
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.packed import can_pack, pack_for_inference
from sonoloop.model.patches import Patches
from sonoloop.model.runner import ModelRunner
from sonoloop.model.scheduler import Limits, Scheduler
from sonoloop.platform.errors import RejectedError

SIDES = ("published", "plain", "unpacked", "ours", "vllm")


@dataclass(eq=False)
class Measured:
    """One side over all requests."""

    tokens: list[list[int]]
    seconds: float
    peak_mib: float
    parts: dict[str, float] = field(default_factory=dict)
    num_decode_steps: int = 0


def padded_batches(
    model: EchoVLMForConditionalGeneration, requests: Sequence[Request], batch: int
) -> Iterator[list[list[int]]]:
    """Answers of ``generate`` in the order of the requests; each batch runs to its longest answer."""
    for start in range(0, len(requests), batch):
        group = requests[start : start + batch]
        longest = max(len(r.prompt.token_ids) for r in group)
        ids_BT = torch.full((len(group), longest), PAD)
        mask_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(group):
            ids_BT[row, longest - len(request.prompt.token_ids) :] = torch.tensor(request.prompt.token_ids)
            mask_BT[row, longest - len(request.prompt.token_ids) :] = 1
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "mm_token_type_ids": (ids_BT == IMAGE).long(),
            "pixel_values": Patches.joined([r.prompt.patches for r in group]).normalised(),
            "image_grid_thw": torch.from_numpy(np.concatenate([r.prompt.image_grid_thw for r in group])),
        }
        on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        rows = generate_rows(model, on_device, [r.turns[0].max_new_tokens for r in group])
        yield [row.tolist() for row in rows]


def run_generate(model: EchoVLMForConditionalGeneration, requests: Sequence[Request], batch: int) -> Measured:
    """One of the two baselines; its parts are the vision tower, the first forward, and all later ones."""
    parts = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}
    begun: dict[str, float] = {}

    def enter(_: object, __: object, kwargs: dict[str, Tensor]) -> None:
        begun["decode" if kwargs.get("pixel_values") is None else "prefill"] = _now()

    def leave(*_: object) -> None:
        ((kind, begin),) = begun.items()
        parts[kind] += _now() - begin
        begun.clear()

    def enter_vision(*_: object) -> None:
        parts["vision"] -= _now()

    def leave_vision(*_: object) -> None:
        parts["vision"] += _now()

    hooks = [
        model.register_forward_pre_hook(enter, with_kwargs=True),
        model.register_forward_hook(leave),
        model.model.visual.register_forward_pre_hook(enter_vision),
        model.model.visual.register_forward_hook(leave_vision),
    ]
    try:
        tokens, seconds, peak = _watched(
            lambda: [row for rows in padded_batches(model, requests, batch) for row in rows]
        )
    finally:
        for hook in hooks:
            hook.remove()
    parts["prefill"] -= parts["vision"]
    return Measured(tokens, seconds, peak, parts)


def run_ours(runner: ModelRunner, requests: Sequence[Request], batch: int) -> Measured:
    """Our scheduler; its parts are the prompts' embedding, steps that read prompts, steps that only write."""
    parts, num_decode_steps = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}, 0
    embed, step = runner.embed_prompt, runner.step
    runner._features.clear()  # images of an earlier repeat are not to be had for nothing

    def timed_embed(prompt: Prompt) -> object:
        begin = _now()
        result = embed(prompt)
        parts["vision"] += _now() - begin
        return result

    def timed_step(embeddings: Tensor, positions: Tensor, plan: object, *rest: object) -> Tensor:
        nonlocal num_decode_steps
        num_decode_steps += not plan.runs  # type: ignore[attr-defined]
        begin = _now()
        result = step(embeddings, positions, plan, *rest)  # type: ignore[arg-type]
        parts["prefill" if plan.runs else "decode"] += _now() - begin  # type: ignore[attr-defined]
        return result

    runner.embed_prompt, runner.step = timed_embed, timed_step  # type: ignore[method-assign,assignment]
    scheduler = Scheduler(runner, None, (), Limits(batch, 2**20, 2048))
    try:
        tokens, seconds, peak = _watched(lambda: _answers(scheduler, requests))
    finally:
        runner.embed_prompt, runner.step = embed, step  # type: ignore[method-assign]
    return Measured(tokens, seconds, peak, parts, num_decode_steps)


def run_vllm(backend: Backend, requests: Sequence[Request]) -> Measured:
    """vLLM keeps its own time; only the whole is measured."""

    def work() -> list[list[int]]:
        answers = backend.generate(requests)
        assert not any(isinstance(answer, RejectedError) for answer in answers), "vLLM refused a request"
        return [list(answer[0].token_ids) for answer in answers if not isinstance(answer, RejectedError)]

    tokens, seconds, peak = _watched(work)
    return Measured(tokens, seconds, peak)


def _answers(scheduler: Scheduler, requests: Sequence[Request]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for index, _, outcome in LiveBatch(scheduler).run(requests, streamed=False):
        assert isinstance(outcome, list), "our scheduler failed on a request"
        found[index] = list(outcome[0].token_ids)
    return [found[index] for index in range(len(requests))]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _watched(work: Callable[[], list[list[int]]]) -> tuple[list[list[int]], float, float]:
    """Result, seconds, and how far memory rose above what it was before, MiB."""
    with _peak() as risen, torch.inference_mode():
        begin = _now()
        tokens = work()
        seconds = _now() - begin
    return tokens, seconds, risen()


@contextmanager
def _peak() -> Iterator[Callable[[], float]]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    ctypes.CDLL(None).malloc_trim(0)  # or what an earlier side has freed would hide what this one takes
    process, stop = psutil.Process(), threading.Event()
    before, most = process.memory_info().rss, [0]

    def watch() -> None:
        while not stop.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: (most[0] - before) / 2**20
    finally:
        stop.set()
        watcher.join()


def decode_weights(model: EchoVLMForConditionalGeneration) -> int:
    """Bytes of weights that every decoding step reads: all layers of the decoder, and the head."""
    parameters = [*model.model.language_model.layers.parameters(), model.lm_head.weight]
    return sum(parameter.nbytes for parameter in parameters)


def copied_per_s(device: str) -> float:
    """Bytes that a plain copy of 1 GiB reads and writes in a second; the best of five."""
    source = torch.ones(2**28, device=device)
    target = torch.empty_like(source)

    def copy() -> float:
        begin = _now()
        target.copy_(source)
        return _now() - begin

    return 2 * source.nbytes / min(copy() for _ in range(5))


def compare(args: argparse.Namespace) -> dict[str, list[Measured]]:
    """Every repeat runs every side, on requests of its own."""
    dtype = getattr(torch, args.dtype)
    model = build_model(args.size, dtype, args.device)
    num = sum(p.numel() for p in model.parameters())
    images = f"images of {args.image_px} px"
    print(f"{num / 1e6:.0f} M parameters, {args.dtype}, {args.cases} cases, batch {args.batch}, {images}")
    measured: dict[str, list[Measured]] = {side: [] for side in SIDES if side in args.sides}
    weights, limit = decode_weights(model), copied_per_s(args.device)
    runs_of = sides(model, args)
    for repeat in range(args.repeats):
        vocab, seed = model.config.text_config.vocab_size, args.seed + repeat
        requests = draw_requests(args.cases, args.image_px, vocab, seed)
        for side, runs in measured.items():
            runs.append(run := runs_of[side](requests))
            num_tokens = sum(map(len, run.tokens))
            parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run.parts.items())
            speed = f"{args.cases / run.seconds:5.2f} cases/s, {num_tokens / run.seconds:6.1f} tokens/s"
            memory = f"{run.peak_mib:6.0f} MiB above the weights"
            print(f"seed {seed} {side:9}: {run.seconds:6.1f} s, {speed}, {memory}; {parts}", flush=True)
            if run.num_decode_steps:
                read = weights * run.num_decode_steps / run.parts["decode"]
                share = f"{100 * read / limit:.0f} % of a plain copy's {limit / 1e9:.1f} GB/s"
                print(f"    {run.num_decode_steps} decoding steps, weights at {read / 1e9:.1f} GB/s, {share}")
        if args.dtype == "float32":
            answers = [runs[-1].tokens for runs in measured.values()]
            assert all(answer == answers[0] for answer in answers), "the sides wrote different tokens"
    return measured


def sides(
    model: EchoVLMForConditionalGeneration, args: argparse.Namespace
) -> dict[str, Callable[[Sequence[Request]], Measured]]:
    """What runs each wanted side on some requests. Ours comes last: it changes how the model attends."""
    runs: dict[str, Callable[[Sequence[Request]], Measured]] = {}
    if "published" in args.sides:
        published = as_published(model)
        runs["published"] = lambda requests: run_generate(published, requests, args.batch)
    if "plain" in args.sides:
        plain = as_plain(model)
        runs["plain"] = lambda requests: run_generate(plain, requests, args.batch)
    if "vllm" in args.sides:
        backend = vllm_backend(model, args)
        runs["vllm"] = lambda requests: run_vllm(backend, requests)
    if "unpacked" in args.sides:
        unpacked = ModelRunner(as_plain(model))
        runs["unpacked"] = lambda requests: run_ours(unpacked, requests, args.batch)
    if "ours" in args.sides:
        if can_pack(model.device, model.dtype):
            pack_for_inference(model)
        runner = ModelRunner(model)
        runs["ours"] = lambda requests: run_ours(runner, requests, args.batch)
    return runs


def vllm_backend(model: EchoVLMForConditionalGeneration, args: argparse.Namespace) -> Backend:
    """vLLM on the same weights, through a folder in the published layout."""
    from sonoloop.model.vllm_engine.backend import VllmBackend

    config = EngineConfig(dtype=args.dtype, device=args.device, max_rows=args.batch, kv_cache_gib=2.0)
    with TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        return VllmBackend(Path(folder) / "model", None, config)


def as_plain(model: EchoVLMForConditionalGeneration) -> EchoVLMForConditionalGeneration:
    """A second instance with the same weights: ours changes how its decoder attends."""
    with torch.device(model.device):
        plain = EchoVLMForConditionalGeneration._from_config(
            EchoVLMConfig(**model.config.to_dict()), dtype=model.dtype, attn_implementation="sdpa"
        )
    plain.load_state_dict(model.state_dict())
    return plain.eval()  # type: ignore[no-any-return]


def main(argv: Sequence[str] = ()) -> None:
    """Measure and print one line per side and repeat, then the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="0.25b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image-px", type=int, default=168, help="sides of the square images, pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat's requests; the next adds 1")
    available = SIDES if find_spec("vllm") else SIDES[:-1]
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=available)
    args = parser.parse_args(argv)
    measured = compare(args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{where}, {platform.machine()}, torch {torch.__version__}; throughput ratios")
    for side, baseline in product(("unpacked", "ours", "vllm"), ("published", "plain")):
        if side in measured and baseline in measured:
            pairs = zip(measured[baseline], measured[side], strict=True)
            values = [slow.seconds / fast.seconds for slow, fast in pairs]
            spread = f"min {min(values):.2f}, median {statistics.median(values):.2f}, max {max(values):.2f}"
            print(f"{side} / {baseline}: {spread}")


if __name__ == "__main__":
    main(sys.argv[1:])
