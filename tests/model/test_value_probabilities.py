from __future__ import annotations

import numpy as np
import pytest

from sonoloop.model.value_probabilities import ValueMeter

START = b'{"organ":"breast","lesion":"present","shape":"'


def note(
    meter: ValueMeter, text: bytes, options: dict[bytes, float], chosen: bytes, forced: bytes = b""
) -> None:
    spellings = dict(enumerate(options))
    ids = {spelling: token_id for token_id, spelling in spellings.items()}
    meter.note(text, forced, spellings, np.array(list(options.values()), np.float32), ids[chosen])


def test_whole_values_have_their_own_probability() -> None:
    meter = ValueMeter(("breast",))
    note(meter, START, {b"oval": 0.7, b"round": 0.2, b"irregular": 0.06, b"not": 0.04}, b"oval")
    assert meter.probabilities() == pytest.approx({"shape": 0.7})


def test_all_spellings_of_a_value_count_for_it() -> None:
    meter = ValueMeter(("breast",))
    note(meter, START, {b"oval": 0.4, b"o": 0.2, b'oval","': 0.1, b"round": 0.2, b"r": 0.1}, b"oval")
    assert meter.probabilities() == pytest.approx({"shape": 0.7})


def test_steps_multiply_until_the_value_is_settled() -> None:
    meter = ValueMeter(("breast",))
    text = START.replace(b"shape", b"echo_pattern")
    note(meter, text, {b"hyp": 0.8, b"hetero": 0.1, b"iso": 0.1}, b"hyp")
    note(meter, text + b"hyp", {b"oechoic": 0.75, b"erechoic": 0.25}, b"oechoic")
    assert meter.probabilities() == pytest.approx({"echo_pattern": 0.6})


def test_a_settled_value_is_not_touched_by_the_way_it_is_spelled() -> None:
    meter = ValueMeter(("breast",))
    note(meter, START, {b"ov": 0.9, b"r": 0.1}, b"ov")
    note(meter, START + b"ov", {b"al": 0.5, b"a": 0.3, b'al"': 0.2}, b"a", forced=b'al"')
    assert meter.probabilities() == pytest.approx({"shape": 0.9})


def test_a_token_that_runs_over_from_forced_text_counts_for_the_value_it_begins() -> None:
    meter = ValueMeter(("breast",))
    cut = START[:-2]  # the colon and the quote are still to come
    note(meter, cut, {b':"': 0.5, b':"oval': 0.3, b':"round': 0.2}, b':"oval', forced=b':"')
    assert meter.probabilities() == pytest.approx({"shape": 0.8})


def test_the_organ_is_measured_among_those_that_may_be_named() -> None:
    meter = ValueMeter(("breast", "liver"))
    note(meter, b'{"organ":"', {b"breast": 0.6, b"liver": 0.4}, b"liver")
    assert meter.probabilities() == pytest.approx({"organ": 0.4})


def test_digits_of_a_size_multiply() -> None:
    meter = ValueMeter(("breast",))
    note(meter, START[:-10] + b'"size_mm":', {b"1": 0.5, b"2": 0.5}, b"1")
    note(meter, START[:-10] + b'"size_mm":1', {b"2": 0.5, b",": 0.5}, b"2")
    assert meter.probabilities() == pytest.approx({"size_mm": 0.25})


def test_boxes_and_keys_are_no_values() -> None:
    meter = ValueMeter(("breast",))
    note(meter, START + b'oval"', {b',"laterality"': 0.2, b',"boxes"': 0.8}, b',"boxes"')
    note(meter, START + b'oval","boxes":[[0,', {b"1": 0.5, b"2": 0.5}, b"1")
    assert meter.probabilities() == {}
