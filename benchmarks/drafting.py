"""Drafting: ``sonoloop annotate`` beside the engine alone, a plain loop and naive Ray Data, in one run.

1. ``engine``: engines whose inputs are in memory: what the machine can do at best;
2. ``loop``: one process that fetches, decodes, prepares and drafts in turn, as a script would;
3. ``naive``: Ray Data's ``map_batches`` doing all of that in the model actor, no units, no checkpoint;
4. ``pipeline``: ``sonoloop annotate`` from the command line, with everything that it adds.

All sides take the same batches and must write the same. Works (``--model``): ``nano``, the built-in model on
phantoms; ``0.3b``, random weights and short reports; ``decode``, sixteen key frames of 1024 x 768 per case.
Sides that can have several engines are measured in each layout, and compared in their best. At last the
pipeline is killed when half of the units are durable, and started again.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.drafting_sides import (
    Measured,
    Written,
    durable_rows,
    engine_alone,
    naive_ray,
    pipeline,
    plain_loop,
)
from benchmarks.drafting_work import WORKS, Layout, Work, make_workspace, write_config
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.tables import read_cases


def main(arguments: list[str] | None = None) -> None:
    """Measure and print rates, ratios and what a kill costs."""
    options = _options(arguments or [])
    os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(32))
    print(f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    for name in options.model or WORKS:
        work = WORKS[name]
        num_cases = max(options.cases or work.num_cases, 8 * work.cases_per_unit)  # a rate needs some units
        print(f"-- {name}: {num_cases} cases in units of {work.cases_per_unit}", flush=True)
        with TemporaryDirectory() as folder:
            os.environ["SONOLOOP_CACHE_DIR"] = str(Path(folder, "cache"))
            make_workspace(Path(folder), work, num_cases)
            undisturbed_s = _compare(Path(folder), work, options.repeats)
            _interrupt(Path(folder), work, undisturbed_s)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks drafting", description=__doc__)
    parser.add_argument(
        "--model", choices=sorted(WORKS), action="append", help="may be repeated; all if absent"
    )
    parser.add_argument("--cases", type=int, help="cases, instead of the work's own number")
    parser.add_argument("--repeats", type=int, default=1)
    return parser.parse_args(arguments)


def _compare(folder: Path, work: Work, repeats: int) -> float:
    """Print every side and the ratios; returns whole seconds of the pipeline in the first layout."""
    ratios: dict[str, list[float]] = defaultdict(list)
    undisturbed_s = []
    for repeat in range(repeats):
        best: dict[str, float] = defaultdict(float)
        written: Written = {}
        for side, layout, made in _measured(folder, work):
            written = written or made.written
            assert made.written == written, f"{side} wrote something else"
            rate = made.rate(work.cases_per_unit, layout.engines)
            best[side] = max(best[side], rate)
            print(
                f"repeat {repeat}: {side:8} {layout!s:13} {rate:7.2f}/s, {made.whole_s:6.1f} s whole",
                flush=True,
            )
            if (side, layout) == ("pipeline", work.layouts[0]):
                undisturbed_s.append(made.whole_s)
        for side in ("engine", "loop", "naive"):
            ratios[side].append(best["pipeline"] / best[side])
    for side, values in ratios.items():
        print(
            f"pipeline / {side}, steady, each in its best layout: min {min(values):.2f}, "
            f"median {statistics.median(values):.2f}, max {max(values):.2f}"
        )
    return statistics.median(undisturbed_s)


def _measured(folder: Path, work: Work) -> Iterator[tuple[str, Layout, Measured]]:
    for layout in work.layouts:
        config = write_config(folder, work, layout)
        yield "engine", layout, engine_alone(config, layout)
        yield "naive", layout, naive_ray(config, layout)
        _forget_drafts(folder)
        yield "pipeline", layout, pipeline(folder)
    yield "loop", Layout(1, os.cpu_count() or 1), plain_loop(config)


def _interrupt(folder: Path, work: Work, undisturbed_s: float) -> None:
    """Kill the pipeline in the middle, start it again, and count rows and seconds."""
    config = write_config(folder, work, work.layouts[0])
    num_cases = len(read_cases(config.open_workspace()))
    _forget_drafts(folder)
    killed = pipeline(folder, kill_after=num_cases // work.cases_per_unit // 2)
    kept = len(durable_rows(folder))
    resumed = pipeline(folder)
    rows = durable_rows(folder)
    at_most = work.layouts[0].engines * work.cases_per_unit
    print(
        f"killed after {killed.whole_s:.1f} s with {kept} of {num_cases} rows durable; the second run "
        f"drafted {num_cases - kept} in {resumed.whole_s:.1f} s: {num_cases - len(set(rows))} rows lost, "
        f"{len(rows) - len(set(rows))} doubled, at most {at_most} drafted again, "
        f"{killed.whole_s + resumed.whole_s - undisturbed_s:.1f} s more than undisturbed"
    )


def _forget_drafts(folder: Path) -> None:
    for room in ("drafts", "runs"):
        shutil.rmtree(folder / "workspace" / room, ignore_errors=True)
