"""Cine loops as video files, and as streams in DICOM objects."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from dicom_files import encapsulated
from pydicom import uid

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.reading.video import video_format
from sonoloop.platform.errors import Reason, RejectedError

ROWS, COLUMNS, NUM_FRAMES = 96, 128, 30
CONTAINERS = [
    ("mp4", "libx264"),
    ("mov", "mpeg4"),
    ("avi", "mpeg4"),
    ("avi", "mjpeg"),
    ("matroska", "libx264"),
    ("webm", "libvpx"),
    ("mpeg", "mpeg2video"),
    ("mpegts", "mpeg2video"),
    ("mpeg2video", "mpeg2video"),
    ("asf", "wmv2"),
]


def loop() -> list[Frame]:
    """A square that wanders over a background that gets brighter."""
    frames = np.zeros((NUM_FRAMES, ROWS, COLUMNS, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = (40 + 6 * index, 120, 200 - 4 * index)
        frame[16:48, 3 * index : 3 * index + 32] = (230, 40, 40)
    return list(frames)


def video(container: str, codec: str, *, size: tuple[int, int] = (ROWS, COLUMNS)) -> bytes:
    """`loop` as a video with a key frame every 8, and frames that refer to later ones where the codec can."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options={"crf": "18"} if "264" in codec else {"b": "3M"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 8
        for frame in loop():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def opened(data: bytes) -> Instance:
    return open_instance(io.BytesIO(data), name="a/b.dcm")


def refusal(data: bytes) -> Reason:
    try:
        instance = opened(data)
        for index in range(instance.num_frames):
            instance.frame(index)
    except RejectedError as err:
        return err.reason
    raise AssertionError("the video was accepted")


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_a_video_is_a_loop_whose_frames_come_in_any_order(container: str, codec: str) -> None:
    instance = opened(video(container, codec))
    assert (instance.num_frames, instance.rows, instance.columns) == (NUM_FRAMES, ROWS, COLUMNS)
    inorder = [instance.frame(index) for index in range(NUM_FRAMES)]
    for index, expected in enumerate(loop()):
        assert np.abs(inorder[index].astype(int) - expected).mean() < 8
        assert np.abs(inorder[index][60:].mean(axis=(0, 1)) - expected[60:].mean(axis=(0, 1))).max() < 4
    for index in (29, 0, 17, 18, 16, 5, 5, 28):
        np.testing.assert_array_equal(instance.frame(index), inorder[index])
    with pytest.raises(RejectedError):
        instance.frame(NUM_FRAMES)


@pytest.mark.parametrize(
    ("syntax", "container", "codec"),
    [
        (uid.MPEG2MPML, "mpeg2video", "mpeg2video"),
        (uid.MPEG2MPHL, "mpegts", "mpeg2video"),
        (uid.MPEG4HP41, "mp4", "libx264"),
        (uid.MPEG4HP41BD, "h264", "libx264"),
        (uid.HEVCMP51, "hevc", "libx265"),
    ],
)
@pytest.mark.parametrize("num_parts", [1, 5])
def test_a_stream_in_a_dicom_object_is_decoded_frame_by_frame(
    syntax: uid.UID, container: str, codec: str, num_parts: int, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = video(container, codec)
    data = encapsulated(
        [stream + bytes(len(stream) % 2)],
        syntax,
        loop()[0],
        fragments=num_parts,
        NumberOfFrames=NUM_FRAMES + 9,
        photometric="YBR_PARTIAL_420",
    )
    capfd.readouterr()
    instance = opened(data)
    assert (instance.num_frames, instance.transfer_syntax) == (NUM_FRAMES, syntax)
    for index in (11, 12, 2, 29):
        assert np.abs(instance.frame(index).astype(int) - loop()[index]).mean() < 8
    assert capfd.readouterr() == ("", "")


def test_a_stream_of_another_size_than_its_header_is_refused() -> None:
    stream = video("mp4", "libx264")
    assert (
        refusal(encapsulated([stream], uid.MPEG4HP41, np.zeros((64, 64, 3), np.uint8))) == Reason.UNREADABLE
    )


def test_a_video_that_was_cut_off_gives_its_first_frames_and_then_a_refusal() -> None:
    data = video("avi", "mjpeg")
    instance = opened(data[: len(data) // 2])
    assert 5 < instance.num_frames < NUM_FRAMES
    assert np.abs(instance.frame(3).astype(int) - loop()[3]).mean() < 8
    assert refusal(video("mp4", "libx264")[:-2_000]) in (Reason.UNREADABLE, Reason.TRUNCATED)


def test_a_frame_that_is_broken_does_not_spoil_the_others() -> None:
    data = bytearray(video("avi", "mjpeg"))
    places = [place for place in range(len(data)) if data[place : place + 4] == b"00dc"]
    start = places[10] + 700
    data[start : start + 60] = bytes(60)
    instance = opened(bytes(data))
    refused = []
    for index in range(NUM_FRAMES):
        try:
            instance.frame(index)
        except RejectedError:
            refused.append(index)
    assert refused == [9]
    assert np.abs(instance.frame(20).astype(int) - loop()[20]).mean() < 8


def test_a_video_larger_than_any_scanners_is_refused() -> None:
    data = video("mpeg2video", "mpeg2video").replace(
        b"\x00\x00\x01\xb3\x08\x00\x60", b"\x00\x00\x01\xb3\xff\xff\xff"
    )
    assert refusal(data) in (Reason.TOO_LARGE, Reason.NO_PIXELS)  # FFmpeg itself finds no size then


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    ],
)
def test_a_playlist_is_no_video(playlist: bytes) -> None:
    assert refusal(playlist) == Reason.NOT_AN_IMAGE


def test_still_pictures_in_video_boxes_are_no_videos() -> None:
    assert video_format(b"\x00\x00\x00\x18ftypavif" + bytes(500)) is None
    assert video_format(b"\x00\x00\x00\x18ftypisom" + bytes(500)) == "mov"
