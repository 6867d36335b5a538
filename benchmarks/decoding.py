"""Decoding: our reader beside the naive way, for each transfer syntax, in CPU seconds of one core.

The naive way reads the whole file, lets pydicom decode the whole object (for video, PyAV every frame) and
takes the frame. Ours opens the file by ranges and decodes what is asked for. Both are asked for one frame out
of the middle of a loop, as the index does, and for all of its frames; they must give the same pictures.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels import pixel_array

from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.encode import set_pixels
from sonoloop.platform.phantoms.render import render

Loop = NDArray[np.uint8]
"""Frames ``(T, rows, columns, 3)``, RGB."""

REPEATS = 5
NUM_FRAMES, ROWS, COLUMNS = 40, 600, 800
WANTED = NUM_FRAMES // 2
NAMES = {
    uid.ExplicitVRLittleEndian: "uncompressed",
    uid.ExplicitVRBigEndian: "big endian",
    uid.DeflatedExplicitVRLittleEndian: "deflated",
    uid.RLELossless: "RLE",
    uid.JPEGBaseline8Bit: "JPEG baseline",
    uid.JPEGLosslessSV1: "JPEG lossless",
    uid.JPEGLSLossless: "JPEG-LS lossless",
    uid.JPEG2000Lossless: "JPEG 2000 lossless",
    uid.MPEG4HP41: "H.264",
}


def main() -> None:
    """Measure and print, per syntax, our frames/s and the ratios: minimum, median, maximum over repeats."""
    loop = phantom_loop()
    print(
        f"loops of {NUM_FRAMES} frames, {ROWS} x {COLUMNS} RGB; CPU seconds of one core "
        f"({os.cpu_count()} there are, {platform.machine()}), {REPEATS} repeats"
    )
    print(f"{'syntax':20}{'MB':>6}{'frames/s':>10}   ours / naive, all frames      ours / naive, one frame")
    with TemporaryDirectory() as folder:
        for syntax, name in NAMES.items():
            file = Path(folder, f"{syntax}.dcm")
            file.write_bytes(as_object(loop, syntax))
            rates, all_ratios, one_ratios = measure(file)
            size = file.stat().st_size / 1e6
            print(
                f"{name:20}{size:6.1f}{statistics.median(rates):10.1f}   "
                f"{spread(all_ratios):30}{spread(one_ratios)}",
                flush=True,
            )


def phantom_loop() -> Loop:
    """A liver that moves, larger than the phantoms are, with a line of colour in it."""
    case = draw_case(1, 0, "liver", "B")
    moments = [Image.fromarray(render(case, moment).pixels).convert("RGB") for moment in range(8)]
    frames = [np.array(picture.resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)) for picture in moments]
    for frame in frames:
        frame[300:320, 300:500, 2] = 255 - frame[300:320, 300:500, 0]
    return np.stack([frames[index % len(frames)] for index in range(NUM_FRAMES)])


def as_object(loop: Loop, syntax: uid.UID) -> bytes:
    """The loop as an ultrasound object."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.UltrasoundMultiFrameImageStorage, "2.25.1"
    dataset.Modality, dataset.NumberOfFrames = "US", len(loop)
    streams = {uid.MPEG4HP41: h264, uid.JPEGLosslessSV1: lossless_jpeg}
    native = syntax == uid.DeflatedExplicitVRLittleEndian or syntax in streams
    set_pixels(dataset, list(loop), uid.ExplicitVRLittleEndian if native else syntax)
    if syntax in streams:
        dataset.PixelData = encapsulate(streams[syntax](loop))
        dataset["PixelData"].is_undefined_length = True
        dataset.PhotometricInterpretation = "YBR_PARTIAL_420" if syntax == uid.MPEG4HP41 else "YBR_FULL"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def h264(loop: Loop) -> list[bytes]:
    """One MP4 stream."""
    return [b"".join(encoded(loop, "mp4", "libx264", "yuv420p"))]


def lossless_jpeg(loop: Loop) -> list[bytes]:
    """A codestream for each frame; YCbCr with chroma of full width."""
    return encoded(loop, None, "ljpeg", "yuvj444p")


def encoded(loop: Loop, container: str | None, codec: str, pixels: str) -> list[bytes]:
    """By FFmpeg: a file, or the bare packets."""
    buffer, packets = io.BytesIO(), []
    with av.open(buffer, "w", format=container or "rawvideo") as output:
        stream = output.add_stream(codec, rate=25, options={"strict": "-1"})
        stream.height, stream.width, stream.pix_fmt = ROWS, COLUMNS, pixels
        for frame in [*(av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in loop), None]:
            for packet in stream.encode(frame):
                packets.append(bytes(packet))
                output.mux(packet)
    whole = [buffer.getvalue()] if container else packets
    return [part + bytes(len(part) % 2) for part in whole]


def ours(file: Path, wanted: range) -> list[NDArray[np.uint8]]:
    """The frames by our reader."""
    with file.open("rb") as opened:
        instance = open_instance(opened, name="loop")
        return [instance.frame(index) for index in wanted]


def naive(file: Path, wanted: range) -> list[NDArray[np.uint8]]:
    """The frames out of the whole object."""
    dataset = pydicom.dcmread(io.BytesIO(file.read_bytes()))
    if dataset.file_meta.TransferSyntaxUID == uid.MPEG4HP41:
        stream = b"".join(list(generate_fragments(dataset.PixelData))[1:])
        with av.open(io.BytesIO(stream)) as video:
            video.streams.video[0].codec_context.thread_count = 1
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    else:
        frames = list(pixel_array(dataset))
    return [frames[index] for index in wanted]


def measure(file: Path) -> tuple[list[float], list[float], list[float]]:
    """Our frames/s, and how many times faster we are than naive for all frames and for one."""
    rates, all_ratios, one_ratios = [], [], []
    for _ in range(REPEATS):
        (mine, my_s), (theirs, their_s) = (timed(way, file, range(NUM_FRAMES)) for way in (ours, naive))
        (_, my_one_s), (_, their_one_s) = (
            timed(way, file, range(WANTED, WANTED + 1)) for way in (ours, naive)
        )
        for one, other in zip(mine, theirs, strict=True):
            assert np.abs(one.astype(np.int16) - other).mean() < 1
        rates.append(NUM_FRAMES / my_s)
        all_ratios.append(their_s / my_s)
        one_ratios.append(their_one_s / my_one_s)
    return rates, all_ratios, one_ratios


def timed(
    way: Callable[[Path, range], list[NDArray[np.uint8]]], file: Path, wanted: range
) -> tuple[list[NDArray[np.uint8]], float]:
    """What a way gives, and its CPU seconds."""
    begin = time.process_time()
    return way(file, wanted), time.process_time() - begin


def spread(ratios: list[float]) -> str:
    """Minimum, median and maximum."""
    return f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"


if __name__ == "__main__":
    main()
