"""The suites that `sonoloop evaluate` knows. A suite's module is loaded when it is asked for.

A benchmark is a function ``run_<suite>(config, path, *, model)`` that drafts or answers what lies at ``path``
(a file, a folder or an ``s3://`` URI) with a model (an alias or a version) and returns its figures.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module

from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.kept import KeptAnswers
from sonoloop.jobs.evaluating.results import SuiteResult
from sonoloop.platform.errors import ConfigError


class Suite(StrEnum):
    """What is measured: ``loop`` is the held-out reviews, the others are benchmarks."""

    LOOP = "loop"
    ECHOVLM = "echovlm"
    U2BENCH = "u2bench"
    KMVE = "kmve"


BENCHMARKS: dict[Suite, str] = {
    suite: f"sonoloop.jobs.evaluating.suites.{suite}:run_{suite}" for suite in Suite if suite != Suite.LOOP
}
"""Benchmark to ``module:function``."""


def run_benchmark(suite: Suite, config: Config, path: str | None, *, model: str) -> SuiteResult:
    """Measure a model on a benchmark; killed and called again, it asks only what has no answer yet.

    Args:
        suite: One of `BENCHMARKS`.
        config: The configuration.
        path: Where the benchmark's files lie.
        model: Alias or version.

    Raises:
        ConfigError: no path.
    """
    if path is None:
        raise ConfigError(f"--suite {suite} needs --path: the file or folder that holds the benchmark")
    module, _, function = BENCHMARKS[suite].partition(":")
    figures: SuiteResult = getattr(import_module(module), function)(config, path, model=model)
    KeptAnswers.of(config.open_workspace(), figures.model_version, config.annotate).forget()
    return figures
