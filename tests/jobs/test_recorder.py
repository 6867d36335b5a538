"""A real run as it is seen: its lines, its files in the workspace, its metrics on Ray's endpoint."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import ray
from PIL import Image
from ray.exceptions import RayActorError
from rich.console import Console
from tests.scraping import scraped

from sonoloop.jobs import progress
from sonoloop.jobs.annotate import AnnotateSummary, run_annotate
from sonoloop.jobs.annotating import recorder
from sonoloop.jobs.annotating.figures import RunProgress, RunSummary, last_rates
from sonoloop.jobs.annotating.watch import Watch
from sonoloop.jobs.config import Config
from sonoloop.jobs.init import run_init
from sonoloop.jobs.progress import asked
from sonoloop.jobs.status import run_status, status_of_run
from sonoloop.platform.metrics import INVENTORY
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.records import CaseImage, CaseRecord
from sonoloop.platform.sorted_rooms import CASES, write_sorted
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray

NUM_CASES, MISSING = 24, 2


@dataclass(frozen=True)
class Seen:
    """A run that is done, and what a person without a terminal read."""

    config: Config
    summary: AnnotateSummary
    lines: list[str]
    metrics: str

    @property
    def workspace(self) -> Store:
        """Where it ran."""
        return self.config.open_workspace()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Seen:
    """One run of a few cases, two of them without their images."""
    config = Config(
        workspace=str(tmp_path_factory.mktemp("workspace")),
        archive=str(tmp_path_factory.mktemp("archive")),
        annotate={"cases_per_unit": 2},
        cost={"currency": "EUR", "node_hour": {"GPU": 99.0, "CPU": 3600.0}},
    )
    run_init(config)
    write_sorted(config.open_workspace(), CASES, list(cases(config.open_workspace())), "0.parquet")
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "LINE_EVERY_S", 0.3)
        patch.setattr(recorder, "RECORD_EVERY_S", 0.3)
        lines = Console(file=stream, soft_wrap=True, highlight=False)
        for module in (progress, recorder):
            patch.setattr(module, "console", lines)
        summary = run_annotate(config)
    of_run = f'run_done_cases{{.*run_id="{summary.run_ids[0]}"'
    metrics = scraped(of_run, 'annotate_cases_total{.*reason="image-missing"')
    return Seen(config, summary, stream.getvalue().splitlines(), metrics)


def cases(workspace: Store) -> Iterator[CaseRecord]:
    """Cases of one and the same image, or of one that is gone."""
    data = io.BytesIO()
    picture = render(draw_case(5, 0, "thyroid", "A")).pixels
    Image.fromarray(picture).save(data, "PNG")
    workspace.write_bytes(data.getvalue(), "images", "phantom.png")
    for number in range(NUM_CASES):
        key = "images/gone.png" if number < MISSING else "images/phantom.png"
        image = CaseImage(
            image_key=key, instance_id="i", frame_index=0, width=picture.shape[1], height=picture.shape[0]
        )
        yield CaseRecord(
            case_id=f"{number:04d}",
            patient_key="p",
            organ_hint="thyroid",
            scanner=None,
            images=(image,),
            indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
        )


def test_lines_tell_how_far_the_run_is_how_fast_and_what_it_costs(seen: Seen) -> None:
    assert seen.lines[0].startswith(f"annotate: 0/{NUM_CASES}")
    under_way = [line for line in seen.lines if "actor" in line and "starting" not in line]
    pattern = (
        r"annotate: \d+/24, [\d.]+/s, \d+ s left, 2 rejected \(2 image-missing\), 1 actor \d+% busy, "
        r"\d+ tokens/s, [\d.]+ EUR"
    )
    assert any(re.fullmatch(pattern, line) for line in under_way), seen.lines


def test_the_summary_in_the_workspace_has_the_figures_of_the_run(seen: Seen) -> None:
    (run_id,) = seen.summary.run_ids
    found = RunSummary.read(seen.workspace, run_id)
    assert found is not None
    assert (found.cases, found.drafted, found.rejected) == (NUM_CASES, NUM_CASES - MISSING, MISSING)
    assert found.rejected_by_reason == {"image-missing": MISSING}
    assert (found.units, found.cases_per_unit, found.cases_now) == (NUM_CASES // 2, 2, NUM_CASES)
    assert (found.actors, found.preparers) == (1, 1)
    assert found.actor_utilisation is not None
    assert 0 < found.actor_utilisation <= 1
    assert found.draft_s_per_case is not None
    assert found.grain_s == 2 * found.draft_s_per_case
    assert set(found.versions) >= {"ray", "torch"}
    assert found.cost == pytest.approx(found.seconds, rel=0.5)  # a node of 3600 an hour costs 1 a second
    assert (seen.summary.draft_s_per_case, seen.summary.cost) == (found.draft_s_per_case, found.cost)


def test_the_last_progress_has_every_case_done(seen: Seen) -> None:
    found = RunProgress.read(seen.workspace, seen.summary.run_ids[0])
    assert found is not None
    assert (found.figures.done, found.figures.left_s) == (NUM_CASES, 0)
    assert found.figures.tokens == RunSummary.read(seen.workspace, found.run_id).tokens  # type: ignore[union-attr]


def test_status_reads_the_run_from_the_workspace(seen: Seen) -> None:
    status = status_of_run(seen.config, seen.summary.run_ids[0])
    assert (status.state, status.counts["cases"]) == ("finished", NUM_CASES)
    assert isinstance(status.figures, RunSummary)
    whole = run_status(seen.config)
    assert whole.drafts_by_model == {seen.summary.model_version: NUM_CASES - MISSING}
    assert (whole.cases_rejected, whole.runs_progress) == ({"image-missing": MISSING}, {})


def test_the_next_run_of_the_model_can_be_estimated_from_this_one(seen: Seen) -> None:
    rates = last_rates(seen.workspace, seen.summary.model_version)
    assert rates is not None
    assert (rates.draft_s_per_case, rates.currency) == (seen.summary.draft_s_per_case, "EUR")
    assert rates.cost_per_case == pytest.approx((seen.summary.cost or 0) / NUM_CASES)
    assert last_rates(seen.workspace, "another/1") is None


def test_ray_serves_the_metrics_under_the_names_that_are_documented(seen: Seen) -> None:
    documented = {one.name for one in INVENTORY if one.room == "annotate"}
    served = set(re.findall(r"^# TYPE ray_(sonoloop_annotate_\w+)", seen.metrics, re.MULTILINE))
    assert served == documented
    labels = f'model_version="{seen.summary.model_version}".*reason="image-missing".*status="rejected"'
    lines = [
        line for line in seen.metrics.splitlines() if re.search(f"annotate_cases_total{{.*{labels}", line)
    ]
    assert any(line.endswith(f" {MISSING}.0") for line in lines), lines
    assert not any("run_id" in line for line in lines)


def test_a_run_whose_watch_is_dead_has_no_figures_but_no_error_either(ray_cluster: str) -> None:
    watch = Watch.remote("r", Config(workspace="w", archive="a").annotate, 1)  # type: ignore[attr-defined]
    assert ray.get(watch.read.remote()).done == 0
    ray.kill(watch)
    with suppress(RayActorError):  # it may answer a little longer
        while True:
            ray.get(watch.read.remote())
    assert asked(watch.read) is None
    watch.ready.remote("a")


def test_the_files_are_plain_json(seen: Seen) -> None:
    folder = Path(seen.config.workspace, "runs", seen.summary.run_ids[0])
    for name in ("progress.json", "summary.json"):
        assert json.loads((folder / name).read_text())["run_id"] == seen.summary.run_ids[0]
