"""Serving: the built-in model behind the whole service, asked by many at once.

1. 1, 8, 16 and 32 askers in turn, first of a service that answers one request at a time (``max_rows`` and
   ``max_ongoing`` of 1), then of one that answers as many as its engine writes at once; same questions.
2. Twice the rate that the second service sustained, for ``--overload`` seconds: refusals, waits of those let
   in, memory of door and replica, and how soon it answers as before.
3. The replica is killed (SIGKILL) while eight streams are open: what they see, and when others are answered.
4. The champion changes three times under a steady load.
5. ``--soak`` seconds of a steady load: failures, and memory over time.

The askers run beside the service on the same cores and pay for their share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from safetensors.torch import load_file, save_file

from benchmarks.serving_load import Asker, Told, by_status, spread
from sonoloop.model import nano
from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform import registry
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.workspace import Store
from sonoloop.serve.config import ServeConfig, ServeSettings

NAME = "echovlm-nano"
KEY = secrets.token_hex(32)
STEADY_CLIENTS = 4
PARTS = {"door": ":Gateway", "replica": ":Champion", "proxy": "ProxyActor", "controller": "ServeController"}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments or [])
    print(f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}", flush=True)
    with TemporaryDirectory(prefix="sonoloop-bench-") as folder:
        os.environ["SONOLOOP_CACHE_DIR"] = str(Path(folder, "cache"))
        store, versions = _workspace(Path(folder))
        if not options.soak:
            with _service(store, versions[0], rows=1) as (_, url):
                alone = asyncio.run(_levels(url, "one at a time", options.clients, options.seconds))
        with _service(store, versions[0], rows=max(options.clients)) as (settings, url):
            if options.soak:
                asyncio.run(_soak(url, options.soak))
                return
            together = asyncio.run(_levels(url, "together", options.clients, options.seconds))
            for clients in options.clients:
                print(
                    f"{clients:3} askers: together / one at a time {together[clients] / alone[clients]:.1f}"
                )
            asyncio.run(_overload(url, max(together.values()), options.overload))
            asyncio.run(_kill(url))
            asyncio.run(_changes(url, settings, store, versions))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=20, help="of each level")
    parser.add_argument("--overload", type=float, default=60, help="seconds of twice the sustained rate")
    parser.add_argument("--soak", type=float, default=0, help="seconds of a steady load, and nothing else")
    return parser.parse_args(arguments)


def _workspace(folder: Path) -> tuple[Store, list[str]]:
    """A workspace with two versions of the built-in model, the first of them champion."""
    (folder / "workspace").mkdir()
    store = Store(str(folder / "workspace"))
    shutil.copytree(nano.folder(), folder / "other")
    (file,) = (folder / "other").glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] * 1.02}, file, {"format": "pt"})
    versions = [registry.publish(store, each, NAME, lineage={}) for each in (nano.folder(), folder / "other")]
    registry.set_aliases(store, NAME, {"champion": versions[0]}, expected=registry.Aliases())
    return store, versions


@contextmanager
def _service(store: Store, version: str, *, rows: int) -> Iterator[tuple[ServeSettings, str]]:
    from sonoloop.serve.running import ray_session, served  # loads Ray

    serve = ServeConfig(port=free_port(), engine=EngineConfig(device="cpu", max_rows=rows), max_queued=32)
    settings = ServeSettings(workspace=store.uri, model=registry.ModelConfig(name=NAME), serve=serve)
    with ray_session(settings), served(settings, version, KEY) as url:
        yield settings, url


async def _levels(url: str, side: str, levels: list[int], seconds: float) -> dict[int, float]:
    """Tokens per second of each number of askers."""
    rates = {}
    async with Asker(url, KEY) as asker:
        await asker.in_turn(2, 2.0)  # connections, caches
        for clients in levels:
            begin = time.perf_counter()
            told = await asker.in_turn(clients, seconds)
            took_s = time.perf_counter() - begin
            answered = [one for one in told if one.status == 200]
            rates[clients] = sum(one.tokens for one in answered) / took_s
            print(
                f"{side}, {clients:2} askers: {len(answered) / took_s:6.2f} answers/s, "
                f"{rates[clients]:7.1f} tokens/s; first piece {spread(one.first_s for one in answered)} s, "
                f"whole {spread(one.total_s for one in answered)} s (p50 / p95 / p99); "
                f"{', '.join(by_status(told))}",
                flush=True,
            )
    return rates


async def _overload(url: str, tokens_per_s: float, seconds: float) -> None:
    async with Asker(url, KEY) as asker:
        alone = [await asker.ask() for _ in range(3)]
        usual_s, tokens = min(one.total_s for one in alone), max(one.tokens for one in alone)
        rate = 2 * tokens_per_s / tokens
        before, most = memory(), memory()

        def weigh() -> None:
            for part, weight in memory().items():
                most[part] = max(most[part], weight)

        told = await asker.at_rate(rate, seconds, weigh)
        begin = time.perf_counter()
        while not _is_usual(await asker.ask(), usual_s) and time.perf_counter() - begin < 60:
            pass
        again_s = time.perf_counter() - begin
    refused = [one for one in told if one.status == 429]
    print(
        f"overload, {rate:.1f} askers/s for {seconds:g} s: {', '.join(by_status(told))}, "
        f"{len(refused) / len(told):.0%} refused within {spread(one.total_s for one in refused)} s and told "
        f"to wait {spread(one.retry_after_s for one in refused)} s; those let in: whole "
        f"{spread(one.total_s for one in told if one.status == 200)} s; as before after {again_s:.1f} s\n"
        f"overload, MiB before -> most -> after: {_weights(before, most, memory())}",
        flush=True,
    )


def _is_usual(told: Told, usual_s: float) -> bool:
    """Whether it was answered, about as soon as ever; a refusal is sooner."""
    return told.status == 200 and told.total_s <= 1.5 * usual_s


async def _kill(url: str) -> None:
    async with Asker(url, KEY) as asker:
        streams = [asyncio.create_task(asker.ask()) for _ in range(8)]
        await asyncio.sleep(0.5)
        begin = time.perf_counter()
        for process in _processes(PARTS["replica"]):
            process.send_signal(signal.SIGKILL)
        told = await asyncio.gather(*streams)
        seen_s = time.perf_counter() - begin
        while (await asker.ask()).status != 200:
            await asyncio.sleep(0.2)
        answered_s = time.perf_counter() - begin
    print(
        f"replica killed: of 8 streams {', '.join(by_status(told))}, told within {seen_s:.1f} s; the next "
        f"question is answered {answered_s:.1f} s after the kill",
        flush=True,
    )


async def _changes(url: str, settings: ServeSettings, store: Store, versions: list[str]) -> None:
    from sonoloop.serve.rolling import Rolling

    rolling = Rolling(settings, versions[0])
    over = asyncio.Event()

    async def client(asker: Asker) -> list[Told]:
        told = []
        while not over.is_set():
            told.append(await asker.ask())
        return told

    async with Asker(url, KEY) as asker:
        clients = [asyncio.create_task(client(asker)) for _ in range(STEADY_CLIENTS)]
        seconds = []
        for version in (versions[1], versions[0], versions[1]):
            known = registry.read_aliases(store, NAME)
            registry.set_aliases(store, NAME, {"champion": version}, expected=known)
            begin = time.perf_counter()
            assert await asyncio.to_thread(rolling.look) == version
            seconds.append(time.perf_counter() - begin)
            await asyncio.sleep(3)
        over.set()
        told = [one for many in await asyncio.gather(*clients) for one in many]
    print(
        f"3 changes of the champion under {STEADY_CLIENTS} askers: {', '.join(by_status(told))}; "
        f"{', '.join(f'{s:.1f}' for s in seconds)} s each; first piece {spread(t.first_s for t in told)} s; "
        f"answers by version: {[sum(t.model == v for t in told) for v in versions]}",
        flush=True,
    )


async def _soak(url: str, seconds: float) -> None:
    async with Asker(url, KEY) as asker:
        await asker.in_turn(STEADY_CLIENTS, 10)
        before, told = memory(), []
        for minute in range(max(1, round(seconds / 60))):
            told += await asker.in_turn(STEADY_CLIENTS, min(60.0, seconds))
            print(f"soak, minute {minute + 1}, MiB: {_weights(memory())}", flush=True)
    failed = [one for one in told if one.status != 200]
    print(
        f"soak of {seconds:g} s: {len(told)} requests, {len(failed)} failed; MiB before -> after: "
        f"{_weights(before, memory())}"
    )


def memory() -> dict[str, float]:
    """Resident memory of each part of the service, MiB."""
    return {
        part: sum(process.memory_info().rss for process in _processes(title)) / 2**20
        for part, title in PARTS.items()
    }


def _processes(title: str) -> list[psutil.Process]:
    """Processes of this benchmark's own Ray, by their titles."""
    return [p for p in psutil.Process().children(recursive=True) if title in " ".join(p.cmdline())]


def _weights(*weighed: dict[str, float]) -> str:
    parts: Any = weighed[0]
    return ", ".join(f"{part} {' -> '.join(f'{each[part]:.0f}' for each in weighed)}" for part in parts)
