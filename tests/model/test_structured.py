from __future__ import annotations

import json
import tracemalloc
from itertools import combinations, islice
from string import ascii_letters

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sonoloop.model import structured
from sonoloop.model.processor import END_OF_TURN, EchoVLMProcessor
from sonoloop.model.structured import Grammars, JsonSpec, RowConstraint, RowSpec
from sonoloop.platform.lexicon import ORGANS, Organ, parse_generated

SPECS = [RowSpec((*ORGANS, None)[index % (len(ORGANS) + 1)], 1 + index % 8) for index in range(1000)]


def bytes_only_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without one merge: a token per byte, the longest spelling that there is."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"additional_special_tokens": [END_OF_TURN]})
    return fast


@pytest.fixture(scope="module")
def grammar(processor: EchoVLMProcessor) -> Grammars:
    # wider than the tokenizer, as published models are
    return Grammars(
        processor.tokenizer,
        vocab_size=len(processor.tokenizer) + 64,
        end_id=processor.end_of_turn_id,
    )


def softmax(scores_A: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    powers_A = np.exp(scores_A - scores_A.max())
    return (powers_A / powers_A.sum()).astype(np.float32)


def walk(grammar: Grammars, row: RowSpec, rng: np.random.Generator) -> tuple[list[int], RowConstraint]:
    """Greedy decoding over random logits, a model that knows nothing, within the row's budget of tokens."""
    constraint = RowConstraint(grammar, row)
    token_ids = constraint.take_forced()
    while not constraint.is_finished() and len(token_ids) < row.max_tokens():
        allowed = constraint.allowed()
        scores_A = rng.normal(size=len(allowed))
        chosen = int(allowed[scores_A.argmax()])
        if chosen == grammar.end_id:
            break
        constraint.choose(chosen, allowed, softmax(scores_A))
        token_ids += [chosen, *constraint.take_forced()]
    return token_ids, constraint


@pytest.mark.parametrize("spelled_by", ["nano", "single bytes"])
def test_a_thousand_random_walks_of_a_thousand_are_valid_within_the_budget(
    processor: EchoVLMProcessor, grammar: Grammars, spelled_by: str
) -> None:
    tokenizer = processor.tokenizer
    if spelled_by == "single bytes":
        tokenizer = bytes_only_tokenizer()
        end_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        grammar = Grammars(tokenizer, vocab_size=len(tokenizer), end_id=end_id)
    rng = np.random.default_rng(0)
    seen = set()
    for row in SPECS:
        token_ids, constraint = walk(grammar, row, rng)
        text = tokenizer.decode(token_ids)
        entities, boxes = parse_generated(text, num_images=row.num_images)
        assert row.organ in (None, entities.organ)
        assert all(box.image_index < row.num_images for box in boxes)
        assert text == json.dumps(json.loads(text), separators=(",", ":"))
        assert len(token_ids) < row.max_tokens()
        assert set(constraint.value_probabilities) <= {*entities.flat(), "boxes"}
        assert all(0 < value <= 1 for value in constraint.value_probabilities.values())
        seen.add((entities.organ, entities.lesion))
    assert len(seen) == 3 * len(ORGANS)


def test_an_unknown_organ_leaves_the_choice_to_the_model(
    processor: EchoVLMProcessor, grammar: Grammars
) -> None:
    rng = np.random.default_rng(1)
    answers = [walk(grammar, RowSpec(None, 1), rng)[0] for _ in range(40)]
    organs = {json.loads(processor.tokenizer.decode(answer))["organ"] for answer in answers}
    assert len(organs) >= 3


@pytest.mark.parametrize("organ", ORGANS)
def test_forced_text_is_spelled_as_in_training(
    processor: EchoVLMProcessor, grammar: Grammars, organ: Organ
) -> None:
    forced = RowConstraint(grammar, RowSpec(organ, 1)).take_forced()
    answer, _ = walk(grammar, RowSpec(organ, 1), np.random.default_rng(2))
    as_trained = processor.tokenizer(processor.tokenizer.decode(answer), add_special_tokens=False)[
        "input_ids"
    ]
    assert len(forced) >= 2
    assert forced == answer[: len(forced)] == as_trained[: len(forced)]


def test_after_the_end_only_the_end_is_left(grammar: Grammars) -> None:
    constraint = RowConstraint(grammar, RowSpec("breast", 1))
    constraint.take_forced()
    rng = np.random.default_rng(3)
    while not constraint.is_finished():
        allowed = constraint.allowed()
        shares = softmax(rng.normal(size=len(allowed)))
        constraint.choose(int(allowed[shares.argmax()]), allowed, shares)
    assert constraint.allowed().tolist() == [grammar.end_id]
    assert constraint.take_forced() == []


def probability_of_lesion(grammar: Grammars, processor: EchoVLMProcessor, sharpness: float) -> float:
    """A model that gives the right next token of one text ``sharpness`` more than all others."""
    wanted = processor.tokenizer('{"organ":"breast","lesion":"absent"}', add_special_tokens=False)[
        "input_ids"
    ]
    constraint = RowConstraint(grammar, RowSpec("breast", 1))
    at = len(constraint.take_forced())
    while not constraint.is_finished():
        allowed = constraint.allowed()
        shares = softmax(np.where(allowed == wanted[at], sharpness, 0.0))
        constraint.choose(wanted[at], allowed, shares)
        at += 1 + len(constraint.take_forced())
    return constraint.value_probabilities["lesion"]


def test_a_certain_model_is_confident_and_an_undecided_one_is_not(
    processor: EchoVLMProcessor, grammar: Grammars
) -> None:
    assert probability_of_lesion(grammar, processor, 50.0) == pytest.approx(1.0)
    # absent and not assessed have spellings of several first letters: a and n; present has p
    assert 0.1 < probability_of_lesion(grammar, processor, 0.0) < 0.6


def test_a_forced_organ_has_no_probability_and_a_chosen_one_has(grammar: Grammars) -> None:
    rng = np.random.default_rng(4)
    assert "organ" not in walk(grammar, RowSpec("liver", 1), rng)[1].value_probabilities
    assert "organ" in walk(grammar, RowSpec(None, 1), rng)[1].value_probabilities


def test_a_budget_counts_every_byte_and_the_end() -> None:
    assert RowSpec("breast", 2).max_tokens() > len('{"organ":"breast","lesion":"absent"}') + 1
    assert RowSpec(None, 2).max_tokens() == max(RowSpec(organ, 2).max_tokens() for organ in ORGANS)


def test_what_is_kept_of_many_schemas_is_bounded_however_little_they_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structured, "_MASK_BYTES", 2**20)
    tokenizer = bytes_only_tokenizer()
    end_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    grammars = Grammars(tokenizer, vocab_size=152_064, end_id=end_id)  # as wide as published models
    constraints = [
        RowConstraint(grammars, JsonSpec(json.dumps({"enum": [*pair]})))
        for pair in islice(combinations(ascii_letters, 2), 150)
    ]
    tracemalloc.start()
    try:
        for constraint in constraints:
            constraint.take_forced()
            assert len(constraint.allowed()) == 2
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * 2**20


def test_the_schemas_of_askers_do_not_drive_out_what_is_in_use(
    grammar: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[RowSpec | JsonSpec] = []
    compile_one = grammar._compile
    monkeypatch.setattr(grammar, "_compile", lambda spec: compiled.append(spec) or compile_one(spec))
    for number in range(100):
        grammar.matcher(SPECS[0])
        grammar.matcher(JsonSpec(json.dumps({"const": number})))
    assert compiled.count(SPECS[0]) <= 1
