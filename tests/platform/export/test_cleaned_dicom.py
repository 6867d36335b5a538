"""Cleaned DICOM files: what other decoders and other checkers of DICOM make of them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import data_store
import deid_data
import numpy as np
import pydicom
import pydicom.data
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import JPEGLSLossless
from tests.dicom_files import IDENTIFIERS, REGION, picture, real_file
from tests.platform.export.made import KEY, full_ultrasound

from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.loop import clean_loop
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.export.config import ExportConfig
from sonoloop.platform.export.dicom import cleaned_dicom

DECODERS = ("gdcm", "pyjpegls", "pylibjpeg")
RULES = DeidentifyConfig()


def _opened(data: bytes) -> Instance:
    return open_instance(io.BytesIO(data), name="object")


def _exported(data: bytes, folder: Path) -> Path:
    path = folder / "clean.dcm"
    with cleaned_dicom(_opened(data), ExportConfig(), RULES, KEY) as dataset:
        dataset.save_as(path, enforce_file_format=True)
    return path


def _frames(data: bytes) -> NDArray[np.uint8]:
    return np.stack(list(clean_loop(_opened(data), RULES)))


@pytest.mark.parametrize(("frames", "channels"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_every_decoder_gives_the_cleaned_frames_bit_for_bit(
    frames: int, channels: int, tmp_path: Path
) -> None:
    data = full_ultrasound(frames, channels)
    dataset = pydicom.dcmread(_exported(data, tmp_path))
    expected = _frames(data)
    assert dataset.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert dataset.PhotometricInterpretation == ("MONOCHROME2" if channels == 1 else "RGB")
    for decoder in DECODERS:
        decoded = pixel_array(dataset, decoding_plugin=decoder).reshape(expected.shape)
        assert np.array_equal(decoded, expected), decoder
        for index in range(frames):
            one = pixel_array(dataset, index=index, decoding_plugin=decoder)
            assert np.array_equal(one, expected[index]), (decoder, index)


def test_nothing_outside_of_the_regions_is_left_on_any_frame(tmp_path: Path) -> None:
    pixels = pydicom.dcmread(_exported(full_ultrasound(3), tmp_path)).pixel_array
    left, top, right, bottom = REGION
    assert pixels[:, top : bottom + 1, left : right + 1].any(axis=(1, 2)).all()
    pixels[:, top : bottom + 1, left : right + 1] = 0
    assert not pixels.any()


def test_no_identifier_of_the_source_is_left_in_the_bytes(tmp_path: Path) -> None:
    data = _exported(full_ultrasound(2), tmp_path).read_bytes()
    assert data[:128] == bytes(128)
    assert not [text for text in (*IDENTIFIERS, "Meier", "20190105") if text.encode() in data]


def test_another_checker_of_dicom_finds_no_error(tmp_path: Path) -> None:
    deltas = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}
    for frames in (1, 3):
        source = pydicom.dcmread(io.BytesIO(full_ultrasound(frames)))
        for name, value in {**deltas, "PhysicalDeltaX": 0.01, "PhysicalDeltaY": 0.01}.items():
            setattr(source.SequenceOfUltrasoundRegions[0], name, value)
        buffer = io.BytesIO()
        source.save_as(buffer)
        path = _exported(buffer.getvalue(), tmp_path)
        assert not _errors(path)
        assert pydicom.dcmread(path).SequenceOfUltrasoundRegions[0].PhysicalDeltaX == 0.01


@pytest.mark.parametrize("name", ["GREYSCALE_IMAGE.dcm", "color-pl.dcm"])
def test_a_real_file_has_no_error_that_its_source_has_not(name: str, tmp_path: Path) -> None:
    folders = (Path(package.__file__).parent for package in (pydicom.data, data_store, deid_data))
    source = next(path for folder in folders for path in folder.rglob(name))
    exported = _exported(source.read_bytes(), tmp_path)
    assert _errors(exported) <= _errors(source)


def _errors(path: Path) -> set[str]:
    tool = str(Path(sys.executable).parent / "dciodvfy")
    found = subprocess.run([tool, str(path)], capture_output=True, check=False).stderr
    return {line for line in found.decode("latin-1").splitlines() if line.startswith("Error")}


def test_the_file_says_what_was_done_and_what_was_lost_before(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(_exported(full_ultrasound(), tmp_path))
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY"]
    assert dataset.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]
    assert "LossyImageCompression" not in dataset
    assert "masked" in dataset.DerivationDescription


def test_a_source_with_loss_stays_marked_as_such(tmp_path: Path) -> None:
    source = pydicom.dcmread(io.BytesIO(real_file("examples_ybr_color.dcm")))
    assert source.file_meta.TransferSyntaxUID.name.startswith("JPEG Baseline")
    del source.LossyImageCompression
    buffer = io.BytesIO()
    source.save_as(buffer)
    dataset = pydicom.dcmread(_exported(buffer.getvalue(), tmp_path))
    assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert dataset.PhotometricInterpretation == "RGB"
    assert dataset.NumberOfFrames == source.NumberOfFrames


def test_the_same_object_gives_the_same_file(tmp_path: Path) -> None:
    data = full_ultrasound(2)
    assert _exported(data, tmp_path).read_bytes() == _exported(data, tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (full_ultrasound(regions=(), BurnedInAnnotation="YES"), Reason.PHI_SUSPECTED),
        (picture(), Reason.NOT_DICOM),
    ],
)
def test_what_cannot_be_shown_clean_or_has_no_header_is_refused(
    data: bytes, reason: Reason, tmp_path: Path
) -> None:
    with pytest.raises(RejectedError) as err:
        _exported(data, tmp_path)
    assert err.value.reason == reason


def test_a_long_loop_is_held_frame_by_frame(tmp_path: Path) -> None:
    """Its coded frames wait in a file; the dataset's pixels are that file, not bytes."""
    with cleaned_dicom(_opened(full_ultrasound(3)), ExportConfig(), RULES, KEY) as dataset:
        assert not isinstance(dataset["PixelData"].value, bytes)
        assert len(dataset.ExtendedOffsetTable) == 24
        _check_offsets(dataset)


def _check_offsets(dataset: Dataset) -> None:
    spool = dataset["PixelData"].value
    spool.seek(0)
    data = spool.read()[8:]
    starts = np.frombuffer(dataset.ExtendedOffsetTable, "<u8")
    sizes = np.frombuffer(dataset.ExtendedOffsetTableLengths, "<u8")
    for start, size in zip(starts, sizes, strict=True):
        assert data[start : start + 4] == b"\xfe\xff\x00\xe0"
        assert int.from_bytes(data[start + 4 : start + 8], "little") == size
        assert data[start + 8 : start + 10] == b"\xff\xd8"
