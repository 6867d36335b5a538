"""The phantoms of the study: a pool to choose from, and a test set that is the same in every seed.

The embedded model knows breast and thyroid of machine A. Half of the pool is of that kind, as an archive is
full of what a model knows; the other half is spread over every other organ and machine. The test set has as
many studies of each kind, and of other people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sonoloop.jobs.demo.archive import TRUTH_FILE, read_truth
from sonoloop.model.metrics import Described
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_studies
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS
from sonoloop.platform.phantoms.scanners import SCANNER_KINDS
from sonoloop.platform.phantoms.truth import TruthRecord
from sonoloop.platform.tables import read_cases
from sonoloop.platform.workspace import Store

TEST_SEED = 900_001
"""Of the test set; seeds of the study are small numbers, so that no study is in both."""
KINDS = tuple((organ, scanner) for organ in PHANTOM_ORGANS for scanner in SCANNER_KINDS)
KNOWN = (("breast", "A"), ("thyroid", "A"))


def pool_of(seed: int, num_cases: int) -> PhantomConfig:
    """The studies that cases are chosen from, half of them of the known kind."""
    new = [kind for kind in KINDS if kind not in KNOWN]
    known = num_cases // 2
    counts = dict(zip(KNOWN, _even(known, len(KNOWN)), strict=True))
    counts |= dict(zip(new, _even(num_cases - known, len(new)), strict=True))
    return _phantoms(seed, counts)


def held_out_of(num_cases: int) -> PhantomConfig:
    """The studies that every round is measured on."""
    return _phantoms(TEST_SEED, dict(zip(KINDS, _even(num_cases, len(KINDS)), strict=True)))


def write_studies(archive: Path, truth: Path, config: PhantomConfig) -> int:
    """Write studies below one folder, and what is true of them below another; returns their number."""
    objects, truths = Store(str(archive)), []
    for study in build_studies(config):
        for key, data in study.files:
            objects.write_bytes(data, key)
        truths.append(study.truth)
    Store(str(truth)).write_table(TruthRecord.table(truths), TRUTH_FILE)
    return len(truths)


def truth_of(truth: Path, workspace: Store) -> dict[str, Described]:
    """What is true of each case of the studies whose truth lies there, by case id."""
    cases = {case.case_id: case for case in read_cases(workspace)}
    return read_truth(Store(str(truth)), cases, pseudonym_key())


def _phantoms(seed: int, counts: Mapping[tuple[str, str], int]) -> PhantomConfig:
    return PhantomConfig(seed=seed, groups=tuple(_groups(counts)))


def _groups(counts: Mapping[tuple[str, str], int]) -> Iterator[PhantomGroup]:
    for (organ, scanner), count in counts.items():
        yield PhantomGroup.model_validate({"organ": organ, "scanner": scanner, "count": count})


def _even(total: int, parts: int) -> list[int]:
    """A total in whole parts that differ by one at most."""
    return [total * (place + 1) // parts - total * place // parts for place in range(parts)]
