"""Dashboard and alerts ask for metrics and labels that there are, and a real Prometheus answers them.

The parts of Prometheus are looked for on PATH (``apt-get install prometheus``); without them the queries are
still held against the inventory.
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sonoloop.platform.metrics import INVENTORY, Metric
from sonoloop.platform.stack.ports import free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BOARD = json.loads((FOLDER / "sonoloop.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
BY_SERIES = {name: metric for metric in INVENTORY for name in metric.series}
OF_PROMETHEUS = {"le", "instance", "job", "NodeAddress", "WorkerId"}
TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in BOARD["panels"]
    for target in panel.get("targets", ())
]
ALERTS = [
    pytest.param(rule["expr"], id=rule["alert"]) for group in RULES["groups"] for rule in group["rules"]
]
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on PATH")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus on PATH")


def asked(expression: str) -> Iterator[tuple[Metric, set[str]]]:
    """Each metric of a query, with the labels that its own braces name."""
    for name, braces in re.findall(r"((?:ray_)?sonoloop_\w+)(?:\{([^}]*)\})?", expression):
        assert name in BY_SERIES, f"{name} is no metric of the inventory"
        yield BY_SERIES[name], set(re.findall(r"(\w+)\s*[=!]", re.sub(r'"[^"]*"', "", braces)))


def grouped_by(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {name for names in lists for name in re.split(r"[\s,]+", names) if name}


def plain(expression: str) -> str:
    """The query as Grafana sends it, for all models and runs."""
    return re.sub(r"\$(model_version|run_id)", ".*", expression.replace("$__rate_interval", "1m"))


@pytest.mark.parametrize("expression", [*TARGETS, *ALERTS])
def test_each_query_asks_for_metrics_and_labels_of_the_inventory(expression: str) -> None:
    metrics = list(asked(expression))
    assert metrics, "a query without a metric of ours"
    for metric, labels in metrics:
        assert labels <= set(metric.labels) | OF_PROMETHEUS, metric.name
    known = {label for metric, _ in metrics for label in metric.labels}
    assert grouped_by(expression) <= known | OF_PROMETHEUS
    for metric, _ in metrics:
        counts = metric.kind == "counter" or metric.kind == "histogram"
        assert not counts or re.search(r"\b(rate|increase)\(", expression), "a counter is asked for its rate"


def test_the_guard_of_queries_sees_a_metric_and_a_label_that_are_not_there() -> None:
    with pytest.raises(AssertionError, match="no metric"):
        list(asked("rate(ray_sonoloop_serve_request_total[5m])"))
    ((metric, labels),) = asked('ray_sonoloop_serve_requests_total{code="overloaded"}')
    assert not labels <= set(metric.labels)


def test_every_metric_but_those_of_finer_use_is_on_the_board() -> None:
    shown = {metric.name for target in TARGETS for metric, _ in asked(str(target.values[0]))}
    unshown = {metric.name for metric in INVENTORY} - shown
    assert unshown == {
        "sonoloop_annotate_actor_busy_ratio",
        "sonoloop_stage_known_rows",
        "sonoloop_finetune_steps_total",
    }


def test_panels_stand_side_by_side_and_ask_the_source_that_a_person_picks() -> None:
    places = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_every_alert_says_what_to_do() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "remedy"}
            assert rule["labels"]["severity"] in ("info", "warning", "critical")


@needs_promtool
def test_alerts_are_raised_when_they_must_and_not_otherwise() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class _Exposed(http.server.BaseHTTPRequestHandler):
    """Every metric of the inventory, counters and buckets rising from scrape to scrape."""

    num_scrapes = 0

    def do_GET(self) -> None:
        type(self).num_scrapes += 1
        body = "\n".join(line for metric in INVENTORY for line in _lines(metric, self.num_scrapes)) + "\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Silent."""


def _lines(metric: Metric, number: int) -> Iterator[str]:
    values = dict.fromkeys(metric.labels, "x") | {
        name: value
        for name, value in {"stage": "draft", "status": "rejected"}.items()
        if name in metric.labels
    }
    labels = ",".join(f'{name}="{value}"' for name, value in values.items())
    yield f"# TYPE {metric.exposed} {metric.kind}"
    if metric.kind != "histogram":
        yield f"{metric.exposed}{{{labels}}} {number if metric.kind == 'counter' else 1}"
        return
    for bound in (*metric.buckets, "+Inf"):
        yield f'{metric.exposed}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {number}'
    yield f"{metric.exposed}_count{{{labels}}} {number}"
    yield f"{metric.exposed}_sum{{{labels}}} {number}"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that has scraped every metric three times."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Exposed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": "s", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}
        ],
    }
    (folder / "p.yml").write_text(yaml.safe_dump(config))
    place = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/p.yml", f"--storage.tsdb.path={folder}/d"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={place}"], stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 120
        while _Exposed.num_scrapes < 4:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with httpx.Client(base_url=f"http://{place}", trust_env=False) as http_client:
            yield http_client
    finally:
        process.terminate()
        process.wait(20)
        server.shutdown()


@needs_prometheus
@pytest.mark.parametrize("expression", TARGETS)
def test_each_query_of_the_board_has_an_answer(prometheus: httpx.Client, expression: str) -> None:
    answer = prometheus.get("/api/v1/query", params={"query": plain(expression)}).json()
    assert answer["status"] == "success", answer
    assert answer["data"]["result"], "no series"
