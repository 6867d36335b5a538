"""What a header says of an examination, in our own words and numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from tests.platform.archive.sense.headers_of import coded, header, real_header, region

from sonoloop.platform.archive.sense.facts import UltrasoundFacts, facts_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "GREYSCALE_IMAGE.dcm",
            {
                "organ_hint": "kidney",
                "scanner": "Philips EPIQ 5G",
                "vendor": "Philips",
                "transducer": "L12-5",
                "modes": ("b-mode",),
                "mm_per_pixel": pytest.approx((0.0649, 0.0649), rel=1e-3),
            },
        ),
        (
            "RGB_IMAGE.dcm",
            {"organ_hint": "liver", "scanner": "Siemens S2000", "transducer": "6C1 HD", "modes": ("b-mode",)},
        ),
        (
            "ultrasound-multiframe.dcm",
            {"organ_hint": "heart", "modes": ("b-mode", "colour-doppler"), "frame_time_ms": 54.241},
        ),
        (
            "JPGLosslessP14SV1_1s_1f_8b.dcm",
            {"organ_hint": "heart", "scanner": "Philips EPIQ 7C", "transducer": "S5-1", "modes": ("b-mode",)},
        ),
        (
            "OBXXXX1A.dcm",
            {"organ_hint": None, "scanner": "Philips CX50", "transducer": "C5-1", "modes": ("b-mode",)},
        ),
        (
            "gdcm-US-ALOKA-16.dcm",
            {
                "vendor": "Hitachi",
                "laterality": "right",
                "modes": ("b-mode", "dual-view"),
                "transducer": None,
            },
        ),
        (
            "color-pl.dcm",
            {"organ_hint": "heart", "vendor": None, "modes": ("b-mode", "colour-doppler")},
        ),
        (
            "examples_ybr_color.dcm",
            {
                "vendor": "Fujifilm Sonosite",
                "transducer": None,
                "mm_per_pixel": None,
                "frame_time_ms": 33.333,
            },
        ),
        ("examples_rgb_color.dcm", {"organ_hint": None, "scanner": "GE LOGIQ 700", "modes": ()}),
    ],
)
def test_the_headers_of_real_files_give_these_facts(name: str, expected: dict[str, Any]) -> None:
    facts = facts_of(real_header(name))
    assert {key: getattr(facts, key) for key in expected} == expected


def test_an_empty_header_gives_no_facts() -> None:
    assert facts_of(Dataset()) == UltrasoundFacts()


def test_elements_that_cannot_be_converted_count_as_absent() -> None:
    dataset = header(BodyPartExamined="LIVER")
    for keyword, vr in (("FrameTime", "DS"), ("Rows", "US"), ("CineRate", "IS"), ("ImageType", "XX")):
        tag = Tag(keyword)
        dataset._dict[tag] = RawDataElement(tag, vr, 3, b"\xff\xfe!", 0, False, True)
    assert facts_of(dataset) == UltrasoundFacts(organ_hint="liver")


@pytest.mark.parametrize(
    ("elements", "organ"),
    [
        ({"BodyPartExamined": "LIVER", "StudyDescription": "US liver and kidney"}, "liver"),
        ({"BodyPartExamined": "LIVER", "SeriesDescription": "kidney"}, None),
        ({"StudyDescription": "US liver and kidney"}, None),
        ({"AnatomicRegionSequence": coded("64033007", "SCT")}, "kidney"),
        ({"AnatomicRegionSequence": coded("T-71000", "SRT")}, "kidney"),
        ({"AnatomicRegionSequence": coded("T-71000", "SNM3")}, "kidney"),
        ({"AnatomicRegionSequence": coded("64033007", "99OWN")}, None),
        ({"AnatomicRegionSequence": coded("1", "99OWN", "Thyroid")}, "thyroid"),
        ({"AnatomicRegionSequence": coded("86117002", "SCT")}, "vessel"),
        ({"ViewCodeSequence": coded("1", "99OWN", "Parasternal view of heart")}, "heart"),
        ({"ProcedureCodeSequence": coded("93306", "C4", "ECHOCARDIOGRAPHY")}, "heart"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "BREAST", "0001"]}, "breast"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "BREAST"], "BodyPartExamined": "THYROID"}, "thyroid"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "EPICARDIAL"]}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "SMALL PARTS"]}, None),
    ],
)
def test_codes_and_words_must_agree_and_the_preset_counts_only_without_them(
    elements: dict[str, Any], organ: str | None
) -> None:
    assert facts_of(header(**elements)).organ_hint == organ


@pytest.mark.parametrize(
    ("elements", "side"),
    [
        ({"Laterality": "R"}, "right"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "left"),
        ({"ImageLaterality": "B"}, "bilateral"),
        ({"ImageLaterality": "U", "SeriesDescription": "Niere links"}, "left"),
        ({"ViewName": "LT KIDNEY", "StudyDescription": "kidneys, both sides"}, "left"),
        ({"StudyDescription": "Sonographie beider Mammae bds."}, "bilateral"),
        ({"SeriesDescription": "left and right breast"}, "bilateral"),
        ({"BodyPartExamined": "HEART", "SeriesDescription": "left ventricle"}, None),
        ({"BodyPartExamined": "LIVER", "SeriesDescription": "right lobe"}, None),
        (
            {
                "AnatomicRegionSequence": coded(
                    "64033007", "SCT", AnatomicRegionModifierSequence=coded("7771000", "SCT")
                )
            },
            "left",
        ),
        ({"StudyDescription": "brightness, leftover"}, None),
    ],
)
def test_the_side_comes_from_what_is_nearest_to_the_picture(
    elements: dict[str, Any], side: str | None
) -> None:
    assert facts_of(header(**elements)).laterality == side


@pytest.mark.parametrize(
    ("manufacturer", "vendor"),
    [
        ("GE Healthcare", "GE"),
        ("G.E. Medical Systems", "GE"),
        ("GEMS Ultrasound", "GE"),
        ("Kretztechnik", "GE"),
        ("GE Vingmed Ultrasound", "GE"),
        ("Philips Medical Systems", "Philips"),
        ("ATL", "Philips"),
        ("Agilent Technologies", "Philips"),
        ("Hewlett-Packard Company", "Philips"),
        ("SIEMENS", "Siemens"),
        ("ACUSON", "Siemens"),
        ("TOSHIBA_MEC_US", "Canon"),
        ("CANON_MEC", "Canon"),
        ("SAMSUNG MEDISON CO., LTD.", "Samsung Medison"),
        ("MEDISON", "Samsung Medison"),
        ("Mindray", "Mindray"),
        ("FUJIFILM SonoSite, Inc.", "Fujifilm Sonosite"),
        ("ALOKA CO., LTD.", "Hitachi"),
        ("FUJIFILM Healthcare Corporation", "Hitachi"),
        ("Esaote", "Esaote"),
        ("SuperSonic Imagine SA", "SuperSonic Imagine"),
        ("B-K Medical", "BK Medical"),
        ("BK Ultrasound", "BK Medical"),
        ("Clarius Mobile Health Corp.", "Clarius"),
        ("Butterfly Network", "Butterfly"),
        ("ZONARE Medical Systems", "Zonare"),
        ("Ultrasonix", "Ultrasonix"),
        ("Terason", "Terason"),
        ("Verathon Inc.", "Verathon"),
        ("KONICA MINOLTA", "Konica Minolta"),
        ("ALPINION MEDICAL SYSTEMS", "Alpinion"),
        ("VINNO", "VINNO"),
        ("SonoScape", "SonoScape"),
        ("TELEMED", "Telemed"),
        ("Acme Products", None),
        ("Genesis", None),
    ],
)
def test_makers_are_known_by_their_names_and_by_those_they_bought(
    manufacturer: str, vendor: str | None
) -> None:
    assert facts_of(header(Manufacturer=manufacturer)).vendor == vendor


def test_a_header_without_a_maker_is_known_by_the_family_of_its_model() -> None:
    facts = facts_of(header(ManufacturerModelName="LOGIQ E10"))
    assert (facts.vendor, facts.scanner) == ("GE", "GE LOGIQ E10")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("LOGIQ E9", "GE LOGIQ E9"),
        ("LOGIQ E9 SN 41218855", "GE LOGIQ E9 SN"),
        ("LOGIQ 17.05.1949", "GE LOGIQ"),
        ("LOGIQ 1949-05-17 E9", "GE LOGIQ E9"),
        ("LOGIQ ZIMMERMANN Adelheid E9", "GE LOGIQ E9"),
        ("LOGIQ Nowhere", "GE LOGIQ"),
        ("LOGIQ PID-47", "GE LOGIQ"),
        ("Zimmermann,Adelheid", "GE"),
        ("<script>", "GE script"),
        ("日本", "GE"),
        ("GE Vivid", "GE Vivid"),
        ("X" * 200, "GE " + "X" * 48),
    ],
)
def test_a_device_name_keeps_nothing_that_could_name_a_person(model: str, expected: str) -> None:
    dataset = header(
        Manufacturer="GE",
        ManufacturerModelName=model,
        PatientName="ZIMMERMANN^ADELHEID",
        PatientID="PID-47",
        InstitutionName="Hospital Nowhere",
    )
    assert facts_of(dataset).scanner == expected
    dataset.TransducerData = [model, "55360", ""]
    assert facts_of(dataset).transducer == (
        expected.removeprefix("GE").strip() or None if model != "GE Vivid" else model
    )


def test_a_transducer_of_digits_alone_gives_way_to_its_type() -> None:
    dataset = header(TransducerData=["50.80.103.002", "", ""], TransducerType="CURVED LINEAR")
    assert facts_of(dataset).transducer == "CURVED LINEAR"


@pytest.mark.parametrize(
    ("elements", "modes"),
    [
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "TTE", "0019"]},
            ("b-mode", "colour-doppler", "spectral-doppler"),
        ),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "0142"]}, ("m-mode", "power-doppler", "3d")),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "ZZZZ"]}, ()),
        ({"SeriesDescription": "Shear Wave Elastography"}, ("elastography",)),
        ({"SeriesDescription": "Kontrastmittel CEUS"}, ("contrast",)),
        ({"SeriesDescription": "甲状腺弹性成像"}, ("elastography",)),
        ({"ProtocolName": "Power Doppler"}, ("power-doppler",)),
        ({"ProcessingFunction": "TDI_ADULT"}, ("tissue-doppler",)),
        ({"SeriesDescription": "M-Mode"}, ("m-mode",)),
        ({"SeriesDescription": "DUAL"}, ("dual-view",)),
        ({"StudyDescription": "contrast, elastography"}, ()),
        ({"UltrasoundColorDataPresent": 1, "PhotometricInterpretation": "RGB"}, ("colour-doppler",)),
        ({"UltrasoundColorDataPresent": 1, "PhotometricInterpretation": "PALETTE COLOR"}, ()),
        (
            {
                "UltrasoundColorDataPresent": 1,
                "PhotometricInterpretation": "RGB",
                "SeriesDescription": "Elasto",
            },
            ("elastography",),
        ),
    ],
)
def test_modes_come_from_bits_words_and_flags(elements: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert facts_of(header(**elements)).modes == modes


def test_modes_come_from_regions_too() -> None:
    duplex = [
        region(0, 0, 299, 239),
        region(50, 50, 100, 100, RegionDataType=2),
        region(0, 240, 639, 479, RegionSpatialFormat=3, RegionDataType=3),
    ]
    facts = facts_of(header(SequenceOfUltrasoundRegions=duplex))
    assert facts.modes == ("b-mode", "colour-doppler", "spectral-doppler")
    m_mode = region(0, 240, 639, 479, RegionSpatialFormat=2)
    assert facts_of(header(SequenceOfUltrasoundRegions=[m_mode])).modes == ("m-mode",)


def test_one_scale_is_given_where_all_2d_regions_have_the_same() -> None:
    same = [region(0, 0, 99, 99), region(100, 0, 199, 99), region(0, 100, 199, 199, RegionSpatialFormat=3)]
    assert facts_of(header(SequenceOfUltrasoundRegions=same)).mm_per_pixel == pytest.approx((0.2, 0.3))
    other = [region(0, 0, 99, 99), region(100, 0, 199, 99, PhysicalDeltaX=0.01)]
    assert facts_of(header(SequenceOfUltrasoundRegions=other)).mm_per_pixel is None


def test_graphics_beside_the_pixels_and_measurements_in_the_header_are_noted() -> None:
    plain = facts_of(header())
    assert (plain.has_overlays, plain.has_measurements) == (False, False)
    overlay = header()
    overlay.add_new(0x60020010, "US", 480)
    graphics = header(SequenceOfUltrasoundRegions=[region(0, 0, 9, 9, RegionSpatialFormat=5)])
    annotated = header(GraphicAnnotationSequence=[Dataset()])
    assert all(facts_of(dataset).has_overlays for dataset in (overlay, graphics, annotated))
    traced = header(SequenceOfUltrasoundRegions=[region(0, 0, 9, 9, RegionDataType=7)])
    private = header()
    private.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x5D, "ST", "mm")
    assert all(facts_of(dataset).has_measurements for dataset in (traced, private))


@pytest.mark.parametrize(
    ("elements", "frame_time_ms"),
    [
        ({"FrameTime": 40}, 40),
        ({"FrameTime": 0, "CineRate": 20}, 50),
        ({"FrameTimeVector": [0, 30, 50]}, 40),
        ({"RecommendedDisplayFrameRate": 25}, 40),
        ({"FrameTime": 10**9}, None),
        ({}, None),
    ],
)
def test_the_time_between_frames_is_in_milliseconds(
    elements: dict[str, Any], frame_time_ms: float | None
) -> None:
    facts = facts_of(header(**elements))
    assert facts.frame_time_ms == frame_time_ms
    assert facts.frame_rate_hz == (1000 / frame_time_ms if frame_time_ms else None)


def test_no_description_name_or_identifier_is_kept_in_a_fact() -> None:
    secret = "Zimmermann liver left 4711"
    dataset = header(
        PatientName="ZIMMERMANN^ADELHEID",
        StudyDescription=secret,
        SeriesDescription=secret,
        ProtocolName=secret,
        ViewName=secret,
        BodyPartExamined="LIVER ZIMMERMAN",
        ImageType=["ORIGINAL", "PRIMARY", "ZIMMERMANN", "0001"],
        AnatomicRegionSequence=coded("1", "2", secret),
    )
    kept = [str(getattr(facts_of(dataset), field.name)).casefold() for field in fields(UltrasoundFacts)]
    assert not any(word in value for value in kept for word in ("zimmerman", "4711"))
