from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import END_OF_TURN, EchoVLMProcessor
from sonoloop.model.prompts import entities_turns, message, report_turns
from sonoloop.model.supervised import IGNORED, Target, collate, supervised_example
from sonoloop.platform.lexicon import LesionBox, LiverEntities

TARGET = Target(
    findings="The liver parenchyma is coarse. A hypoechoic lesion with posterior shadowing is seen.",
    impression="Focal liver lesion.",
    entities=LiverEntities(
        organ="liver",
        parenchyma="coarse",
        lesion="present",
        echogenicity="hypoechoic",
        margin="ill-defined",
        posterior_features="shadowing",
    ),
    boxes=(LesionBox(image_index=0, x=0.25, y=0.5, width=0.25, height=0.125),),
)

NoiseCase = Callable[..., PreparedCase]


def test_the_loss_covers_the_answers_and_their_ends_and_nothing_else(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    example = supervised_example(processor, noise_case(0, organ="liver"), TARGET)
    report, entities = TARGET.answers()
    learnt = example.labels[example.labels != IGNORED].tolist()
    assert processor.tokenizer.decode(learnt) == report + END_OF_TURN + entities + END_OF_TURN
    where = (example.labels != IGNORED).nonzero().flatten()
    assert torch.equal(example.labels[where], example.input_ids[where])


def test_the_mask_agrees_with_the_chat_template_token_by_token(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    case = noise_case(1, num_images=2, organ="liver")
    report, entities = TARGET.answers()
    turns = [*entities_turns(2, "liver", report), message("assistant", entities)]
    text = processor.expand(processor.render(turns, open_answer=False), case.image_grid_thw)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    example = supervised_example(processor, case, TARGET)
    assert encoded["input_ids"][: len(example.input_ids)] == example.input_ids.tolist()
    spans = []
    for answer in (report, entities):
        start = text.index(answer)
        spans.append(range(start, start + len(answer) + len(END_OF_TURN)))
    for (start, _), label in zip(encoded["offset_mapping"], example.labels.tolist(), strict=False):
        assert (label != IGNORED) == any(start in span for span in spans)


def test_prompts_are_spelled_as_at_inference(processor: EchoVLMProcessor, noise_case: NoiseCase) -> None:
    case = noise_case(2, num_images=2, organ="liver")
    ids = supervised_example(processor, case, TARGET).input_ids.tolist()
    first = processor.token_ids(report_turns(2, "liver"), case.image_grid_thw)
    second = processor.token_ids(entities_turns(2, "liver", TARGET.answers()[0]), case.image_grid_thw)
    assert ids[: len(first)] == first
    assert ids[: len(second)] == second


def test_a_box_on_an_image_that_the_case_lacks_is_refused(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    box = LesionBox(image_index=1, x=0.1, y=0.1, width=0.1, height=0.1)
    target = Target(TARGET.findings, TARGET.impression, TARGET.entities, (box,))
    with pytest.raises(ValueError, match="beyond the case"):
        supervised_example(processor, noise_case(3), target)


def test_collating_pads_on_the_right_without_loss(processor: EchoVLMProcessor, noise_case: NoiseCase) -> None:
    short = supervised_example(processor, noise_case(4, organ="liver"), TARGET)
    long = supervised_example(processor, noise_case(5, num_images=2, organ="liver"), TARGET)
    batch = collate([short, long], pad_id=0)
    size = len(short.input_ids)
    assert batch["input_ids"].shape == (2, len(long.input_ids))
    assert torch.equal(batch["input_ids"][0, :size], short.input_ids)
    assert (batch["labels"][0, size:] == IGNORED).all()
    assert batch["attention_mask"].sum(dim=1).tolist() == [size, len(long.input_ids)]
    assert batch["image_grid_thw"].shape == (3, 3)
    assert batch["pixel_values"].shape == (3 * 192, 1176)
    assert batch["mm_token_type_ids"].sum(dim=1).tolist() == [48, 96]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_id=0)
