"""Scanner marks are known; nothing that could name or date somebody is one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoloop.platform.archive.deidentify.marks import is_harmless, is_word

MARKS = """75 bpm|cm/s|X2|-59.3|2.5MHz|WF 384Hz|3850Hz|68%|CF|HGen|P Low|PLow|C 50|2D|+59.3|M3 M4|MapE/ST2|THI
|20dB/DR60|H4.00 MHz|2D--100%|19fps|MI: 1.4|TIB: 0.5|*Renal|6C1 HD|SIEMENS|4.0cm-|Dyn R 58|L12-5|TIS0.0 MI 0.6
|Adv Breast|- Depth 4 cm|Gn 55 DR 63|OM/C/3/H/TV3|-15L4|RT BREAST 3:00|9 o'clock|1 Dist 1.25 cm|+ D 12.3 mm
|Rt Kidney Long|A4C|LV EDV 120 ml|MI 0,9|Rechte Niere längs|Foie|PRF 1.5 kHz|C5-1s|IC5-9-D|FR 36Hz|60|0.6"""
OTHERS = """MUELLER, ANNA|Schmidt Peter|PID-471108|17.05.1949|17.05|17 05 1949|05/12/1961|8:48:26 AM 4/14/2020
|120907058|DOB|30 M|M 30|45Y|F|7-OCT-2016|01:07:45 PM|AGMC Sports Medicine|1949|Zimmermann|Dr. Weber|May
|Li|René|Mary Right|12-05-61|1949-05-17|20200414|ACC 90210|A12345|M3 1949|55 12 33|0171 555|555-1234
|555 - 1234||...|*|Gn 17 05 49|1 2 3|Liver Mary|Gray|M 17 05 49|rt hip inj John|王芳|Иванов|60% Anna"""
NAMES = [
    "smith",
    "johnson",
    "williams",
    "brown",
    "jones",
    "garcia",
    "miller",
    "davis",
    "rodriguez",
    "martinez",
    "lopez",
    "wilson",
    "anderson",
    "thomas",
    "taylor",
    "moore",
    "jackson",
    "martin",
    "lee",
    "perez",
    "thompson",
    "white",
    "harris",
    "clark",
    "lewis",
    "robinson",
    "walker",
    "young",
    "allen",
    "king",
    "wright",
    "scott",
    "torres",
    "nguyen",
    "hill",
    "flores",
    "green",
    "adams",
    "nelson",
    "baker",
    "rivera",
    "campbell",
    "mitchell",
    "carter",
    "roberts",
    "mueller",
    "schmidt",
    "schneider",
    "fischer",
    "weber",
    "meyer",
    "wagner",
    "becker",
    "schulz",
    "hoffmann",
    "wang",
    "li",
    "zhang",
    "liu",
    "chen",
    "yang",
    "huang",
    "zhao",
    "wu",
    "zhou",
    "kim",
    "park",
    "choi",
    "mary",
    "james",
    "john",
    "robert",
    "patricia",
    "jennifer",
    "michael",
    "linda",
    "elizabeth",
    "william",
    "barbara",
    "david",
    "susan",
    "richard",
    "joseph",
    "sarah",
    "charles",
    "karen",
    "anna",
    "peter",
    "hans",
    "maria",
    "jose",
    "ana",
    "luis",
    "sato",
    "suzuki",
    "tanaka",
    "ivanov",
    "rossi",
    "russo",
    "bianchi",
    "dubois",
    "durand",
    "bernard",
    "moreau",
    "laurent",
    "simon",
    "silva",
    "santos",
    "gray",
    "grey",
    "rose",
    "frank",
    "paul",
    "may",
    "june",
    "april",
    "august",
]


@pytest.mark.parametrize("text", [text.strip() for text in MARKS.split("|")])
def test_scanner_marks_are_harmless(text: str) -> None:
    assert is_harmless(text)


@pytest.mark.parametrize("text", [text.strip() for text in OTHERS.split("|")])
def test_names_dates_times_ages_and_numbers_are_not(text: str) -> None:
    assert not is_harmless(text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(MARKS.split("|")), st.sampled_from([" ", ", ", " / ", "^"]))
def test_no_mark_makes_a_name_harmless(name: str, mark: str, between: str) -> None:
    for written in (name, name.title(), name.upper()):
        assert not is_harmless(written)
        assert not is_harmless(f"{written}{between}{mark}")
        assert not is_harmless(f"{mark}{between}{written}")


@settings(max_examples=300, deadline=None)
@given(
    st.dates(),
    st.sampled_from(
        [
            "%d.%m.%Y",
            "%m/%d/%Y",
            "%Y-%m-%d",
            "%Y%m%d",
            "%d-%b-%Y",
            "%d %B %Y",
            "%d.%m.%y",
            "%d %m %Y",
            "%b %d, %Y",
        ]
    ),
    st.sampled_from(["{}", "DOB {}", "2D {}", "{} MI 0.6", "*{}", "Gn {}"]),
)
def test_no_date_is_harmless(day, form: str, around: str) -> None:  # type: ignore[no-untyped-def]
    assert not is_harmless(around.format(day.strftime(form)))


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"[A-Za-z]{0,3}[- ]?[0-9]{5,12}", fullmatch=True))
def test_no_long_number_is_harmless(text: str) -> None:
    assert not is_harmless(text)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    assert is_harmless(text) in (True, False)


def test_organs_sides_and_the_lexicons_words_are_words() -> None:
    assert all(map(is_word, ("Liver", "LEBER", "foie", "rechts", "hypoechoic", "Längs")))
    assert not any(map(is_word, ("Mary", "m", "f", "")))
