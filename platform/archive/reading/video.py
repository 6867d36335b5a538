"""Cine loops as video, through FFmpeg (PyAV): plain files, and the streams that DICOM objects hold.

The container's format is set by its first bytes, never guessed by FFmpeg, whose guesses include playlists
that open other files and addresses; and a container that asks for another file gets none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO, NoReturn

import av
import numpy as np
from av.container import InputContainer
from pydicom import uid

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.pixels import MAX_FRAMES, decoding, quiet
from sonoloop.platform.archive.reading.plain import plain_instance
from sonoloop.platform.archive.reading.ranges import RangedFile
from sonoloop.platform.errors import Reason, RejectedError

MAX_VIDEO_PIXELS = 4096 * 2304
"""A decoder keeps up to 16 reference frames of this size, 1.5 bytes a pixel."""
_BY_START = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
    b"\x30\x26\xb2\x75": "asf",
}
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_TS_PACKET = 188
_NOWHERE = MAX_FRAMES + 1
_SNIFFED = 512


def video_format(start: bytes) -> str | None:
    """FFmpeg's name of the container that starts so, or ``None`` where it is none."""
    if start[4:8] in _MOV_BOXES and start[8:12] not in _STILL_BRANDS:
        return "mov"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    if start[:1] == b"\x47" == start[_TS_PACKET : _TS_PACKET + 1]:
        return "mpegts"
    return _BY_START.get(start[:4])


def open_video(file: RangedFile, name: str, kind: str) -> Instance:
    """Read a video's header, and its packets where that counts no frames; raises `RejectedError`."""
    video = Video(lambda: file.joined([(0, file.size)]), kind)
    return plain_instance(
        name, kind=kind, num_frames=video.num_frames, size=(video.rows, video.columns), frame=video.frame
    )


def open_stream(opener: Callable[[], BinaryIO], syntax: uid.UID, rows: int, columns: int) -> Video:
    """The video that a DICOM object holds, in a container or bare.

    Raises:
        RejectedError: as `Video`, and `UNREADABLE`, it is of another size than the header says.
    """
    bare = "mpegvideo" if "MPEG2" in syntax.name else "hevc" if "HEVC" in syntax.name else "h264"
    video = Video(opener, video_format(opener().read(_SNIFFED)) or bare)
    if (video.rows, video.columns) != (rows, columns):
        raise RejectedError(
            Reason.UNREADABLE,
            f"a video of {video.rows} x {video.columns} where the header says {rows} x {columns}",
        )
    return video


class Video:
    """Random access to the frames of one stream, in the order in which they are shown.

    Going on where the last frame was is cheap; going elsewhere starts at the key frame before. A bare
    elementary stream has no times to seek by and is decoded from its start.
    """

    def __init__(self, opener: Callable[[], BinaryIO], kind: str) -> None:
        """``opener`` gives the file anew, at its start. Raises `RejectedError`."""
        self._opener, self._kind = opener, kind
        self._times: list[int] | None = None
        self._next = 0
        self._keys = [0]
        try:
            with quiet():
                self._restart()
                stream = self._container.streams.video[0]
                self.rows, self.columns = stream.codec_context.height, stream.codec_context.width
                if self.rows * self.columns > MAX_VIDEO_PIXELS:
                    raise RejectedError(Reason.TOO_LARGE, f"claims {self.rows} x {self.columns} pixels")
                self.num_frames = stream.frames if self._kind == "mov" else len(self._read_packets())
        except RejectedError:
            raise
        except Exception as err:  # arbitrary bytes meet a large C library
            raise RejectedError(
                Reason.UNREADABLE, f"the video cannot be opened ({type(err).__name__})"
            ) from None
        if self.rows * self.columns == 0 or self.num_frames == 0:
            raise RejectedError(Reason.NO_PIXELS, "the video holds no frame")
        if self.num_frames > MAX_FRAMES:
            raise RejectedError(Reason.TOO_LARGE, f"claims {self.num_frames} frames")

    def frame(self, index: int) -> Frame:
        """Decode one frame, ``(rows, columns[, 3])``, uint8; raises `RejectedError`."""
        with decoding(index, self.num_frames):
            if not self._key_before(index) <= self._next <= index:
                self._jump(index)
            place, self._next = self._next, _NOWHERE
            for frame in self._frames:
                place += 1
                if place > index:
                    self._next = place
                    return self._pixels(frame)
            raise RejectedError(Reason.TRUNCATED, f"the video ends before frame {index}")

    def _restart(self) -> None:
        self._container = self._open()
        self._frames, self._next = self._decoded(), 0

    def _open(self) -> InputContainer:
        limit = {"max_pixels": str(MAX_VIDEO_PIXELS)}  # once for the probing, once for the decoding
        container = av.open(self._opener(), "r", format=self._kind, io_open=_refuse, options=limit)
        decoder = container.streams.video[0].codec_context
        decoder.options = {**limit, "err_detect": "explode"}  # a broken frame is refused, not painted over
        decoder.thread_count = 1  # there are many workers, and few frames of one loop are wanted
        return container

    def _decoded(self) -> Iterator[av.VideoFrame]:
        return iter(self._container.decode(self._container.streams.video[0]))

    def _read_packets(self) -> list[tuple[int | None, bool]]:
        """Time and whether a key frame, of every packet that is shown; reads the file and decodes nothing."""
        container, packets = self._open(), []
        for packet in container.demux(container.streams.video[0]):
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
            if len(packets) > MAX_FRAMES:
                break
        return packets

    def _key_before(self, index: int) -> int:
        """The last frame at or before this one that decoding can start at."""
        if index and self._times is None:
            packets = sorted((time, is_key) for time, is_key in self._read_packets() if time is not None)
            self._times = [time for time, _ in packets]
            if len(set(self._times)) == self.num_frames:
                self._keys = [0, *(place for place, (_, is_key) in enumerate(packets) if is_key and place)]
        return self._keys[bisect_right(self._keys, index) - 1]

    def _jump(self, index: int) -> None:
        """Go to the key frame before, or to the start where the stream cannot be sought in."""
        key = self._key_before(index)
        if key and self._times:
            self._container.seek(self._times[key], stream=self._container.streams.video[0])
            ahead = self._decoded()
            first = next(ahead, None)
            time = None if first is None else first.pts
            if first is not None and time in self._times[: index + 1]:
                self._frames, self._next = chain([first], ahead), self._times.index(time)
                return
        self._restart()

    def _pixels(self, frame: av.VideoFrame) -> Frame:
        if (frame.height, frame.width) != (self.rows, self.columns):
            raise RejectedError(Reason.UNREADABLE, "the video's frames change their size")
        pixels = frame.to_ndarray(format="gray" if frame.format.name.startswith("gray") else "rgb24")
        return np.ascontiguousarray(pixels, dtype=np.uint8)


def _refuse(*_: object) -> NoReturn:
    raise OSError("a video that names another file")
