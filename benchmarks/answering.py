"""Answering: concurrent questions to one engine of the built-in model, in one live batch and one at a time.

``--clients`` threads ask in turn, each its own questions (an image and a sentence, drawn answers of mixed
length). Both sides answer the same questions and must write the same; rates are tokens of answers per second,
waits are those for the first piece. At last one question is asked while a long batch of drafts is running.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from PIL import Image

from sonoloop.model import nano
from sonoloop.model.chat import ChatMessage, ChatOptions
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.prepared import CaseInput, prepare

Answer = tuple[str, int, float]
"""Text, tokens, and seconds until the first piece."""


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (168, 168), dtype=np.uint8))


def ask(engine: TransformersEngine, seed: int, turn: AbstractContextManager[object]) -> Answer:
    """One question from beginning to end.

    Args:
        engine: Whom to ask.
        seed: Of image and answer.
        turn: Held while the answer is written.
    """
    question: ChatMessage = {
        "role": "user",
        "content": [{"type": "image", "image": _image(seed)}, {"type": "text", "text": "Write the report."}],
    }
    begin, first = time.perf_counter(), 0.0
    with turn:
        stream = engine.chat_stream([question], ChatOptions(max_new_tokens=160, temperature=0.7, seed=seed))
        while True:
            try:
                next(stream)
                first = first or time.perf_counter() - begin
            except StopIteration as stop:
                return stop.value.text, stop.value.completion_tokens, first


def measure(engine: TransformersEngine, clients: int, questions: int, *, together: bool) -> list[Answer]:
    """All answers, in the order of their seeds; prints rate and waits."""
    turn: AbstractContextManager[object] = nullcontext() if together else threading.Lock()
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda seed: ask(engine, seed, turn), range(questions)))
    seconds = time.perf_counter() - begin
    waits = [wait for _, _, wait in answers]
    name = "live batch" if together else "one at a time"
    print(
        f"{clients:3} clients, {name:13}: {sum(count for _, count, _ in answers) / seconds:7.1f} tokens/s, "
        f"first piece {statistics.median(waits):.3f} s (median), {max(waits):.3f} s (longest)",
        flush=True,
    )
    engine.backend._runner._features.clear()  # images of one side are not to be had for nothing
    return answers


def first_piece_beside_drafts(engine: TransformersEngine, num_drafts: int) -> float:
    """Seconds until a question's first piece while as many drafts are asked for by one call."""
    images = [np.asarray(_image(1000 + at)) for at in range(num_drafts)]
    cases = [prepare(engine.processor, CaseInput(str(at), (image,))) for at, image in enumerate(images)]
    drafting = threading.Thread(target=engine.draft, args=(cases,))
    drafting.start()
    while engine.load()[0] < engine.config.max_rows:
        time.sleep(0.01)
    wait = ask(engine, 0, nullcontext())[2]
    assert engine.load()[1], "the drafts were done before the question was answered: ask for more"
    drafting.join()
    return wait


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--questions", type=int, default=48, help="of all clients together")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    engine = TransformersEngine(nano.folder(), EngineConfig(device="cpu", dtype="float32"))
    measure(engine, 1, 2, together=True)  # warms up
    for clients in options.clients:
        ratios = []
        for _ in range(options.repeats):
            seconds = []
            texts = []
            for together in (False, True):
                begin = time.perf_counter()
                texts.append(
                    [text for text, _, _ in measure(engine, clients, options.questions, together=together)]
                )
                seconds.append(time.perf_counter() - begin)
            assert texts[0] == texts[1], "the answers depend on their company"
            ratios.append(seconds[0] / seconds[1])
        print(
            f"{clients} clients: live batch / one at a time {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )
    alone = ask(engine, 0, nullcontext())[2]
    engine.backend._runner._features.clear()
    beside = first_piece_beside_drafts(engine, 64)
    print(f"first piece: {alone:.3f} s alone, {beside:.3f} s beside 64 drafts")
    print(f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
