from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.structured import EntitiesConstraint, EntitiesGrammar, RowSpec
from sonoloop.platform.lexicon import ORGANS, Organ, parse_generated

MAX_TOKENS = 512


@pytest.fixture(scope="module")
def grammar(processor: EchoVLMProcessor) -> EntitiesGrammar:
    # wider than the tokenizer, as published models are
    return EntitiesGrammar(
        processor.tokenizer,
        vocab_size=len(processor.tokenizer) + 64,
        end_id=processor.end_of_turn_id,
    )


def _walk(grammar: EntitiesGrammar, rows: list[RowSpec], seed: int) -> tuple[list[list[int]], list[float]]:
    """Greedy decoding over random logits: a model that knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    constraint = EntitiesConstraint(grammar, rows)
    ids = torch.zeros((len(rows), 1), dtype=torch.int64)
    for _ in range(MAX_TOKENS):
        scores = torch.randn((len(rows), grammar.vocab_size), generator=generator)
        ids = torch.cat([ids, constraint(ids, scores).argmax(dim=-1, keepdim=True)], dim=1)
        if (ids[:, -1] == grammar.end_id).all():
            break
    answers = [row[1:] for row in ids.tolist()]
    return [row[: row.index(grammar.end_id)] for row in answers], constraint.confidences()


def test_two_hundred_random_walks_are_valid_entities(
    processor: EchoVLMProcessor, grammar: EntitiesGrammar
) -> None:
    rows = [RowSpec((*ORGANS, None)[index % 5], 1 + index % 3) for index in range(200)]
    answers, confidences = _walk(grammar, rows, seed=0)
    seen = set()
    for row, answer in zip(rows, answers, strict=True):
        text = processor.tokenizer.decode(answer)
        entities, boxes = parse_generated(text, num_images=row.num_images)
        assert row.organ in (None, entities.organ)
        assert all(box.image_index < row.num_images for box in boxes)
        assert text == json.dumps(json.loads(text), separators=(",", ":"))
        seen.add((entities.organ, entities.lesion))
    assert len(seen) >= 8
    assert all(0 < confidence <= 1 for confidence in confidences)


def test_an_unknown_organ_leaves_the_choice_to_the_model(
    processor: EchoVLMProcessor, grammar: EntitiesGrammar
) -> None:
    answers, _ = _walk(grammar, [RowSpec(None, 1)] * 40, seed=1)
    organs = {json.loads(processor.tokenizer.decode(answer))["organ"] for answer in answers}
    assert len(organs) >= 3


@pytest.mark.parametrize("organ", ORGANS)
def test_forced_text_is_spelled_as_in_training(
    processor: EchoVLMProcessor, grammar: EntitiesGrammar, organ: Organ
) -> None:
    answers, _ = _walk(grammar, [RowSpec(organ, 1)] * 8, seed=2)
    start = processor.tokenizer(f'{{"organ":"{organ}","lesion', add_special_tokens=False)["input_ids"][:2]
    assert all(answer[:2] == start for answer in answers)


def test_after_the_end_only_the_end_is_left(grammar: EntitiesGrammar, processor: EchoVLMProcessor) -> None:
    matcher = grammar.matcher(RowSpec("breast", 1))
    text = '{"organ":"breast","lesion":"absent"}'
    for token_id in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
        allowed, _ = grammar.allowed(matcher)
        assert allowed[token_id]
        assert matcher.consume_token(token_id)
    for _ in range(3):
        allowed, is_choice = grammar.allowed(matcher)
        assert allowed.nonzero().flatten().tolist() == [grammar.end_id]
        assert not is_choice
        matcher.consume_token(grammar.end_id)


def test_a_certain_model_is_confident_and_an_undecided_one_is_not(
    processor: EchoVLMProcessor, grammar: EntitiesGrammar
) -> None:
    text = '{"organ":"breast","lesion":"absent"}'
    wanted = [*processor.tokenizer(text, add_special_tokens=False)["input_ids"], grammar.end_id]

    def confidence(sharpness: float) -> float:
        constraint = EntitiesConstraint(grammar, [RowSpec("breast", 1)])
        ids = torch.zeros((1, 1), dtype=torch.int64)
        for token_id in wanted:
            scores = torch.zeros((1, grammar.vocab_size))
            scores[0, token_id] = sharpness
            chosen = constraint(ids, scores).argmax(dim=-1, keepdim=True)
            assert chosen.item() == token_id
            ids = torch.cat([ids, chosen], dim=1)
        return constraint.confidences()[0]

    assert confidence(50.0) == pytest.approx(1.0)
    assert confidence(1e-3) < 0.5


def test_confidence_is_the_mean_over_choices_only(grammar: EntitiesGrammar) -> None:
    constraint = EntitiesConstraint(grammar, [RowSpec("breast", 1)])
    constraint(torch.zeros((1, 1), dtype=torch.int64), torch.zeros((1, grammar.vocab_size)))
    assert constraint.confidences() == [1.0]  # the first token is forced: {"organ":"


def test_rows_do_not_touch_each_other(grammar: EntitiesGrammar) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(1, grammar.vocab_size)))
    start = torch.zeros((1, 1), dtype=torch.int64)
    alone = EntitiesConstraint(grammar, [RowSpec(None, 1)])(start, scores)
    both = EntitiesConstraint(grammar, [RowSpec("kidney", 2), RowSpec(None, 1)])(
        start.repeat(2, 1), scores.repeat(2, 1)
    )
    assert torch.equal(both[1], alone[0])
