"""What is no ultrasound picture is refused, each kind with its own words."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
)
from tests.platform.archive.sense.headers_of import header, real_header, region

from sonoloop.platform.archive.sense.refuse import refuse_other
from sonoloop.platform.errors import Reason, RejectedError


def refusal(dataset: Dataset) -> tuple[Reason, str]:
    with pytest.raises(RejectedError) as caught:
        refuse_other(dataset)
    assert not caught.value.retryable
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize(
    ("sop_class", "reason", "words"),
    [
        (MediaStorageDirectoryStorage, Reason.DOCUMENT, "DICOMDIR"),
        (EncapsulatedPDFStorage, Reason.DOCUMENT, "encapsulated"),
        (ComprehensiveSRStorage, Reason.DOCUMENT, "structured report"),
        (KeyObjectSelectionDocumentStorage, Reason.DOCUMENT, "key object"),
        (GrayscaleSoftcopyPresentationStateStorage, Reason.DOCUMENT, "presentation state"),
        (TwelveLeadECGWaveformStorage, Reason.NOT_ULTRASOUND, "waveform"),
        (RawDataStorage, Reason.NOT_ULTRASOUND, "raw data"),
        (SegmentationStorage, Reason.NOT_ULTRASOUND, "segmentation"),
    ],
)
def test_objects_of_other_classes_are_refused_though_they_say_ultrasound(
    sop_class: str, reason: Reason, words: str
) -> None:
    found = refusal(header(SOPClassUID=sop_class))
    assert found[0] == reason
    assert words in found[1]


@pytest.mark.parametrize(
    ("modality", "words"),
    [
        ("CT", "another imaging modality"),
        ("OT", "other"),
        ("SC", "secondary capture"),
        ("ECG", "waveforms"),
        ("SR", "documents"),
        ("ZIMMERMANN", "an unknown one or none"),
    ],
)
def test_other_modalities_are_refused_and_unknown_ones_are_not_quoted(modality: str, words: str) -> None:
    reason, detail = refusal(header(Modality=modality))
    assert reason == Reason.NOT_ULTRASOUND
    assert words in detail
    assert "ZIMMERMANN" not in detail


def test_an_object_without_a_modality_is_what_its_class_says() -> None:
    refuse_other(header(Modality=""))
    assert refusal(header(Modality="", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))[0] == Reason.NOT_ULTRASOUND
    assert refusal(Dataset())[0] == Reason.NOT_ULTRASOUND


@pytest.mark.parametrize("modality", ["US", "IVUS", "us "])
def test_ultrasound_passes(modality: str) -> None:
    refuse_other(header(Modality=modality))


@pytest.mark.parametrize(
    ("elements", "passes"),
    [
        ({"ConversionType": "DV"}, True),
        ({"ConversionType": "DI"}, True),
        ({"ConversionType": "DF"}, True),
        ({"ConversionType": "WSD"}, False),
        ({"ConversionType": "SD"}, False),
        ({"ConversionType": "SYN"}, False),
        ({}, False),
        ({"ConversionType": "WSD", "SequenceOfUltrasoundRegions": [region(0, 0, 99, 99)]}, True),
        ({"ConversionType": "DV", "SeriesDescription": "Report"}, False),
    ],
)
@pytest.mark.parametrize(
    "sop_class", [SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage]
)
def test_a_secondary_capture_passes_if_recorded_from_a_scanner_or_with_regions(
    sop_class: str, elements: dict[str, Any], passes: bool
) -> None:
    dataset = header(SOPClassUID=sop_class, **elements)
    if passes:
        refuse_other(dataset)
    else:
        assert refusal(dataset)[0] == Reason.DOCUMENT


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "REPORT"]},
        {"ImageType": ["DERIVED", "PRIMARY", "OB_WORKSHEET"]},
        {"SeriesDescription": "Befund"},
        {"SeriesDescription": "超声报告"},
    ],
)
def test_a_report_page_is_refused_unless_it_declares_ultrasound(elements: dict[str, Any]) -> None:
    assert refusal(header(**elements))[0] == Reason.DOCUMENT
    refuse_other(header(SequenceOfUltrasoundRegions=[region(0, 0, 99, 99)], **elements))
    graphics = region(0, 0, 99, 99, RegionSpatialFormat=5)
    assert refusal(header(SequenceOfUltrasoundRegions=[graphics], **elements))[0] == Reason.DOCUMENT


@pytest.mark.parametrize(
    "name",
    [
        "GREYSCALE_IMAGE.dcm",
        "RGB_IMAGE.dcm",
        "ultrasound-multiframe.dcm",
        "OBXXXX1A.dcm",
        "gdcm-US-ALOKA-16.dcm",
        "color-pl.dcm",
        "examples_ybr_color.dcm",
        "US1_UNCI.dcm",
    ],
)
def test_real_ultrasound_passes(name: str) -> None:
    refuse_other(real_header(name))


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "SC_rgb.dcm", "reportsi.dcm", "waveform_ecg.dcm", "DICOMDIR"]
)
def test_real_objects_of_other_kinds_are_refused(name: str) -> None:
    assert refusal(real_header(name))[0] in (Reason.NOT_ULTRASOUND, Reason.DOCUMENT)
