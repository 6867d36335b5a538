"""The schema under a real grammar engine: what it admits, and that whatever it admits can be read.

The tokenizer is the embedded model's; it never saw the words of the later organs and spells them in pieces.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

from sonoloop.model import nano
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform.lexicon import (
    ORGANS,
    Organ,
    generation_schema,
    longest_text,
    numeric_fields,
    parse_generated,
    qualifiers,
)

LIVER = (
    '{"organ":"liver","parenchyma":"normal","lesion":"present","echogenicity":"anechoic",'
    '"margin":"well-defined","posterior_features":"enhancement",'
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return EchoVLMProcessor.from_folder(nano.folder()).tokenizer


@pytest.fixture(scope="module")
def ll_tokenizer(tokenizer: PreTrainedTokenizerFast) -> LLTokenizer:
    return from_tokenizer(tokenizer, n_vocab=len(tokenizer))


def matcher(ll_tokenizer: LLTokenizer, organs: tuple[Organ, ...], num_images: int) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(
        json.dumps(generation_schema(organs, num_images=num_images)),
        overrides={"whitespace_flexible": False, "item_separator": ","},
    )
    made = LLMatcher(ll_tokenizer, grammar)
    assert not made.is_error(), made.get_error()
    return made


def walk(made: LLMatcher, size: int, rng: random.Random) -> list[int]:
    """The tokens of one answer, each drawn from those that may come next."""
    ids: list[int] = []
    while not made.is_stopped():
        bits = np.unpackbits(np.frombuffer(made.compute_bitmask(), dtype=np.uint8), bitorder="little")
        ids.append(int(rng.choice(np.flatnonzero(bits[:size]).tolist())))
        assert made.consume_token(ids[-1])
    return ids


@pytest.mark.parametrize("organs", [*((organ,) for organ in ORGANS), ORGANS])
def test_random_answers_are_read_and_stay_within_the_bound(
    tokenizer: PreTrainedTokenizerFast, ll_tokenizer: LLTokenizer, organs: tuple[Organ, ...]
) -> None:
    rng, start = random.Random(0), matcher(ll_tokenizer, organs, 3)
    seen: set[str] = set()
    for _ in range(60):
        ids = walk(start.deep_copy(), len(tokenizer), rng)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        entities, _ = parse_generated(text, num_images=3)
        assert entities.organ in organs
        assert len(ids) - 1 <= len(text.encode()) <= longest_text(organs, 3)  # the last token is the end
        seen |= {name for name in qualifiers(entities.organ) if name in entities.flat()}
    assert seen, "no answer had a qualifier"


@pytest.mark.parametrize(
    ("rest", "is_admitted"),
    [
        ('"boxes":[]}', True),
        ('"segment":"IVa","size_mm":400,"boxes":[[2,0,0,100,100]]}', True),
        ('"size_mm":1,"boxes":[]}', True),
        ('"size_mm":0,"boxes":[]}', False),
        ('"size_mm":401,"boxes":[]}', False),
        ('"size_mm":12.5,"boxes":[]}', False),
        ('"size_mm":"12","boxes":[]}', False),
        ('"size_mm":12}', False),
        ('"size_mm":12,"segment":"IVa","boxes":[]}', False),
        ('"segment":"not assessed","boxes":[]}', False),
        ('"lobe":"left lobe","boxes":[]}', False),
        ('"segment": "IVa","boxes":[]}', False),
        ('"boxes":[[3,0,0,1,1]]}', False),
    ],
)
def test_qualifiers_may_be_left_out_but_not_reordered_or_unbounded(
    tokenizer: PreTrainedTokenizerFast, ll_tokenizer: LLTokenizer, rest: str, is_admitted: bool
) -> None:
    made = matcher(ll_tokenizer, ("liver",), 3)
    ids = tokenizer(LIVER + rest, add_special_tokens=False)["input_ids"]
    assert (made.try_consume_tokens(ids) == len(ids) and made.is_accepting()) == is_admitted


def test_numbers_have_no_second_spelling(
    tokenizer: PreTrainedTokenizerFast, ll_tokenizer: LLTokenizer
) -> None:
    assert numeric_fields("liver") == ("size_mm",)
    for spelling in ("012", "1e2", "-1", "+1", "12.0"):
        made = matcher(ll_tokenizer, ("liver",), 1)
        ids = tokenizer(f'{LIVER}"size_mm":{spelling},"boxes":[]}}', add_special_tokens=False)["input_ids"]
        assert made.try_consume_tokens(ids) < len(ids), spelling
