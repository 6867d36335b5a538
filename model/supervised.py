"""A reviewed case as a training example: the whole conversation, with loss on what the assistant writes.

Shape letters: B examples, T tokens, P patches, N images.

Token ids are put together piece by piece, so that each prompt is spelled exactly as at inference; the loss
covers the assistant's tokens and the token that ends each of its turns, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sonoloop.model.patches import Grids, Patches
from sonoloop.model.prepared import PreparedCase
from sonoloop.model.processor import END_OF_TURN, IMAGE_TOKEN, EchoVLMProcessor
from sonoloop.model.prompts import (
    Conversation,
    Language,
    entities_turns,
    format_report,
    message,
    report_turns,
)
from sonoloop.platform.lexicon import Entities, LesionBox, Organ, generated_text

IGNORED = -100
"""Label of tokens without loss, as torch's cross-entropy takes it."""


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """What the assistant should write for a case: the truth of a phantom or a person's review."""

    findings: str
    impression: str
    entities: Entities
    boxes: tuple[LesionBox, ...]

    def answers(self, language: Language = "en") -> tuple[str, str]:
        """The texts of the two assistant turns; entities are English in any language."""
        report = format_report(self.findings, self.impression, language=language)
        return report, generated_text(self.entities, self.boxes)


@dataclass(frozen=True, eq=False, slots=True)
class SupervisedExample:
    """One conversation.

    Attributes:
        input_ids: ``(T,)`` int64.
        labels: ``(T,)`` int64, ``IGNORED`` where there is no loss.
        mm_token_type_ids: ``(T,)`` int64, 1 at image tokens, else 0.
        patches: Of all images.
        image_grid_thw: ``(N, 3)`` int64.
        weight: What its tokens count in the loss, 1 as a rule.
    """

    input_ids: Tensor
    labels: Tensor
    mm_token_type_ids: Tensor
    patches: Patches
    image_grid_thw: Tensor
    weight: float = 1.0


def between_answers(
    processor: EchoVLMProcessor, num_images: int, organ: Organ | None, language: Language = "en"
) -> str:
    """What stands between the end of the report and the entities: the second question.

    Raises:
        ValueError: the chat template does not write an assistant turn as its text and ``<|im_end|>``.
    """
    report = "x"  # what stands around an answer does not depend on it
    first = processor.render(report_turns(num_images, organ, language=language), open_answer=True)
    second = processor.render(entities_turns(num_images, organ, report, language=language), open_answer=True)
    written = first + report + END_OF_TURN
    if not second.startswith(written):
        raise ValueError(f"the chat template must write assistant turns as text and {END_OF_TURN}")
    return second.removeprefix(written)


def conversation_pieces(
    processor: EchoVLMProcessor, turns: Conversation, image_grid_thw: Grids
) -> list[tuple[str, bool]]:
    """A conversation's text in order, images expanded, each piece with whether the assistant wrote it.

    Args:
        processor: Spells the turns by its chat template.
        turns: They end with the assistant's.
        image_grid_thw: ``(N, 3)``, one row for each image in the turns.

    Raises:
        ValueError: the last turn is not the assistant's, the images are not N, or the chat template does not
            write an assistant turn as its text and ``<|im_end|>``.
    """
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError("expected a conversation that ends with a turn of the assistant")
    pieces: list[tuple[str, bool]] = []
    written, grids = "", list(image_grid_thw)
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            opened = processor.render(turns[:index], open_answer=True)
            if not opened.startswith(written):
                raise ValueError(f"the chat template must write assistant turns as text and {END_OF_TURN}")
            asked = opened.removeprefix(written)
            num_images = asked.count(IMAGE_TOKEN)
            pieces.append((processor.expand(asked, np.array(grids[:num_images])), False))
            answer = "".join(part["text"] for part in turn["content"]) + END_OF_TURN
            pieces.append((answer, True))
            written, grids = opened + answer, grids[num_images:]
    if grids:
        raise ValueError(f"expected {len(image_grid_thw)} images in the turns, {len(grids)} are not there")
    return pieces


def masked_example(
    processor: EchoVLMProcessor,
    pieces: Sequence[tuple[str, bool]],
    patches: Patches,
    image_grid_thw: Grids,
    *,
    weight: float = 1.0,
) -> SupervisedExample:
    """Tokens of a conversation in pieces, with labels where a piece is to be learnt."""
    ids: list[int] = []
    labels: list[int] = []
    for text, is_learnt in pieces:
        piece = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if is_learnt else [IGNORED] * len(piece)
    input_ids = torch.tensor(ids)
    return SupervisedExample(
        input_ids=input_ids,
        labels=torch.tensor(labels),
        mm_token_type_ids=(input_ids == processor.image_token_id).long(),
        patches=patches,
        image_grid_thw=torch.from_numpy(np.asarray(image_grid_thw, dtype=np.int64)),
        weight=weight,
    )


def supervised_example(
    processor: EchoVLMProcessor, case: PreparedCase, target: Target, language: Language = "en"
) -> SupervisedExample:
    """Build the conversation of one case with its target: the report, then the entities, as at inference.

    Raises:
        ValueError: a box names an image that the case does not have, or the chat template is of another form.
    """
    pieces = draft_pieces(processor, case, target, language)
    return masked_example(processor, pieces, case.patches, case.image_grid_thw)


def draft_pieces(
    processor: EchoVLMProcessor, case: PreparedCase, target: Target, language: Language = "en"
) -> list[tuple[str, bool]]:
    """Pieces of the conversation of `supervised_example`: request, report, request, entities.

    Raises:
        ValueError: as `supervised_example`.
    """
    num_images = len(case.image_grid_thw)
    if any(box.image_index >= num_images for box in target.boxes):
        raise ValueError(f"a box names an image beyond the case's {num_images}")
    report, entities = target.answers(language)
    turns = entities_turns(num_images, case.organ_hint, report, language=language)
    return conversation_pieces(processor, [*turns, message("assistant", entities)], case.image_grid_thw)


def collate(examples: Sequence[SupervisedExample], pad_id: int) -> dict[str, Tensor]:
    """One batch, padded on the right; the keyword arguments of `training.objective.Objective`.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, ``mm_token_type_ids`` ``(B, T)`` int64, ``weights``
        ``(B,)`` float32, ``pixel_values`` ``(sum P, 1176)`` float32, ``image_grid_thw`` ``(sum N, 3)`` int64.

    Raises:
        ValueError: there is no example.
    """
    if not examples:
        raise ValueError("expected at least one example, got none")

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "input_ids": padded([example.input_ids for example in examples], pad_id),
        "attention_mask": padded([torch.ones_like(example.input_ids) for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORED),
        "weights": torch.tensor([example.weight for example in examples], dtype=torch.float32),
        "mm_token_type_ids": padded([example.mm_token_type_ids for example in examples], 0),
        "pixel_values": Patches.joined([example.patches for example in examples]).normalised(),
        "image_grid_thw": torch.cat([example.image_grid_thw for example in examples]),
    }
