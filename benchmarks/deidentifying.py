"""Cleaning pixels: what it costs beside leaving text alone, what it finds, and what it takes from tissue.

1. Cost, 640 x 480, one core: seconds of CPU per key frame, without text search (black outside the regions
   only, which is what most tools do), with it, and with rapidocr's own pipeline at its defaults in its place;
   shares of detection and recognition.
2. Recall: names, numbers and dates planted into speckle at several letter sizes and contrasts. Found means
   that no more than 2 % of the letters' pixels are left. The same for the detector on the plain picture
   instead of its local contrast.
3. Share of text-free speckle that is masked for nothing.

CPU seconds rather than wall: machines that run benchmarks run other things too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sonoloop.platform.archive.deidentify import search as search_module
from sonoloop.platform.archive.deidentify.identifiers import Identifiers
from sonoloop.platform.archive.deidentify.masks import Box, blackened, only_regions
from sonoloop.platform.archive.deidentify.ocr import TextReader, text_reader
from sonoloop.platform.archive.deidentify.search import FIRST, SECOND, TextSearch
from sonoloop.platform.archive.sense.regions import Region
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render

Picture = NDArray[np.uint8]
ROWS, COLUMNS = 480, 640
NUM_PICTURES = 12
TEXTS = ("MUELLER, ANNA", "Schmidt Peter", "PID-471108", "17.05.1949", "K. Tanaka", "Dr. Weber", "05/12/1961")
MARKS = (
    "2D",
    "60%",
    "C 50",
    "P Low",
    "HGen",
    "18Hz",
    "15cm",
    "MI 0.6",
    "TIS0.1",
    "L12-5",
    "Rt Breast",
    "Gn 42",
)
COLOURS = ((255, 255, 255), (255, 230, 60), (60, 255, 90), (80, 220, 255))
SIZES, CONTRASTS = (8, 10, 12, 16, 24), (1.0, 0.7)


def speckle() -> Iterator[Picture]:
    """Phantoms of four organs on both kinds of machine, enlarged to 640 x 480."""
    for number in range(NUM_PICTURES):
        organ = ("breast", "thyroid", "liver", "kidney")[number % 4]
        frame = render(draw_case(7, number, organ, "AB"[number // 4 % 2]), 0)
        box = frame.region
        inside = frame.pixels[box.top : box.bottom + 1, box.left : box.right + 1]
        large = cv2.resize(inside, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
        yield large if large.ndim == 3 else np.repeat(large[..., None], 3, axis=2)


def with_marks(picture: Picture) -> Picture:
    """The picture with a column of scanner marks on black at its left, as machines have it."""
    drawn = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(13)
    draw.rectangle((0, 0, 90, ROWS), fill=0)
    for row, mark in enumerate(MARKS):
        draw.text((8, 20 + 22 * row), mark, fill=(255, 255, 255), font=font)
    return np.asarray(drawn)


def with_text(picture: Picture, number: int, size: int, contrast: float) -> Picture:
    """The picture with one text somewhere; ``contrast`` 1 is the full colour, 0 what lies beneath."""
    rng = np.random.default_rng([number, size])
    text, colour = TEXTS[number % len(TEXTS)], np.array(COLOURS[number % len(COLOURS)])
    drawn = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size)
    draw.fontmode = "1" if number % 3 == 0 else "L"  # older machines do not smooth letters
    place = rng.integers(4, COLUMNS - 4 - draw.textlength(text, font=font)), rng.integers(4, ROWS - 2 * size)
    left, top, right, bottom = map(int, draw.textbbox(tuple(map(int, place)), text, font=font))
    ground = picture[top:bottom, left:right].mean(axis=(0, 1))
    fill = tuple(int(value) for value in ground + (colour - ground) * contrast)
    draw.text(tuple(map(int, place)), text, fill=fill, font=font)
    return np.asarray(drawn)


def searched(picture: Picture) -> TextSearch:
    """Both looks that every key frame gets."""
    search = TextSearch(Box(0, 0, COLUMNS - 1, ROWS - 1), Identifiers())
    for how in (FIRST, SECOND):
        search.look(picture, how)
    return search


@dataclass
class Clock:
    """CPU seconds spent in calls of a method."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, owner: type, *names: str) -> Iterator[None]:
        """Time these methods for a while."""
        with mock.patch.multiple(owner, **{name: self._timed(name, getattr(owner, name)) for name in names}):
            yield

    def _timed(self, name: str, work: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object) -> object:
            begin = time.process_time()
            result = work(*values)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin
            return result

        return call


