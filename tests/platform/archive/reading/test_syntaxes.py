"""Every transfer syntax, against the pixels that went in and against a second decoder.

Tolerances: none for lossless syntaxes and grey; 3 of 255 where RGB was turned into YCbCr and back (rounding);
for lossy colour 2 on average between two decoders of one codestream, which widen the chroma differently.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import pydicom
import pytest
from dicom_files import as_ultrasound, encapsulated, jpeg, real_file, speckle, ultrasound
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.pixels import pixel_array

from sonoloop.platform.archive.instance import Frame
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.archive.reading.pixels import to_uint8
from sonoloop.platform.errors import Reason, RejectedError

ROW, COLUMN = np.mgrid[0:96, 0:128]
SMOOTH = np.stack([ROW * 2, COLUMN * 2, (ROW * COLUMN // 48)], axis=-1).astype(np.uint8)
"""A colour picture without noise, so that chroma survives being halved."""
DEEP = (ROW * 128 + COLUMN).astype(np.uint16) % 4096
PIXELS = {
    "grey": speckle(1),
    "colour": speckle(2, channels=3),
    "12 bits": DEEP,
    "signed": (DEEP.astype(np.int16) - 2048),
}


def frame_of(data: bytes, index: int = 0) -> Frame:
    return open_instance(io.BytesIO(data), name="x").frame(index)


def object_of(pixels: NDArray[np.generic], **header: object) -> pydicom.FileDataset:
    depth = {} if pixels.dtype == np.uint8 else {"BitsStored": 12, "HighBit": 11}
    sign = {"PixelRepresentation": 1} if pixels.dtype == np.int16 else {}
    return pydicom.dcmread(io.BytesIO(ultrasound(pixels, **{**depth, **sign, **header})))


def written(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian", "deflated"])
def test_uncompressed_pixels_come_out_as_they_went_in(kind: str, syntax: str) -> None:
    pixels = PIXELS[kind]
    dataset = object_of(pixels)
    dataset.file_meta.TransferSyntaxUID = {
        "implicit": uid.ImplicitVRLittleEndian,
        "explicit": uid.ExplicitVRLittleEndian,
        "big endian": uid.ExplicitVRBigEndian,
        "deflated": uid.DeflatedExplicitVRLittleEndian,
    }[syntax]
    if syntax == "big endian":
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer,
        dataset,
        implicit_vr=syntax == "implicit",
        little_endian=syntax != "big endian",
        force_encoding=True,
    )
    instance = open_instance(io.BytesIO(buffer.getvalue()), name="x")
    assert instance.transfer_syntax == dataset.file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(instance.frame(0), to_uint8(pixels))


@pytest.mark.parametrize("num_frames", [1, 3])
def test_big_endian_words_of_two_8_bit_pixels_are_swapped_also_where_frames_are_odd(num_frames: int) -> None:
    loop = np.random.default_rng(0).integers(0, 256, (num_frames, 7, 9), dtype=np.uint8)
    dataset = object_of(loop[0], NumberOfFrames=num_frames)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    plain = loop.tobytes() + bytes(loop.size % 2)
    dataset.PixelData = np.frombuffer(plain, np.uint16).byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    for index in range(num_frames):
        np.testing.assert_array_equal(frame_of(buffer.getvalue(), index), loop[index])


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_lossless_syntaxes_give_back_what_was_compressed(kind: str, syntax: uid.UID) -> None:
    dataset = object_of(PIXELS[kind])
    colour = {"photometric_interpretation": "RGB"} if kind == "colour" else {}
    dataset.compress(syntax, generate_instance_uid=False, **({} if syntax == uid.RLELossless else colour))
    np.testing.assert_array_equal(frame_of(written(dataset)), to_uint8(PIXELS[kind]))
    second = pixel_array(dataset, decoding_plugin="pydicom" if syntax == uid.RLELossless else "gdcm")
    np.testing.assert_array_equal(frame_of(written(dataset)), to_uint8(second))


@pytest.mark.parametrize("name", ["JPGLosslessP14SV1_1s_1f_8b.dcm", "SC_rgb_jpeg_gdcm.dcm", "JPEG-LL.dcm"])
@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_lossless_jpeg_is_what_a_second_decoder_sees(name: str, syntax: uid.UID) -> None:
    dataset = pydicom.dcmread(io.BytesIO(as_ultrasound(name)))
    dataset.file_meta.TransferSyntaxUID = syntax  # selection value 1 is one of process 14's
    for plugin in ("gdcm", "pylibjpeg"):
        second = pixel_array(dataset, decoding_plugin=plugin)
        np.testing.assert_array_equal(frame_of(written(dataset)), to_uint8(second))


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("JPGExtended.dcm", "pylibjpeg"),  # 12 bits, of which no second decoder here is capable
        ("JPEGLSNearLossless_08.dcm", "gdcm"),
        ("JPEGLSNearLossless_16.dcm", "gdcm"),
        ("SC_rgb_jls_lossy_line.dcm", "pylibjpeg"),
        ("SC_rgb_jls_lossy_sample.dcm", "pylibjpeg"),
        ("JPEG2000.dcm", "gdcm"),
        ("693_J2KI.dcm", "gdcm"),
        ("J2K_pixelrep_mismatch.dcm", "gdcm"),
        ("GDCMJ2K_TextGBR.dcm", "gdcm"),
        ("SC_rgb_rle.dcm", "pydicom"),
        ("SC_rgb_rle_16bit_2frame.dcm", "pydicom"),
        ("MR_small_RLE.dcm", "pydicom"),
    ],
)
def test_real_files_decode_as_with_a_second_decoder(name: str, plugin: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(as_ultrasound(name)))
    for keyword in ("WindowWidth", "WindowCenter", "RescaleSlope", "RescaleIntercept"):
        if keyword in dataset:
            delattr(dataset, keyword)
    second = pixel_array(dataset, index=0, decoding_plugin=plugin)
    np.testing.assert_array_equal(frame_of(written(dataset)), to_uint8(second))


@pytest.mark.parametrize(
    "name", ["examples_ybr_color.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm"]
)
def test_lossy_colour_is_what_a_second_decoder_sees(name: str) -> None:
    second = pixel_array(pydicom.dcmread(io.BytesIO(as_ultrasound(name))), index=0, decoding_plugin="gdcm")
    frame = frame_of(as_ultrasound(name))
    assert np.abs(frame.astype(int) - second).mean() < 2
    assert np.abs(frame.mean(axis=(0, 1)) - second.mean(axis=(0, 1))).max() < 1  # the hue of the whole


def test_high_throughput_jpeg_2000_is_decoded() -> None:
    row, column = np.mgrid[0:32, 0:48]
    pixels = np.stack([row * 8 % 256, column * 5 % 256, row * column // 4 % 256], axis=-1).astype(np.uint8)
    for syntax in (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K):
        data = encapsulated([HTJ2K], syntax, pixels, photometric="YBR_RCT")
        np.testing.assert_array_equal(frame_of(data), pixels)


@pytest.mark.parametrize("lossless", [True, False])
def test_jpeg_xl_is_decoded(lossless: bool) -> None:
    for pixels in (SMOOTH, speckle(3) // 4 + 96):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JXL", lossless=lossless)
        frame = frame_of(encapsulated([buffer.getvalue()] * 2, "1.2.840.10008.1.2.4.112", pixels), 1)
        assert np.abs(frame.astype(int) - pixels).mean() < (1e-9 if lossless else 6)


def ycbcr(pixels: Frame) -> Frame:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def rename_components(stream: bytes, names: bytes) -> bytes:
    """Other component names in a JPEG's frame and scan headers, and no JFIF or Adobe marker."""
    stream = bytearray(stream)
    for marker, first, step in ((b"\xff\xc0\x00\x11", 10, 3), (b"\xff\xda\x00\x0c", 5, 2)):
        place = stream.index(marker) + first
        for number, name in enumerate(names):
            stream[place + number * step] = name
    for marker in (b"\xff\xe0", b"\xff\xee"):
        if (place := stream.find(marker)) >= 0:
            del stream[place : place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")]
    return bytes(stream)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize(
    "stream",
    [
        jpeg(SMOOTH),
        jpeg(SMOOTH, subsampling=0),
        jpeg(SMOOTH, keep_rgb=True),
        rename_components(jpeg(SMOOTH, keep_rgb=True), b"RGB"),
        rename_components(jpeg(SMOOTH), b"\x01\x02\x03"),
    ],
    ids=["JFIF 4:2:0", "JFIF 4:4:4", "Adobe RGB", "components named RGB", "unmarked 4:2:0"],
)
def test_a_jpeg_that_says_what_its_colours_are_is_believed_and_not_the_header(
    stream: bytes, photometric: str
) -> None:
    frame = frame_of(encapsulated([stream], uid.JPEGBaseline8Bit, SMOOTH, photometric=photometric))
    assert np.abs(frame.astype(int) - SMOOTH).mean() < 3


def test_a_jpeg_that_does_not_say_what_its_colours_are_is_what_the_header_says() -> None:
    for photometric, stream in (
        ("RGB", rename_components(jpeg(SMOOTH, keep_rgb=True), b"\x01\x02\x03")),
        ("YBR_FULL", rename_components(jpeg(SMOOTH, subsampling=0), b"\x01\x02\x03")),
    ):
        frame = frame_of(encapsulated([stream], uid.JPEGBaseline8Bit, SMOOTH, photometric=photometric))
        assert np.abs(frame.astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
def test_jpeg_2000_undoes_the_transform_that_its_codestream_names(photometric: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "JPEG2000", mct=1, no_jp2=True)
    data = encapsulated([buffer.getvalue()], uid.JPEG2000Lossless, SMOOTH, photometric=photometric)
    np.testing.assert_array_equal(frame_of(data), SMOOTH)


@pytest.mark.parametrize(
    ("photometric", "stored"), [("RGB", SMOOTH), ("YBR_RCT", SMOOTH), ("YBR_FULL", ycbcr(SMOOTH))]
)
def test_jpeg_2000_without_a_transform_holds_what_the_header_says(photometric: str, stored: Frame) -> None:
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG2000", mct=0, no_jp2=True)
    frame = frame_of(encapsulated([buffer.getvalue()], uid.JPEG2000Lossless, SMOOTH, photometric=photometric))
    np.testing.assert_allclose(frame, SMOOTH, atol=3)  # there and back between RGB and YCbCr


def test_real_pairs_hold_the_same_picture() -> None:
    for lossless, plain in (("US1_J2KR.dcm", "US1_UNCR.dcm"), ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm")):
        np.testing.assert_array_equal(frame_of(real_file(lossless)), frame_of(real_file(plain)))
    lossy, plain = frame_of(real_file("US1_J2KI.dcm")), frame_of(real_file("US1_UNCI.dcm"))
    assert np.abs(lossy.astype(int) - plain).mean() < 3


def test_luminance_and_chroma_are_turned_into_rgb() -> None:
    full = ycbcr(SMOOTH)
    halved = np.concatenate([full[:, ::2, :1], full[:, 1::2, :1], full[:, ::2, 1:]], axis=-1)
    partial = halved.astype(float)
    partial[..., :2] = partial[..., :2] * 219 / 255 + 16
    partial[..., 2:] = (partial[..., 2:] - 128) * 224 / 255 + 128
    for stored, photometric, tolerance in (
        (full, "YBR_FULL", 3),
        (halved, "YBR_FULL_422", 6),  # half of the chroma is the neighbour's
        (partial.round().astype(np.uint8), "YBR_PARTIAL_422", 8),
        (full, "YBR_FULL_422", 3),  # all of the chroma under the label of half
    ):
        frame = frame_of(ultrasound(SMOOTH, photometric=photometric, PixelData=stored.tobytes()))
        np.testing.assert_allclose(frame, SMOOTH, atol=tolerance)


def test_a_compressed_frame_of_another_kind_than_its_syntax_is_refused() -> None:
    for frame in (b"GIF89a" + bytes(100), bytes(2), bytes(200)):
        with pytest.raises(RejectedError) as refused:
            frame_of(encapsulated([frame], uid.JPEG2000Lossless, SMOOTH))
        assert refused.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    "header",
    [
        {"BitsAllocated": 1},
        {"SamplesPerPixel": 4, "photometric": "CMYK"},
        {"SamplesPerPixel": 3},
        {"photometric": "ZIMMERMANN"},
    ],
    ids=str,
)
def test_pixels_that_no_scanner_writes_are_refused(header: dict[str, object]) -> None:
    with pytest.raises(RejectedError) as refused:
        frame_of(ultrasound(speckle(), **header))
    assert refused.value.reason == Reason.UNREADABLE
    assert "ZIMMERMANN" not in str(refused.value)


def test_a_transfer_syntax_that_nothing_here_decodes_is_refused() -> None:
    for syntax in ("1.2.840.10008.1.2.4.94", "1.2.3.4.5"):  # JPIP; private
        with pytest.raises(RejectedError) as refused:
            frame_of(encapsulated([b"x"], syntax, SMOOTH))
        assert refused.value.reason == Reason.UNREADABLE


HTJ2K = base64.b64decode(
    "/0//UQAvQAAAAAAwAAAAIAAAAAAAAAAAAAAAMAAAACAAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAA/9SAAwAAgABAQUEBEAB"
    "/1wAEyBQWFhYWFhYWFhYWFhYUFBQ/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAA2wAAf+TwBMA28QBAXQAwBMABLcA"
    "QjQAwBMAlr0AQjQAwAkgBNACMP0ncwBIlABCNAAAYwDACSAE8AIw/idzAAFY/gBiNAAncwDACWAE4PoAR3QAIkX+AGI0AMAJoATw"
    "AlCs/YALdACk9QAkd1UA1wANxADACaAFRACotrEBHoQARgD+AOT31QAX1P5AQvfVAMAJoAVI2+2Ai3QAkBDIAAAAd1YAwAqYAVkA"
    "KkCmELz9zB7CdQDQ1FnM8uAIl8nstwADECXj6AQJxQDACrgBWwArQCsbIAnjzHiwAVYAQAR1g3P34Ylgiey3ALACQGTS+MAQPJ3T"
    "5wDACogBWq219tpwAnUASARBEOTgCPYQgey4AMALUgBa8ALTQErWaYAwaKb8j+Bkk9IdOkcYawCORkikHWhi1Nmh/sCFPEnv2Sey"
    "wDPNAKIw47C83AUI+P7AMF6KWAGWWgDAC14AW3AC1RV9YilMGIkFNU2h87QAacem2YSlwnwAQgLwQCDlBCTHtT6kA/v+wOKe5Pft"
    "Psohll0ATDo8n6KF5zYbWAD+2AYLHFEElloAwArIAWuAVVVVVfPwp6enwngAohBCCCGEEOL/EAAAHv2AAHv2AAHsvwDAF6LAF6HA"
    "F6MAAAAEEAAAAKDAj+WyjvveM49lAG7rNwVgj9B2AEFIDFrBaxGXAHoBfHw8HhBUpKlJUpLlNgpsFNlPl8Hg8L5+Bj8DH40CAAAA"
    "wLb7sU5rHocSAQAS1bKubw0yAAGrtvwoAE950ENe49B/uvcezy6T3gHqIAUuONGlhWFYVhWFYURDRo0VCoVMAgAAAAAAAAD43/vg"
    "/TrfA4R8r88DAKADsnV1rAda261t0VhHosFgIiuv4vi+B6CHoIegqltUtqlsWCwWL4vi+BeQLyBeQAPAF1MAXXwBdIDJX7//ePnz"
    "+vj+fj/PDxCA7/3+PR+R/X8hMDJMGjLhD0cSEpS05UJzAe7t+/f6/Hp+fDiAAhLp5PX2h3ogEgnR/3opFntVBCSe/aXv3fftOSe8"
    "Q9FEllgB/r/f3+/fn78fwJ8fQD8A/v96KQApqpspSlKUsovGPRBAVlQBwBacAW8ASZIkSZIk/X+Ap6enp6enp0J9AG7btm3btm3b"
    "tv974BJ79knv2Se/ZJ79knv2Sey1Af/Z"
)
"""32 x 48 pixels, RGB, reversible, as OpenJPH 0.26.3 compressed them: no encoder is installed here."""
