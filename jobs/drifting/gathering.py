"""What there is of each month: columns of the tables, a range of cases at a time, and a sample of pictures.

The month of a picture is that of its case's last indexing, of a draft that of its run's beginning, of a
correction that of the annotation's creation. Dates of studies are in no table. Drafts and corrections are
kept apart by what wrote the draft: another champion is no drift.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.jobs.confidence import case_confidences
from sonoloop.jobs.drifting.comparing import Mix, Moments
from sonoloop.jobs.drifting.pictures import FIGURES, Sample, measure
from sonoloop.jobs.reporting.evidence import choices
from sonoloop.jobs.runs import read_runs
from sonoloop.jobs.tracing.rows import newest_of, rows_of, some_columns
from sonoloop.platform.labelstudio.predictions import version_name
from sonoloop.platform.lexicon import parse_entities
from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, RoomReader, ranges_of
from sonoloop.platform.workspace import Store

NO_SCANNER = "unknown"
_DRAFTS = ("run_id", "status", "confidence", "value_probabilities", "entities")
_REVIEWS = (
    "annotation_id",
    "task_id",
    "case_id",
    "model_version",
    "origins",
    "created_at",
    "updated_at",
    "escape",
    "deleted",
    "adjudicates",
)
_TOUCHED = ("prediction-changed", "manual")


@dataclass(frozen=True, order=True)
class Series:
    """One thing that is followed: what, of which scanner, and what wrote it, where something did."""

    what: str
    scanner: str
    written_by: str = ""


@dataclass
class Gathered:
    """Month to values, of each series."""

    means: dict[Series, dict[str, Moments]] = field(default_factory=lambda: defaultdict(dict))
    mixes: dict[Series, dict[str, Mix]] = field(default_factory=lambda: defaultdict(dict))

    def add_mean(self, series: Series, month: str, values: Moments) -> None:
        """Values of a month."""
        self.means[series][month] = self.means[series].get(month, Moments()) + values

    def add_mix(self, series: Series, month: str, word: str, number: int) -> None:
        """A word that occurred in a month so many times."""
        self.mixes[series].setdefault(month, Counter())[word] += number

    def months(self) -> list[str]:
        """Every month that has something, sorted."""
        means = {month for by_month in self.means.values() for month in by_month}
        return sorted(means | {month for by_month in self.mixes.values() for month in by_month})


def month_of(moment: datetime) -> str:
    """``2026-03``."""
    return f"{moment:%Y-%m}"


def gather(workspace: Store, *, num_pictures: int) -> tuple[Gathered, Sample]:
    """The drafts and corrections of all months, and of which pictures the figures are to be measured.

    Raises:
        StorageError: the workspace cannot be read.
    """
    gathered, sample = Gathered(), Sample(num_pictures)
    reviews = _corrections(workspace)
    scanners: dict[str, str] = {}
    run_months = {run.run_id: month_of(run.started_at) for run in read_runs(workspace)}
    cases = RoomReader(workspace, CASES, columns=("scanner", "images", "indexed_at", "withdrawn"))
    drafts = RoomReader(workspace, DRAFTS, columns=_DRAFTS)
    reviewed = pa.array(sorted(reviews), pa.string())
    for keys in ranges_of((*cases.files, *drafts.files)):
        some = cases.read(keys)
        named = pc.fill_null(some["scanner"], NO_SCANNER)
        of_reviews = some["case_id"].filter(pc.is_in(some["case_id"], value_set=reviewed))
        _offer(sample, some)
        _add_drafts(gathered, drafts.read(keys), some["case_id"], named, run_months)
        places = pc.index_in(of_reviews, value_set=some["case_id"].combine_chunks())
        scanners.update(zip(of_reviews.to_pylist(), named.take(places).to_pylist(), strict=True))
    for case_id, found in reviews.items():
        for month, model_version, share in found:
            series = Series("corrections", scanners.get(case_id, NO_SCANNER), model_version)
            gathered.add_mean(series, month, Moments.of([share]))
    return gathered, sample


def add_pictures(workspace: Store, gathered: Gathered, sample: Sample, months: Iterable[str]) -> None:
    """Measure the sample's pictures of some months.

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    wanted = set(months)
    groups = {group: sample.keys(group) for group in sample.groups() if group[0] in wanted}
    figures = measure(workspace, (key for keys in groups.values() for key in keys))
    for (month, scanner), keys in groups.items():
        found = [figures[key] for key in keys if key in figures]
        for name in FIGURES:
            values = Moments.of([one[name] for one in found])
            gathered.add_mean(Series(f"pictures: {name}", scanner), month, values)


