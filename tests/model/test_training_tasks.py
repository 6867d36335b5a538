"""Reviewed cases as examples of several tasks, and imported conversations: which tokens have a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.model.test_supervised import TARGET as SIZELESS

from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import CHAT_TEMPLATE, END_OF_TURN, EchoVLMProcessor
from sonoloop.model.prompts import PROMPTS, Language, Role, Task, turns
from sonoloop.model.prompts.questions import entity_question
from sonoloop.model.supervised import IGNORED, SupervisedExample, supervised_example
from sonoloop.model.training.recipes import LEARNT_TASKS, recipe
from sonoloop.model.training.tasks import conversation_example, task_example, task_of

TARGET = replace(SIZELESS, entities=SIZELESS.entities.model_copy(update={"size_mm": 12}))
NoiseCase = Callable[..., PreparedCase]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 112, 140), dtype=np.uint8)
THREE_TURNS: list[tuple[Role, str]] = [
    ("system", "You answer briefly."),
    ("user", "<image>\nWhat is this?"),
    ("assistant", "A liver."),
    ("user", "And these: <image> <image> ?"),
    ("assistant", "Two kidneys, one with a stone."),
    ("user", "Which one?"),
    ("assistant", "The second."),
]


def learnt(processor: EchoVLMProcessor, example: SupervisedExample) -> str:
    kept = example.labels[example.labels != IGNORED].tolist()
    return str(processor.tokenizer.decode(kept))


def mask_by_markers(processor: EchoVLMProcessor, ids: list[int]) -> list[bool]:
    """A second reading of the template: from an assistant's opening up to and with the end of its turn."""
    opening = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    mask, inside = [], False
    for place, token in enumerate(ids):
        inside = inside or (ids[:place][-len(opening) :] == opening)
        mask.append(inside)
        inside = inside and token != processor.end_of_turn_id
    return mask


@pytest.fixture(params=["nano", "published"])
def any_processor(request: pytest.FixtureRequest, processor: EchoVLMProcessor) -> EchoVLMProcessor:
    """Nano's folder with its own chat template, and with the one that Qwen2-VL publishes."""
    template = processor.chat_template if request.param == "nano" else CHAT_TEMPLATE
    return EchoVLMProcessor(processor.image_processor, processor.tokenizer, chat_template=template)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", LEARNT_TASKS)
def test_the_loss_of_a_task_covers_its_answer_and_the_end_of_its_turn_token_by_token(
    any_processor: EchoVLMProcessor, noise_case: NoiseCase, task: Task, language: Language
) -> None:
    processor, case = any_processor, noise_case(0, num_images=2, organ="liver")
    example = task_example(processor, case, TARGET, task, language, weight=2.5)
    assert example.weight == 2.5
    ids, mask = example.input_ids.tolist(), (example.labels != IGNORED).tolist()
    expected = mask_by_markers(processor, ids)
    report, entities = TARGET.answers(language)
    if task == "entities":  # the report before them is given
        given = processor.tokenizer(report + END_OF_TURN, add_special_tokens=False)["input_ids"]
        first = expected.index(True)
        expected[first : first + len(given)] = [False] * len(given)
    assert mask == expected
    assert [t for t, learns in zip(ids, mask, strict=True) if learns] == (
        example.labels[example.labels != IGNORED].tolist()
    )
    answers: dict[Task, str] = {
        "report": report + END_OF_TURN + entities,
        "findings": TARGET.findings,
        "impression": TARGET.impression,
        "entities": entities,
    }
    if task in answers:
        encoded = processor.tokenizer(answers[task] + END_OF_TURN, add_special_tokens=False)["input_ids"]
        assert learnt(processor, example) == processor.tokenizer.decode(encoded)