def cpu_seconds(work: Callable[[Picture], object], pictures: list[Picture]) -> float:
    """Least CPU seconds per picture in three rounds."""
    rounds = []
    for _ in range(3):
        begin = time.process_time()
        for picture in pictures:
            work(picture)
        rounds.append((time.process_time() - begin) / len(pictures))
    return min(rounds)


def rapidocr_pipeline() -> Callable[[Picture], object]:
    """rapidocr as its guide uses it, on one thread."""
    from rapidocr import RapidOCR

    engine = "EngineConfig.onnxruntime"
    threads = {f"{engine}.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params={**threads, "Global.use_cls": False, "Global.log_level": "critical"})


def print_costs(pictures: list[Picture]) -> None:
    """Part 1."""
    marked = list(map(with_marks, pictures))
    text_reader()
    print(f"CPU per key frame of {COLUMNS} x {ROWS}, one core, least of three rounds of {len(pictures)}")
    region = Region(0, 30, COLUMNS - 1, ROWS - 1)
    outside = cpu_seconds(lambda picture: only_regions(picture, (region,)), marked)
    print(f"  black outside the regions only: {1000 * outside:.1f} ms")
    print(f"  rapidocr's pipeline, one look: {cpu_seconds(rapidocr_pipeline(), marked):.3f} s")
    for name, set_of in (("no text", pictures), (f"{len(MARKS)} scanner marks", marked)):
        clock = Clock()
        with clock.on(TextReader, "find", "read"):
            seconds = cpu_seconds(searched, set_of)
        whole = sum(clock.seconds.values())
        shares = ", ".join(f"{part} {100 * spent / whole:.0f} %" for part, spent in clock.seconds.items())
        print(f"  both looks, {name}: {seconds:.3f} s ({1 / seconds:.1f} frames/s; {shares})")


def print_recall(pictures: list[Picture]) -> None:
    """Part 2."""
    print(f"recall, {len(pictures)} texts each: with local contrast | the detector on the plain picture")
    for contrast in CONTRASTS:
        for size in SIZES:
            planted = [with_text(one, number, size, contrast) for number, one in enumerate(pictures)]
            ours = recall(pictures, planted)
            with mock.patch.object(search_module, "local_contrast", lambda picture, **_: picture):
                plain = recall(pictures, planted)
            print(f"  {size:2d} px, contrast {contrast:.1f}: {ours:.2f} | {plain:.2f}")


def recall(fields: list[Picture], planted: list[Picture]) -> float:
    """Share of texts of which next to nothing is left."""
    gone = 0
    for plain, picture in zip(fields, planted, strict=True):
        letters = (plain != picture).any(axis=2)
        left = blackened(picture, searched(picture).masks)[letters].any(axis=-1)
        gone += left.mean() <= 0.02
    return gone / len(fields)


def print_false_masks(pictures: list[Picture]) -> None:
    """Part 3."""
    shares = []
    for picture in pictures:
        masked = blackened(np.full_like(picture, 255), searched(picture).masks)
        shares.append(float((masked == 0).mean()))
    mean, most = 100 * np.mean(shares), 100 * max(shares)
    print(f"masked of text-free speckle: {mean:.2f} % on average, {most:.2f} % at most")


def main() -> None:
    """Measure and print."""
    pictures = list(speckle())
    print_costs(pictures)
    print_recall(pictures)
    print_false_masks(pictures)


if __name__ == "__main__":
    main()
