"""From a case's images to what the vision tower reads, and from a conversation to token ids.

`prepare` is the costly part (resize, normalise, cut into patches) and belongs on CPU stages; a `PreparedCase`
is plain numpy and cheap to pickle. transformers' own ``Qwen2VLProcessor`` cannot be built without torchvision
(seen in 5.16 to 5.23), hence our subclass over the image processor that works on PIL.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from sonoloop.model.chosen import MAX_IMAGES, choose_images
from sonoloop.model.frames import Pixels, as_rgb
from sonoloop.model.prompts import Conversation
from sonoloop.platform.errors import CheckpointError, Reason, RejectedError
from sonoloop.platform.lexicon import Organ

logger = logging.getLogger(__name__)

Patches: TypeAlias = npt.NDArray[np.float32]
Grids: TypeAlias = npt.NDArray[np.int64]

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
END_OF_TURN = "<|im_end|>"
PATCH_DIM = 1176
"""3 channels x 2 (the still frame is doubled in time) x 14 x 14 pixels."""
DEFAULT_MIN_PIXELS = 56 * 56
DEFAULT_MAX_PIXELS = 392 * 392
"""EchoVLM's training resolution: 196 visual tokens for a square image."""
STOCK_MAX_PIXELS = (16_384 * 28 * 28, 1_280 * 28 * 28)
"""Upper limits of Qwen2-VL's own folders and of its image processor; copied along, they state nothing."""

# The published Qwen2-VL chat template, for folders that carry none.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, eq=False, slots=True)
class CaseInput:
    """Images of one case, in reading order.

    Attributes:
        case_id: The case.
        images: uint8 or uint16, ``(H, W)`` or ``(H, W, C)``.
        organ_hint: The organ where it is known beforehand.
        image_indices: Which of the case's images these are, from 0; all of them, in order, where empty.
    """

    case_id: str
    images: tuple[Pixels, ...]
    organ_hint: Organ | None = None
    image_indices: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class PreparedCase:
    """A case as the model reads it.

    Attributes:
        case_id: The case.
        organ_hint: The organ where it is known beforehand.
        pixel_values: ``(P, 1176)`` float32, normalised patches of all images, P = sum of t * h * w.
        image_grid_thw: ``(N, 3)`` int64, patches of each image in time, height and width.
        image_indices: Which of the case's images these are, from 0; all of them, in order, where not given.
            `sonoloop.model.chosen` maps boxes.
    """

    case_id: str
    organ_hint: Organ | None
    pixel_values: Patches
    image_grid_thw: Grids
    image_indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.image_indices:
            object.__setattr__(self, "image_indices", tuple(range(len(self.image_grid_thw))))


class _ProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[misc,call-arg]  # transformers ships no types
    _defaults = {"text_kwargs": {"padding": False, "return_mm_token_type_ids": True}}  # noqa: RUF012


