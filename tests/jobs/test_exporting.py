"""Which cases an export takes and what each came to, a range of them at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.jobs.test_calibrating import draft
from tests.jobs.test_snapshot import case, review

from sonoloop.jobs import exporting
from sonoloop.jobs.config import Config
from sonoloop.jobs.exporting import chosen_cases, outcomes_of
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.export.results import Result
from sonoloop.platform.records import ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, RoomReader, ranges_of, write_sorted
from sonoloop.platform.workspace import Store

NAMES = [f"c{number}" for number in range(9)]
CHAMPION, OTHER = "echovlm-nano/1", "echovlm-nano/2"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Nine cases in three files: c0 reviewed, c1 withdrawn, c2 not drafted, c3 by another model alone."""
    monkeypatch.setattr(exporting, "ranges_of", partial(ranges_of, max_rows=3))
    monkeypatch.setattr(exporting, "CASES_AT_ONCE", 2)
    config = Config(workspace=str(tmp_path / "workspace"), archive=str(tmp_path / "archive"))
    workspace = Store(config.workspace)
    for start in range(0, 9, 3):
        some = [case(name, "p") for name in NAMES[start : start + 3]]
        some = [one.model_copy(update={"withdrawn": one.case_id == "c1"}) for one in some]
        write_sorted(workspace, CASES, some, "run", f"{start}.parquet")
    made = {CHAMPION: [*NAMES[4:], "c0", "c1"], OTHER: NAMES}
    for number, (version, names) in enumerate(made.items()):
        how = {"model_version": version, "prompt_version": PROMPT_VERSION, "findings": version}
        rows = [draft(name, impression="i", **how) for name in names]
        write_sorted(workspace, DRAFTS, rows, "run", f"{number}.parquet")
    workspace.write_table(ReviewRecord.table([review("c0")]), "reviews", "0.parquet")
    registry.set_aliases(workspace, config.model.name, {"champion": CHAMPION}, expected=Aliases())
    return config


def test_every_case_comes_once_in_order_with_its_review_or_the_champions_draft(config: Config) -> None:
    workspace = Store(config.workspace)
    ids = chosen_cases(workspace, None)
    assert ids.to_pylist() == ["c0", *NAMES[2:]]
    found = list(outcomes_of(config, workspace, ids, reviewed_only=False))
    said = {one.case.case_id: one.status for one in found if isinstance(one, Result)}
    assert said == {"c0": "reviewed", **dict.fromkeys(NAMES[4:], "draft")}
    assert [one.id for one in found if not isinstance(one, Result)] == ["c2", "c3"]
    assert {one.findings for one in found if isinstance(one, Result) and not one.is_reviewed} == {CHAMPION}
    reviewed = list(outcomes_of(config, workspace, ids, reviewed_only=True))
    assert [one.case.case_id for one in reviewed if isinstance(one, Result)] == ["c0"]
    assert len(reviewed) == len(ids)


def test_no_more_than_a_range_of_cases_is_read_before_it_is_asked_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, begun = Store(config.workspace), set()
    read = RoomReader.read
    ids = chosen_cases(workspace, None)
    monkeypatch.setattr(RoomReader, "read", lambda self, keys: (begun.add(keys.low), read(self, keys))[1])
    outcomes = outcomes_of(config, workspace, ids, reviewed_only=False)
    next(outcomes)
    assert begun == {None, "c0"}
    assert len(list(outcomes)) == 7
    assert begun == {None, "c0", "c3", "c6"}


def test_a_file_of_ids_takes_those_alone_and_an_unknown_or_a_withdrawn_one_is_refused(
    config: Config, tmp_path: Path
) -> None:
    workspace, listed = Store(config.workspace), tmp_path / "ids"
    listed.write_text("c8\nc0\n\nc8")
    ids = chosen_cases(workspace, listed)
    found = outcomes_of(config, workspace, ids, reviewed_only=False)
    assert [one.case.case_id for one in found if isinstance(one, Result)] == ["c0", "c8"]
    for text, num in (("c0 c1 c9", 3), ("", 0)):
        listed.write_text(text)
        with pytest.raises(ConfigError, match=f"of its {num} ids {max(num - 1, 0)} are no case here"):
            chosen_cases(workspace, listed)
