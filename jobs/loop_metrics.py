"""The workspace as Prometheus reads it: ``sonoloop status --prometheus``, for cron and a textfile collector.

The verbs of the loop end long before anybody could scrape them, so their figures are read from the workspace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from sonoloop.jobs.config import Config
from sonoloop.jobs.drifting.report import newest_report
from sonoloop.jobs.reporting.evidence import read_evidence
from sonoloop.jobs.reporting.helping import Help, measure_help
from sonoloop.jobs.status import StatusSummary, run_status
from sonoloop.platform import metrics
from sonoloop.platform.metrics import Metric
from sonoloop.platform.workspace import Store

Sample = tuple[Metric, dict[str, str], float]


def loop_metrics(config: Config) -> str:
    """All of ``loop`` in Prometheus's text format.

    Raises:
        StorageError: the workspace cannot be reached.
    """
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for metric, labels, value in _samples(config):
        if metric.name not in gauges:
            gauges[metric.name] = Gauge(metric.name, metric.description, metric.labels, registry=registry)
        gauge = gauges[metric.name]
        (gauge.labels(**labels) if labels else gauge).set(value)
    return generate_latest(registry).decode()


def _samples(config: Config) -> Iterator[Sample]:
    workspace = config.open_workspace()
    yield from _counts(run_status(config))
    for entry in measure_help(read_evidence(workspace), lambda _version: None):
        yield from _help(entry.total)
    yield from _drift(workspace)


def _counts(status: StatusSummary) -> Iterator[Sample]:
    yield metrics.LOOP_OBJECTS, {}, status.objects
    yield metrics.LOOP_CASES, {}, status.cases
    yield metrics.LOOP_REVIEWED, {}, status.reviews
    yield metrics.LOOP_UNFINISHED, {}, len(status.runs_unfinished)
    for reason, number in status.objects_rejected.items():
        yield metrics.LOOP_REJECTED, {"reason": reason}, number
    for version, number in status.drafts_by_model.items():
        yield metrics.LOOP_DRAFTS, {"model_version": version}, number
    for alias, named in status.aliases.items():
        if named is not None:
            yield metrics.LOOP_MODEL, {"alias": alias, "model_version": named}, 1


def _help(total: Help) -> Iterator[Sample]:
    label = {"model_version": total.model_version}
    figures = (
        (metrics.LOOP_EDITS, total.edits),
        (metrics.LOOP_UNTOUCHED, total.untouched),
        (metrics.LOOP_PAGE_S, total.seconds),
    )
    for metric, found in figures:
        if found is not None:
            yield metric, label, found.value


def _drift(workspace: Store) -> Iterator[Sample]:
    report = newest_report(workspace)
    if report is None:
        return
    yield metrics.LOOP_COMPARED, {}, len(report.compared)
    moved = Counter(one.what for one in report.alarms)
    for what in sorted({one.what for one in report.compared}):
        yield metrics.LOOP_DRIFTED, {"what": what}, moved[what]