def _offer(sample: Sample, cases: pa.Table) -> None:
    ready = cases.filter(pc.invert(pc.fill_null(cases["withdrawn"], False)))
    first = [images[0]["image_key"] if images else None for images in ready["images"].to_pylist()]
    columns = (ready[name].to_pylist() for name in ("case_id", "scanner", "indexed_at"))
    for case_id, scanner, indexed_at, key in zip(*columns, first, strict=True):
        if key is not None:
            sample.offer((month_of(indexed_at), scanner or NO_SCANNER), case_id, key)


def _add_drafts(
    gathered: Gathered,
    drafts: pa.Table,
    case_ids: pa.ChunkedArray,
    scanners: pa.ChunkedArray,
    run_months: dict[str, str],
) -> None:
    """Confidence and entities of a range of drafts, as decoded: a new calibrator is no drift either."""
    drafts = drafts.filter(pc.equal(drafts["status"], "draft"))
    places = pc.index_in(drafts["case_id"], value_set=case_ids.combine_chunks())
    drafts = drafts.append_column("scanner", pc.fill_null(scanners.take(places), NO_SCANNER))
    months = [run_months.get(run_id) for run_id in drafts["run_id"].to_pylist()]
    drafts = drafts.append_column("month", pa.array(months, pa.string()))
    for month, scanner, written_by, own in _groups(drafts.filter(pc.is_valid(drafts["month"]))):
        confidences = Moments.of(case_confidences(own, None))
        gathered.add_mean(Series("confidence", scanner, written_by), month, confidences)
        for pair in pc.value_counts(own["entities"].drop_null()).to_pylist():
            for name, word in choices(parse_entities(pair["values"])).items():
                gathered.add_mix(Series(f"mix: {name}", scanner, written_by), month, word, pair["counts"])


def _groups(drafts: pa.Table) -> Iterator[tuple[str, str, str, pa.Table]]:
    keys = ["month", "scanner", "model_version", "prompt_version"]
    for row in drafts.group_by(keys).aggregate([]).to_pylist():
        is_own = pc.equal(drafts[keys[0]], row[keys[0]])
        for name in keys[1:]:
            is_own = pc.and_(is_own, pc.equal(drafts[name], row[name]))
        written_by = version_name(row["model_version"], row["prompt_version"])
        yield row["month"], row["scanner"], written_by, drafts.filter(is_own)


def _corrections(workspace: Store) -> dict[str, list[tuple[str, str, float]]]:
    """Case id to month, model version and share of filled fields that the reader changed or added."""
    table = rows_of(workspace, some_columns(ReviewRecord, _REVIEWS), "reviews")
    table = newest_of(table, ["case_id", "task_id", "annotation_id"], "updated_at")
    left_out = pc.or_(pc.fill_null(table["deleted"], False), pc.fill_null(table["adjudicates"], False))
    answers = pc.and_(pc.is_null(table["escape"]), pc.is_valid(table["model_version"]))
    counts = pc.and_(answers, pc.invert(left_out))
    found: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for row in table.filter(counts).select(["case_id", "created_at", "model_version", "origins"]).to_pylist():
        origins = Counter(origin for _, origin in row["origins"])
        touched = sum(origins[name] for name in _TOUCHED)
        if filled := touched + origins["prediction"]:
            entry = (month_of(row["created_at"]), row["model_version"], touched / filled)
            found[row["case_id"]].append(entry)
    return found