def test_the_main_task_is_the_conversation_of_a_draft(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    case = noise_case(1, organ="liver")
    ours, whole = (
        task_example(processor, case, TARGET, "report"),
        supervised_example(processor, case, TARGET),
    )
    assert ours.input_ids.tolist() == whole.input_ids.tolist()
    assert ours.labels.tolist() == whole.labels.tolist()


@pytest.mark.parametrize("task", ["findings", "impression", "vqa"])
def test_a_task_is_asked_as_at_inference(
    processor: EchoVLMProcessor, noise_case: NoiseCase, task: Task
) -> None:
    case = noise_case(2, num_images=2, organ="liver")
    example = task_example(processor, case, TARGET, task)
    text = processor.tokenizer.decode(example.input_ids[example.labels == IGNORED].tolist())
    asked = text.partition("Question: ")[2].partition(END_OF_TURN)[0] or None
    prompt = processor.token_ids(turns(task, "en", 2, "liver", asked), case.image_grid_thw)
    assert example.input_ids[: len(prompt)].tolist() == prompt
    assert PROMPTS[task, "en"].text[:20] in text


def test_questions_change_by_epoch_ask_for_what_is_known_and_are_answered_right(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    known = TARGET.entities.flat()
    answers = {entity_question("liver", field): value for field, value in known.items()}
    for organ, num_fields in (("liver", len(known) - 1), (None, len(known))):
        case, asked = noise_case(3, organ=organ), set()
        for epoch in range(60):
            example = task_example(processor, case, TARGET, "vqa", epoch=epoch)
            again = task_example(processor, case, TARGET, "vqa", epoch=epoch)
            assert example.input_ids.tolist() == again.input_ids.tolist()
            text = processor.tokenizer.decode(example.input_ids.tolist())
            question = text.partition("Question: ")[2].partition(END_OF_TURN)[0]
            assert learnt(processor, example) == answers[question] + END_OF_TURN
            asked.add(question)
        assert len(asked) == num_fields


def test_a_mix_follows_its_shares_and_depends_on_case_epoch_and_seed() -> None:
    tasks = recipe("corrections").tasks
    cases = [f"case-{number}" for number in range(4000)]
    drawn = [task_of(case, tasks, seed=0, epoch=0) for case in cases]
    assert drawn == [task_of(case, dict(reversed(tasks.items())), seed=0, epoch=0) for case in cases]
    assert drawn != [task_of(case, tasks, seed=0, epoch=1) for case in cases]
    assert drawn != [task_of(case, tasks, seed=1, epoch=0) for case in cases]
    for task, count in Counter(drawn).items():
        assert count / len(cases) == pytest.approx(tasks[task], abs=0.03)


def test_a_task_without_an_answer_in_a_review_is_refused(
    processor: EchoVLMProcessor, noise_case: NoiseCase
) -> None:
    with pytest.raises(ValueError, match="no answer to the task caption"):
        task_example(processor, noise_case(4), TARGET, "caption")


def test_an_imported_conversation_learns_all_turns_of_the_assistant_and_no_other(
    any_processor: EchoVLMProcessor,
) -> None:
    example = conversation_example(any_processor, list(PIXELS), THREE_TURNS)
    ids = example.input_ids.tolist()
    assert (example.labels != IGNORED).tolist() == mask_by_markers(any_processor, ids)
    said = [text + END_OF_TURN for role, text in THREE_TURNS if role == "assistant"]
    encoded = any_processor.tokenizer("".join(said), add_special_tokens=False)["input_ids"]
    assert learnt(any_processor, example) == any_processor.tokenizer.decode(encoded)
    assert example.image_grid_thw.tolist() == [[1, 8, 10]] * 3
    assert example.mm_token_type_ids.sum() == 3 * 20
    assert len(example.patches) == 3 * 80


@pytest.mark.parametrize(
    ("conversation", "num_images", "why"),
    [
        (THREE_TURNS, 2, "found 3 for 2 images"),
        ([("user", "no image"), ("assistant", "none")], 0, "for 0 images"),
        (THREE_TURNS[:-1], 3, "ends with a turn of the assistant"),
        ([("user", "<image> a<|im_end|>"), ("assistant", "b")], 1, "without <| marks"),
        ([("user", "<image>"), ("assistant", " ")], 1, "of the assistant"),
        ([("user", "a"), ("assistant", "<image>")], 1, "in turns of the user"),
    ],
)
def test_a_conversation_that_cannot_be_learnt_from_is_refused_without_a_word_of_it(
    processor: EchoVLMProcessor, conversation: list[tuple[Role, str]], num_images: int, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        conversation_example(processor, list(PIXELS[:num_images]), conversation)
    assert "kidneys" not in str(caught.value)