class EchoVLMProcessor(ProcessorMixin):  # type: ignore[misc]
    """Image processor, tokenizer and chat template of one model folder.

    Raises:
        CheckpointError: the tokenizer lacks one of Qwen2-VL's special tokens.
    """

    valid_processor_kwargs = _ProcessorKwargs

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
    ) -> None:
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        known = tokenizer.get_vocab()
        missing = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN, END_OF_TURN) if token not in known]
        if missing:
            raise CheckpointError(f"expected a Qwen2-VL tokenizer; it lacks {', '.join(missing)}")
        self.image_token_id, self.video_token_id = known[IMAGE_TOKEN], known[VIDEO_TOKEN]
        self.end_of_turn_id: int = known[END_OF_TURN]
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_folder(
        cls, folder: Path, *, max_pixels: int | None = None, min_pixels: int | None = None
    ) -> Self:
        """Load from a model folder; `save` writes one.

        An image keeps its size within the pixel budget and is resized to it outside. A folder that states no
        budget, or Qwen2-VL's stock one, gets `DEFAULT_MAX_PIXELS`. Below 16,000 pixels a thin image may
        exceed the budget: no side becomes shorter than one token, 28 pixels.

        Args:
            folder: Holds ``tokenizer.json`` and ``preprocessor_config.json``.
            max_pixels: Pixel budget of one image after resizing, instead of the folder's.
            min_pixels: Fewest pixels after resizing, instead of the folder's; never more than the budget.

        Raises:
            CheckpointError: a file is missing or cannot be read.
        """
        for name in ("tokenizer.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"expected {name} in the model folder; copy it from the published model"
                )
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        except Exception as err:  # a broken file raises what its parser does: OSError, ValueError, Exception
            raise CheckpointError(
                f"tokenizer or preprocessor_config.json of {folder.name} cannot be read "
                f"({type(err).__name__}); copy them from the published model"
            ) from err
        image_processor.size = _pixel_budget(image_processor.size, min_pixels, max_pixels)
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text() if template_file.is_file() else tokenizer.chat_template
        return cls(image_processor, tokenizer, chat_template=template)

    def save(self, folder: Path) -> None:
        """Write tokenizer, preprocessor configuration and chat template as published folders have them."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.chat_template)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_kwargs: Any) -> str:
        """The placeholder once per merged patch of this image."""
        return IMAGE_TOKEN * self.num_image_tokens(image_inputs["image_grid_thw"][image_idx])

    def num_image_tokens(self, grid_thw: Grids) -> int:
        """Tokens that an image of this patch grid takes in the text model."""
        return int(np.prod(grid_thw)) // int(self.image_processor.merge_size) ** 2

    def render(self, conversation: Conversation, *, open_answer: bool) -> str:
        """The chat template's text; each image is one placeholder.

        Args:
            conversation: The turns.
            open_answer: Whether the text ends where the assistant is to write.
        """
        text: str = self.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_answer)
        return text

    def expand(self, text: str, image_grid_thw: Grids) -> str:
        """Repeat each image's placeholder for its tokens.

        Raises:
            ValueError: the text does not hold one placeholder per image.
        """
        pieces = text.split(IMAGE_TOKEN)
        if len(pieces) != len(image_grid_thw) + 1:
            raise ValueError(f"expected {len(image_grid_thw)} image placeholders, found {len(pieces) - 1}")
        runs = [IMAGE_TOKEN * self.num_image_tokens(grid) for grid in image_grid_thw] + [""]
        return "".join(piece + run for piece, run in zip(pieces, runs, strict=True))

    def token_ids(self, conversation: Conversation, image_grid_thw: Grids) -> list[int]:
        """Token ids of a conversation that ends where the assistant is to write."""
        text = self.expand(self.render(conversation, open_answer=True), image_grid_thw)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _pixel_budget(stated: Any, min_pixels: int | None, max_pixels: int | None) -> dict[str, int]:
    """The image processor's ``size``: fewest and most pixels, under the names that Qwen2-VL gives them."""
    size: dict[str, int | None] = dict(stated)
    most, fewest = size.get("longest_edge"), size.get("shortest_edge")
    if max_pixels is None and (most is None or most in STOCK_MAX_PIXELS):
        logger.info("the folder states no pixel budget of its own; taking %d per image", DEFAULT_MAX_PIXELS)
        most = DEFAULT_MAX_PIXELS
    budget = max_pixels or most or DEFAULT_MAX_PIXELS
    return {
        "shortest_edge": min(min_pixels or fewest or DEFAULT_MIN_PIXELS, budget),
        "longest_edge": budget,
    }


def prepare(
    processor: EchoVLMProcessor, case: CaseInput, *, max_images: int | None = MAX_IMAGES
) -> PreparedCase:
    """Resize, normalise and cut a case's images into patches. Runs on CPU, 5-150 ms per image.

    Args:
        processor: Of the model that will read the case.
        case: Its images.
        max_images: Of more images, so many are chosen: evenly spaced, the first and the last among them.
            ``None`` takes all.

    Raises:
        RejectedError: the case has no image, or one is not an image or of an absurd size.
    """
    if not case.images:
        raise RejectedError(Reason.NO_PIXELS, "expected at least one image, got none")
    chosen = choose_images(len(case.images), max_images)
    parts = [_patches(processor, case.images[index]) for index in chosen]
    known = case.image_indices or tuple(range(len(case.images)))
    return PreparedCase(
        case_id=case.case_id,
        organ_hint=case.organ_hint,
        pixel_values=np.concatenate([patches for patches, _ in parts]),
        image_grid_thw=np.concatenate([grid for _, grid in parts]),
        image_indices=tuple(known[index] for index in chosen),
    )


def _patches(processor: EchoVLMProcessor, image: Pixels) -> tuple[Patches, Grids]:
    """One image at a time: only its patches outlive the next one's pixels."""
    features = processor.image_processor(
        images=[as_rgb(image)], return_tensors="np", input_data_format="channels_last"
    )
    patches = np.ascontiguousarray(features["pixel_values"], dtype=np.float32)
    return patches, np.asarray(features["image_grid_thw"], dtype=np.int64)
