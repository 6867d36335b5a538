"""Damaged objects of every kind against the readers; run by ``test_hostile``, in a process of its own.

``python fuzzing.py 300`` tries 300 objects, with ``tests`` and this folder on the path. It ends with 1 and
says why where one gave anything but frames or a rejection, or took more memory or time than it may.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from dicom_files import as_ultrasound, encapsulated, jpeg, real_file, speckle, ultrasound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from test_arrays import npy
from test_display import with_palette
from test_members import tarred, zipped
from test_syntaxes import HTJ2K, object_of, written
from test_video import loop, video

from sonoloop.platform.archive.reading.members import is_container, iter_members
from sonoloop.platform.archive.reading.open import SNIFFED_BYTES, open_instance
from sonoloop.platform.errors import RejectedError

MAX_GROWTH_BYTES = 2**30
MAX_CPU_S = 20.0


def _saved(kind: str, num_frames: int = 1) -> bytes:
    frames = [Image.fromarray(frame) for frame in speckle(1, frames=3, channels=3)[:num_frames]]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:]} if num_frames > 1 else {}
    frames[0].save(buffer, kind, **more, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    return buffer.getvalue()


def _compressed(syntax: uid.UID) -> bytes:
    dataset = object_of(speckle(2))
    dataset.compress(syntax, generate_instance_uid=False)
    return written(dataset)


def corpus() -> dict[str, bytes]:
    """One small, whole object of each kind."""
    frames = [jpeg(frame) for frame in speckle(3, frames=3)]
    stream = video("mp4", "libx264")
    tables = [(np.arange(256, dtype=np.uint16) * 257).tobytes()] * 3
    grey, colour = speckle(4), np.zeros((32, 48, 3), np.uint8)
    return {
        "native": ultrasound(speckle(1, frames=3), frames=3),
        "palette": with_palette(grey, tables, (256, 0, 16)),
        "big endian": real_file("ExplVR_BigEnd.dcm"),
        "deflated": as_ultrasound("image_dfl.dcm"),
        "jpeg": encapsulated(frames, uid.JPEGBaseline8Bit, grey),
        "jpeg, basic table": encapsulated(frames, uid.JPEGBaseline8Bit, grey, basic_table=True, fragments=2),
        "jpeg, extended table": encapsulated(frames, uid.JPEGBaseline8Bit, grey, extended_table=True),
        "jpeg, 12 bits": as_ultrasound("JPGExtended.dcm"),
        "jpeg, lossless": as_ultrasound("SC_rgb_jpeg_gdcm.dcm"),
        "jpeg-ls, lossy": as_ultrasound("JPEGLSNearLossless_16.dcm"),
        "htj2k": encapsulated([HTJ2K], uid.HTJ2K, colour),
        "mpeg-4": encapsulated([stream + bytes(len(stream) % 2)], uid.MPEG4HP41, loop()[0]),
        "mpeg-2": encapsulated([video("mpeg2video", "mpeg2video")], uid.MPEG2MPML, loop()[0]),
        "jpeg xl in dicom": encapsulated([_saved("JXL")], "1.2.840.10008.1.2.4.112", speckle(1, channels=3)),
        **{
            uid.UID(s).name: _compressed(s)
            for s in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
        },
        **{kind: _saved(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "JPEG2000", "JXL")},
        **{f"{kind}, animated": _saved(kind, 3) for kind in ("PNG", "GIF", "WEBP", "TIFF")},
        "npy": npy(speckle(1, frames=3)),
        **{
            f"{kind}, {codec}": video(kind, codec)
            for kind, codec in (("avi", "mjpeg"), ("matroska", "libvpx"))
        },
        "mp4": stream,
        "zip": zipped({"a.dcm": ultrasound(grey), "b.npy": npy(grey)}),
        "tar": tarred({"a.dcm": ultrasound(grey)}),
        "tar.gz": tarred({"a.dcm": ultrasound(grey)}, "w:gz"),
    }


def damaged(data: bytes, draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    """A copy with a few of its bytes altered, left out, repeated or made extreme, or cut off."""
    altered = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 2, 5, 20)))):
        reach = draw(st.sampled_from((200, 2_000, len(altered))))
        place = draw(st.integers(0, max(min(reach, len(altered)) - 1, 0)))
        kind, value = draw(st.integers(0, 5)), draw(st.integers(0, 255))
        if kind == 0:
            altered[place : place + 1] = bytes([value])
        elif kind == 1:
            altered[place : place + 4] = b"\xff" * 4
        elif kind == 2:
            altered[place : place + 2] = value.to_bytes(2, "little")
        elif kind == 3:
            del altered[place : place + value]
        elif kind == 4:
            altered[place:place] = altered[place : place + value]
        elif draw(st.booleans()):
            del altered[place:]
    return bytes(altered)


def look_into(data: bytes) -> int:
    """Open an object, and what it contains, as the index would; how many frames came out."""
    if not is_container(data[:SNIFFED_BYTES], "a"):
        return sum(1 for _ in frames_of(data))
    found = 0
    for _, opener in islice(iter_members(io.BytesIO(data)), 20):
        found += sum(1 for _ in frames_of(opener().read(2**20)))
    return found


def frames_of(data: bytes) -> Iterator[np.ndarray]:
    """The first and the last frame of an object."""
    instance = open_instance(io.BytesIO(data), name="a/b")
    for index in {0, instance.num_frames - 1}:
        frame = instance.frame(index)
        assert frame.dtype == np.uint8
        assert frame.shape in ((instance.rows, instance.columns), (instance.rows, instance.columns, 3))
        yield frame


def main(num_examples: int) -> None:
    """Try so many damaged objects; raises on the first that misbehaves."""
    wholes = corpus()
    for kind, data in wholes.items():
        assert look_into(data) > 0, kind
    outcomes = {"frames": 0, "rejected": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=num_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(wholes)), st.data())
    def attack(kind: str, data: st.DataObject) -> None:
        broken, start = damaged(wholes[kind], data.draw), time.process_time()
        refusal = None
        try:
            look_into(broken)
        except RejectedError as err:
            refusal = err
        outcomes["frames" if refusal is None else "rejected"] += 1
        assert refusal is None or "MemoryError" not in refusal.detail, kind
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert time.process_time() - start < MAX_CPU_S, kind
        assert grown < MAX_GROWTH_BYTES, kind

    attack()
    assert min(outcomes.values()) > 0, outcomes
    sys.stdout.write(f"{outcomes}\n")


if __name__ == "__main__":
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * MAX_GROWTH_BYTES, -1))
    main(int(sys.argv[1]))
