"""One picture is known again after the changes that archives make to it, and two pictures are kept apart."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.platform.archive.sense.headers_of import real_path

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.nearduplicates import MAX_CASES, find_groups, mark_near_duplicates
from sonoloop.platform.archive.perceptual import (
    COARSE_BITS,
    MAX_COARSE,
    MAX_DISTANCE,
    NUM_BITS,
    hamming,
    look_alike,
    perceptual_hash,
)
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.rows import FrameRecord
from sonoloop.platform.duplicates import DuplicateRecord, read_groups
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.phantoms.scanners import SCANNER_KINDS
from sonoloop.platform.sorted_rooms import FRAMES, write_sorted
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def jpeg(frame: Frame) -> Frame:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def smaller(frame: Frame) -> Frame:
    return np.asarray(cv2.resize(frame, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def with_gain(gain: float) -> Callable[[Frame], Frame]:
    return lambda frame: np.clip(frame * gain, 0, 255).astype(np.uint8)


def with_caliper(frame: Frame) -> Frame:
    drawn, (rows, columns) = frame.copy(), frame.shape[:2]
    start, end = (columns * 45 // 100, rows * 45 // 100), (columns * 60 // 100, rows * 60 // 100)
    for x, y in (start, end):
        cv2.drawMarker(drawn, (x, y), (255, 255, 0), cv2.MARKER_CROSS, 9)
    for place in np.linspace(start, end, 12):
        cv2.circle(drawn, (int(place[0]), int(place[1])), 1, (255, 255, 0))
    return drawn


def cropped(frame: Frame) -> Frame:
    return np.ascontiguousarray(frame[2:-2, 2:-2])


def on_black(frame: Frame) -> Frame:
    border = ((60, 30), (10, 90)) + ((0, 0),) * (frame.ndim - 2)
    return np.pad(frame, border)


CHANGES = {
    "jpeg": jpeg,
    "smaller": smaller,
    "brighter": with_gain(1.1),
    "darker": with_gain(0.9),
    "caliper": with_caliper,
    "cropped": cropped,
    "on black": on_black,
    "grey": lambda frame: frame if frame.ndim == 2 else np.asarray(Image.fromarray(frame).convert("L")),
}


def real_frame(name: str, index: int = 0) -> Frame:
    """A real picture without its margins, where machines draw text."""
    pixels = open_instance(io.BytesIO(real_path(name).read_bytes()), name=name).frame(index)
    rows, columns = pixels.shape[:2]
    return np.ascontiguousarray(pixels[rows // 10 : rows * 9 // 10, columns // 10 : columns * 9 // 10])


@pytest.fixture(scope="module")
def phantoms() -> list[Frame]:
    """Six cases of each organ on each kind of machine."""
    places = itertools.product(PHANTOM_ORGANS, SCANNER_KINDS, range(6))
    return [render(draw_case(3, number, organ, kind)).pixels for organ, kind, number in places]


@pytest.fixture(scope="module")
def real_frames() -> list[Frame]:
    """Different pictures of different machines."""
    names = (
        "GREYSCALE_IMAGE.dcm",
        "RGB_IMAGE.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "US1_UNCI.dcm",
        "color3d_jpeg_baseline.dcm",
    )
    return [*(real_frame(name) for name in names), real_frame("ultrasound-multiframe.dcm", 5)]


def hashes(frames: list[Frame]) -> list[str]:
    found = [perceptual_hash(frame) for frame in frames]
    assert None not in found
    return [each for each in found if each is not None]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_known_again(change: str, phantoms: list[Frame], real_frames: list[Frame]) -> None:
    frames = [*phantoms, *real_frames]
    copies = hashes([CHANGES[change](frame) for frame in frames])
    known = [look_alike(one, copy) for one, copy in zip(hashes(frames), copies, strict=True)]
    assert sum(known) >= 0.96 * len(known)


def test_different_patients_on_the_same_machine_are_kept_apart(
    phantoms: list[Frame], real_frames: list[Frame]
) -> None:
    pairs = list(itertools.combinations(hashes([*phantoms, *real_frames]), 2))
    assert not any(look_alike(*pair) for pair in pairs)
    assert min(hamming(*pair) for pair in pairs) > MAX_DISTANCE


def test_the_same_real_file_in_two_transfer_syntaxes_is_one_picture() -> None:
    for one, other in (("US1_UNCI.dcm", "US1_J2KI.dcm"), ("US1_UNCR.dcm", "US1_J2KR.dcm")):
        assert look_alike(*hashes([real_frame(one), real_frame(other)]))


def test_a_blank_frame_a_sliver_and_nothing_have_no_hash() -> None:
    noise = np.random.default_rng(0).integers(0, 8, (300, 400), dtype=np.uint8)
    sliver = np.zeros((300, 400), dtype=np.uint8)
    sliver[100:120] = np.random.default_rng(0).integers(0, 256, (20, 400))
    for frame in (noise, sliver, np.zeros((300, 400, 3), np.uint8), np.full((5, 5), 9, np.uint8)):
        assert perceptual_hash(frame) is None


def digits(seed: int) -> int:
    return int.from_bytes(np.random.default_rng(seed).bytes(NUM_BITS // 8))


def flipped(number: int, *, coarse: int = 0, fine: int = 0, seed: int = 0) -> int:
    """The number with so many of its first `COARSE_BITS` bits and of the others changed."""
    rng = np.random.default_rng(seed)
    places = [*rng.choice(COARSE_BITS, coarse, replace=False)]
    places += [*(COARSE_BITS + rng.choice(NUM_BITS - COARSE_BITS, fine, replace=False))]
    for place in places:
        number ^= 1 << (NUM_BITS - 1 - int(place))
    return number


def pictures(*rows: tuple[str, int]) -> pa.Table:
    columns = {"case_id": [case for case, _ in rows], "perceptual_hash": [f"{n:0256x}" for _, n in rows]}
    return pa.table(columns, schema=pa.schema([("case_id", pa.string()), ("perceptual_hash", pa.string())]))


def test_cases_are_grouped_through_what_they_share_and_named_by_the_smallest() -> None:
    one, two, three = digits(1), digits(2), digits(3)
    table = pictures(("d", one), ("b", flipped(one, coarse=4, fine=10)), ("b", two), ("c", two), ("a", three))
    assert find_groups(table) == {"b": ("b", 0), "c": ("b", 0), "d": ("b", 14)}


def test_pictures_of_one_case_make_no_group() -> None:
    one = digits(1)
    assert find_groups(pictures(("a", one), ("a", one), ("a", flipped(one, fine=5)), ("b", digits(2)))) == {}
    assert find_groups(pictures()) == {}


@pytest.mark.parametrize(
    ("coarse", "fine", "found"),
    [
        (MAX_COARSE, MAX_DISTANCE - MAX_COARSE, True),
        (MAX_COARSE + 1, 0, False),
        (0, MAX_DISTANCE, True),
        (0, MAX_DISTANCE + 1, False),
        (MAX_COARSE, MAX_DISTANCE - MAX_COARSE + 1, False),
    ],
)
def test_the_search_finds_exactly_the_pairs_that_look_alike(coarse: int, fine: int, found: bool) -> None:
    ones = [digits(seed) for seed in range(60)]
    others = [flipped(one, coarse=coarse, fine=fine, seed=seed) for seed, one in enumerate(ones)]
    for one, other in zip(ones, others, strict=True):
        assert look_alike(f"{one:0256x}", f"{other:0256x}") is found
    rows = [
        (f"{name}{seed}", each)
        for name, side in (("a", ones), ("b", others))
        for seed, each in enumerate(side)
    ]
    assert len(find_groups(pictures(*rows))) == (120 if found else 0)


def test_among_many_pictures_the_planted_pairs_are_found_and_no_others() -> None:
    singles = [(f"s{number:05}", digits(number)) for number in range(3000)]
    copies = [
        (f"t{number:05}", flipped(digits(number), coarse=number % 16, fine=number % 80, seed=number))
        for number in range(0, 3000, 7)
    ]
    groups = find_groups(pictures(*singles, *copies))
    expected = {f"{letter}{number:05}": f"s{number:05}" for number in range(0, 3000, 7) for letter in "st"}
    assert {case_id: key for case_id, (key, _) in groups.items()} == expected


def test_a_picture_that_very_many_cases_have_connects_none_of_them() -> None:
    test_image, shared = digits(1), digits(2)
    many = [(f"c{number:03}", test_image) for number in range(MAX_CASES)]
    assert len(find_groups(pictures(*many))) == MAX_CASES
    more = [*many, ("more", flipped(test_image, fine=3)), ("c001", shared), ("c002", shared)]
    assert find_groups(pictures(*more)) == {"c001": ("c001", 0), "c002": ("c001", 0)}


def test_marks_are_made_of_each_cases_newest_frames_and_replaced_by_the_next_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    frame = render(draw_case(1, 0, "liver", "A")).pixels
    other = render(draw_case(1, 1, "liver", "A")).pixels
    rows = [_row("b", frame), _row("a", jpeg(frame)), _row("c", other), _row("d", np.zeros_like(frame))]
    write_sorted(store, FRAMES, rows, "0.parquet")
    assert mark_near_duplicates(store) == 2
    assert read_groups(store) == {"a": "a", "b": "a"}
    (marked, _) = store.read_tables(DuplicateRecord.ARROW, "duplicates").to_pylist()
    assert 0 < DuplicateRecord.from_row(marked).distance <= MAX_DISTANCE
    write_sorted(store, FRAMES, [_row("b", other, day=2)], "1.parquet")
    assert mark_near_duplicates(store) == 2
    assert read_groups(store) == {"b": "b", "c": "b"}


def test_a_workspace_without_frames_has_no_marks(tmp_path: Path) -> None:
    assert mark_near_duplicates(Store(str(tmp_path))) == 0


def _row(case_id: str, frame: Frame, *, day: int = 1) -> FrameRecord:
    return FrameRecord(
        instance_id=f"i{case_id}",
        case_id=case_id,
        frame_index=0,
        status="written",
        image_key=f"images/{case_id}.png",
        width=frame.shape[1],
        height=frame.shape[0],
        perceptual_hash=perceptual_hash(frame),
        rules_version="1",
        prepared_at=NOW.replace(day=day),
    )
