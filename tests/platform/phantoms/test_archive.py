"""The archive as a whole: repeatable, in order, complete, with truth that fits its files."""

from __future__ import annotations

import io
from collections import Counter

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.pixels import iter_pixels

from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, PhantomStudy, build_studies
from sonoloop.platform.phantoms.encode import SYNTAXES
from sonoloop.platform.phantoms.truth import TruthRecord

GROUPS = (
    PhantomGroup(organ="breast", scanner="A", count=10),
    PhantomGroup(organ="thyroid", scanner="A", count=10),
    PhantomGroup(organ="liver", scanner="B", count=10),
    PhantomGroup(organ="kidney", scanner="B", count=10),
)


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    return list(build_studies(PhantomConfig(seed=21, groups=GROUPS, workers=1)))


def test_every_file_reads_back_and_every_frame_decodes(studies: list[PhantomStudy]) -> None:
    syntaxes, loops = Counter[str](), 0
    for study in studies:
        for key, data in study.files:
            dataset = pydicom.dcmread(io.BytesIO(data))
            frames = list(iter_pixels(dataset))
            assert len(frames) == int(dataset.get("NumberOfFrames", 1))
            assert all(frame.shape[:2] == (336, 448) for frame in frames)
            assert key.startswith(f"{study.truth.study_uid}/")
            syntaxes[dataset.file_meta.TransferSyntaxUID] += 1
            loops += len(frames) > 1
            assert len(frames) == 1 or 8 <= len(frames) <= 12
    assert set(syntaxes) == set(SYNTAXES)
    assert 4 <= loops <= 18


def test_the_truth_has_a_box_for_every_frame_of_a_lesion_only(
    studies: list[PhantomStudy],
) -> None:
    for study in studies:
        frames = {
            (dataset.SOPInstanceUID, index)
            for dataset in (pydicom.dcmread(io.BytesIO(data)) for _, data in study.files)
            for index in range(int(dataset.get("NumberOfFrames", 1)))
        }
        boxes = {(box.sop_uid, box.frame_index) for box in study.truth.boxes}
        has_lesion = study.truth.parsed_entities().lesion == "present"
        assert boxes == (frames if has_lesion else set())


def test_the_truth_survives_its_table(studies: list[PhantomStudy]) -> None:
    records = [study.truth for study in studies]
    rows = TruthRecord.table(records).to_pylist()
    assert [TruthRecord.from_row(row) for row in rows] == records


def test_studies_are_unique_and_a_few_patients_have_two(studies: list[PhantomStudy]) -> None:
    headers = [pydicom.dcmread(io.BytesIO(study.files[0][1]), stop_before_pixels=True) for study in studies]
    assert len({header.StudyInstanceUID for header in headers}) == len(studies)
    per_patient = Counter(header.PatientID for header in headers)
    assert sorted(per_patient.values()) == [1] * 34 + [2] * 3
    names = {(header.PatientID, str(header.PatientName), header.PatientBirthDate) for header in headers}
    assert len(names) == len(per_patient)


def test_organs_come_in_the_order_of_the_groups(studies: list[PhantomStudy]) -> None:
    organs = [study.truth.organ for study in studies]
    assert organs == [group.organ for group in GROUPS for _ in range(group.count)]


def test_spawned_processes_make_the_same_bytes_in_the_same_order(studies: list[PhantomStudy]) -> None:
    config = PhantomConfig(seed=21, groups=GROUPS, workers=2)
    assert list(build_studies(config)) == studies


def test_another_seed_makes_another_archive(studies: list[PhantomStudy]) -> None:
    config = PhantomConfig(seed=22, groups=GROUPS[:1], workers=1)
    other = next(build_studies(config))
    assert other.truth.study_uid != studies[0].truth.study_uid
    assert other.files != studies[0].files


def test_an_unknown_organ_or_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        PhantomGroup.model_validate({"organ": "spleen", "scanner": "A", "count": 1})
    with pytest.raises(ValidationError):
        PhantomConfig.model_validate({"seed": 1, "groups": (), "wrokers": 2})
