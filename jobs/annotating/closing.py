"""The end of a run: prove that every case came out once, and put its many small files into few sorted ones.

Works part by part of the run's input in Ray tasks, and may be interrupted and done again at any point: a
part's sorted file is written before the small ones go, and rows that stand in both count once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import ray

from sonoloop.jobs.annotating.patience import through_outages
from sonoloop.jobs.annotating.units import InputParts, case_ids_of, read_part
from sonoloop.platform.errors import CountError
from sonoloop.platform.sorted_rooms import DRAFTS, KeyRange, SortedFile, files_of, newest
from sonoloop.platform.workspace import Store


@dataclass
class RunCounts:
    """What a run made: ``cases = drafted + rejected``."""

    cases: int = 0
    drafted: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    num_tokens: int = 0

    def add(self, other: RunCounts) -> None:
        """Count what another counted, too."""
        self.cases += other.cases
        self.drafted += other.drafted
        self.rejected += other.rejected
        self.reasons.update(other.reasons)
        self.num_tokens += other.num_tokens


def close_run(workspace: Store, run_id: str, *, patience_s: float = 0) -> RunCounts:
    """Verify and compact ``drafts/<run_id>/``.

    Args:
        workspace: Where the run is.
        run_id: The run.
        patience_s: Seconds that the store may be away.

    Raises:
        CountError: rows out differ from cases in.
        StorageError: the store refuses.
    """
    return through_outages(workspace, patience_s, _close, workspace, run_id)


def forget_checkpoint(workspace: Store, run_id: str) -> None:
    """Remove what a closed run was resumed by; to be called once the run is marked as finished.

    Before that, a process killed while it removes would leave half a checkpoint, and the same command would
    draft the other half again.
    """
    workspace.remove_folder("runs", run_id, "checkpoint")


def _close(workspace: Store, run_id: str) -> RunCounts:
    counts = RunCounts()
    parts = InputParts(workspace, run_id).files
    files = files_of(workspace, DRAFTS, run_id)
    for part in _closed_parts(workspace, run_id, parts, files):
        counts.add(part)
    written = {workspace.path("drafts", run_id, _sorted_name(part)) for part in parts}
    workspace.remove_paths(file.path for file in files if file.path not in written)
    return counts


def _closed_parts(
    workspace: Store, run_id: str, parts: Sequence[SortedFile], files: Sequence[SortedFile]
) -> Iterator[RunCounts]:
    close = ray.remote(num_cpus=1)(_close_part)
    at_once = max(
        1, int(ray.cluster_resources().get("CPU", 1))
    )  # none while all nodes are gone and come again
    waiting = list(parts)
    under_way: list[ray.ObjectRef[RunCounts]] = []
    while waiting or under_way:
        while waiting and len(under_way) < at_once:
            part = waiting.pop()
            reach = _reach(part)
            reaching = [file for file in files if file.reaches(reach)]
            under_way.append(close.remote(workspace, run_id, part, reaching))
        (done,), under_way = ray.wait(under_way, num_returns=1)
        yield ray.get(done)


def _reach(part: SortedFile) -> KeyRange:
    return KeyRange(part.first, part.last + "\0")


def _close_part(workspace: Store, run_id: str, part: SortedFile, files: Sequence[SortedFile]) -> RunCounts:
    """Count a part's rows against its cases, and write them as one sorted file."""
    expected = case_ids_of(read_part(workspace, part))
    rows = newest(workspace, DRAFTS, files, _reach(part))
    # While the run lay, others may have tried its rejected cases again: their newer rows count, not ours.
    rows = rows.filter(pc.is_in(rows["case_id"], value_set=expected.combine_chunks()))
    if not rows["case_id"].equals(expected):
        raise CountError(
            f"run {run_id}: {len(expected)} cases in, {len(pc.unique(rows['case_id']))} different cases in "
            f"{rows.num_rows} rows out; run the same command again"
        )
    workspace.write_table(rows, "drafts", run_id, _sorted_name(part))
    return _counted(rows)


def _counted(rows: pa.Table) -> RunCounts:
    rejected = rows.filter(pc.equal(rows["status"], "rejected"))
    return RunCounts(
        cases=rows.num_rows,
        drafted=rows.num_rows - rejected.num_rows,
        rejected=rejected.num_rows,
        reasons=Counter(rejected["reason"].to_pylist()),
        num_tokens=pc.sum(rows["num_tokens"]).as_py() or 0,
    )


def _sorted_name(part: SortedFile) -> str:
    return "sorted-" + part.path.rpartition("/part-")[2]
