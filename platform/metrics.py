"""Every Prometheus metric that sonoloop has, each with its name, unit, meaning and labels.

Names are ``sonoloop_<room>_<what>_<unit>``: the room is who tells it (``annotate``, ``finetune``, ``stage``
for the stages of other jobs, ``serve``, or ``loop`` for the workspace as a whole), the unit is a base unit or
the thing that is counted, and a counter ends in ``_total``. Labels have few values: versions, states,
reason codes, run ids on gauges only; never an id of a case or a reader, never a text.

All but ``loop`` come from Ray's endpoint, one on each node, which puts ``ray_`` before each name and adds
``NodeAddress`` and ``WorkerId``: one series for each actor. Ray makes a histogram's sum from its buckets'
middles (2.60): take means from the counters of seconds where there are some. Workers report every 10 s, and
what an actor did in its last seconds may never be told: a run's ``summary.json`` has it. ``loop`` is what
``sonoloop status --prometheus`` writes, for the textfile collector of a node exporter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

UNITS = frozenset(
    {"seconds", "tokens", "cases", "rows", "requests", "objects", "runs", "steps", "drafts", "changes"}
    | {"edits", "series", "nats", "ratio", "info", "money"}
)
"""What a name may end in, before ``_total``; ``money`` is in the unit of the label ``currency``."""
_RAY = "ray_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As our code has it.
        kind: As Prometheus has it.
        description: One line.
        labels: Ours; Ray adds its own.
        buckets: Upper bounds of a histogram, in its unit.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def room(self) -> str:
        """Who tells it."""
        return self.name.split("_")[1]

    @property
    def unit(self) -> str:
        """What it is in, or what it counts."""
        return self.name.removesuffix("_total").rpartition("_")[2]

    @property
    def exposed(self) -> str:
        """The name under which Prometheus finds it."""
        return self.name if self.room == "loop" else _RAY + self.name

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.kind != "histogram":
            return (self.exposed,)
        return tuple(f"{self.exposed}_{part}" for part in ("bucket", "count", "sum"))


def _counter(name: str, description: str, *labels: str) -> Metric:
    return Metric(f"sonoloop_{name}_total", "counter", description, labels)


def _gauge(name: str, description: str, *labels: str) -> Metric:
    return Metric(f"sonoloop_{name}", "gauge", description, labels)


def _histogram(name: str, description: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(f"sonoloop_{name}", "histogram", description, labels, buckets)


_STAGE = ("model_version", "stage")
_UNIT_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
_ANSWER_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, 320)

# --- annotate; ``stage`` is prepare or draft, ``status`` draft or rejected, ``reason`` empty for a draft ---
ANNOTATE_CASES = _counter(
    "annotate_cases", "Cases that left the model stage.", "model_version", "status", "reason"
)
ANNOTATE_TOKENS = _counter("annotate_tokens", "Tokens generated.", "model_version")
ANNOTATE_BUSY = _counter("annotate_busy_seconds", "Seconds of work on units.", *_STAGE)
ANNOTATE_WAITING = _counter("annotate_waiting_seconds", "Seconds between units.", *_STAGE)
ANNOTATE_STAGE_CASES = _counter("annotate_stage_cases", "Cases that left a stage.", *_STAGE)
ANNOTATE_UNIT = _histogram("annotate_unit_seconds", "Seconds of one unit.", _UNIT_S, *_STAGE)
ANNOTATE_BUSY_SHARE = _gauge("annotate_actor_busy_ratio", "Share of its time that an actor worked.", *_STAGE)
ANNOTATE_RUN_CASES = _gauge("annotate_run_cases", "Cases of a run.", "run_id")
ANNOTATE_RUN_DONE = _gauge("annotate_run_done_cases", "Cases of a run that are done.", "run_id")
ANNOTATE_RUN_LEFT = _gauge(
    "annotate_run_left_seconds", "Until a run's last case, at its recent rate.", "run_id"
)
ANNOTATE_RUN_COST = _gauge("annotate_run_cost_money", "Cost of a run so far.", "run_id", "currency")

# --- the stages of index, import and export; ``status`` is done or rejected ---
STAGE_ROWS = _counter("stage_finished_rows", "Rows that left a stage of a job.", "stage", "status")
STAGE_KNOWN = _gauge("stage_known_rows", "Rows that a stage knows of.", "stage")

# --- finetune ---
FINETUNE_STEPS = _counter("finetune_steps", "Steps of training.")
FINETUNE_TOKENS = _counter("finetune_tokens", "Tokens read in training.")
FINETUNE_LOSS = _gauge("finetune_loss_nats", "Cross-entropy of the last step, per answered token.")
FINETUNE_EXPERTS = _gauge(
    "finetune_least_used_expert_ratio",
    "At an epoch's end: smallest share of an even share that an expert got.",
)

# --- serve ---
SERVE_REQUESTS = _counter("serve_requests", "Requests that were answered.", "route", "status")
SERVE_REQUEST_S = _histogram("serve_request_seconds", "From request to its answer's end.", _ANSWER_S, "route")
SERVE_REFUSED = _counter("serve_refused_requests", "Requests refused, by the error's code.", "code")
SERVE_LIMITED = _counter("serve_limited_requests", "Requests put off (429), by the error's code.", "code")
SERVE_OPEN = _gauge(
    "serve_open_requests", "Questions and drafts of studies inside the door: answered or waiting."
)
SERVE_FIRST_TOKEN_S = _histogram(
    "serve_first_token_seconds", "From question to its first piece of text.", _ANSWER_S
)
SERVE_ANSWER_S = _histogram("serve_answer_seconds", "From question to its whole answer.", _ANSWER_S)
SERVE_TOKENS = _counter("serve_tokens", "Tokens read and written.", "model_version", "kind")
SERVE_ROWS = _gauge("serve_running_rows", "Rows in a replica's batch.")
SERVE_WAITING = _gauge("serve_waiting_requests", "Requests that wait for a row of a replica.")
SERVE_DRAFTS = _counter("serve_drafts", "Drafts asked for.", "source", "status", "reason")
SERVE_VERSION = _gauge(
    "serve_version_info", "1 for the model that answers, 0 for the one before.", "model_version"
)
SERVE_CHANGES = _counter("serve_model_changes", "Times that another model took over.")
SERVE_FAILED_CHANGES = _counter(
    "serve_failed_changes", "Tries to serve a new champion that failed; the old one went on.", "model_version"
)

# --- the workspace ---
LOOP_OBJECTS = _gauge("loop_archive_objects", "Objects of the archive that were indexed.")
LOOP_REJECTED = _gauge("loop_rejected_objects", "Of these and their frames, rejected.", "reason")
LOOP_CASES = _gauge("loop_cases", "Cases.")
LOOP_DRAFTS = _gauge("loop_drafts", "Drafts.", "model_version")
LOOP_REVIEWED = _gauge("loop_reviewed_cases", "Cases with a review.")
LOOP_EDITS = _gauge("loop_case_edits", "Mean fields that a reader changed of a draft.", "model_version")
LOOP_UNTOUCHED = _gauge("loop_untouched_ratio", "Mean share of drafted fields left alone.", "model_version")
LOOP_PAGE_S = _gauge("loop_page_seconds", "Median time on a page with a draft.", "model_version")
LOOP_DRIFTED = _gauge("loop_drifted_series", "Series of the latest month that moved.", "what")
LOOP_COMPARED = _gauge("loop_compared_series", "Series of the latest month that were compared.")
LOOP_UNFINISHED = _gauge("loop_unfinished_runs", "Runs that were begun and not finished.")
LOOP_MODEL = _gauge("loop_model_info", "1 for the version that an alias names.", "alias", "model_version")

INVENTORY: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)


def counter(metric: Metric) -> Counter:
    """The metric on Ray's endpoint; to be made in the process that counts."""
    from ray.util.metrics import Counter

    assert metric.kind == "counter", metric.name
    return Counter(metric.name, metric.description, tag_keys=metric.labels)


def gauge(metric: Metric) -> Gauge:
    """As `counter`, for what goes up and down."""
    from ray.util.metrics import Gauge

    assert metric.kind == "gauge", metric.name
    return Gauge(metric.name, metric.description, tag_keys=metric.labels)


def histogram(metric: Metric) -> Histogram:
    """As `counter`, for a distribution."""
    from ray.util.metrics import Histogram

    assert metric.kind == "histogram", metric.name
    return Histogram(metric.name, metric.description, boundaries=list(metric.buckets), tag_keys=metric.labels)
