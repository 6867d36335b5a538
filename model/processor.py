"""From a conversation to token ids; with a `PatchCutter` for its images, everything that a folder prescribes.

transformers' own ``Qwen2VLProcessor`` cannot be built without torchvision (seen in 5.16 to 5.23), hence our
subclass over the image processor that works on PIL. That one serves those who call the processor as
transformers does, and writes the folder's file; cases are cut by `sonoloop.model.patches`, to the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from sonoloop.model.frames import Pixels
from sonoloop.model.patches import MERGE, Grids, PatchCutter, Patches
from sonoloop.model.prompts import Conversation
from sonoloop.platform.errors import CheckpointError

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
END_OF_TURN = "<|im_end|>"

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
        fewest, most = (image_processor.size[edge] for edge in ("shortest_edge", "longest_edge"))
        self.cutter = PatchCutter.from_config(image_processor.to_dict(), max_pixels=most, min_pixels=fewest)
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
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(
                "expected tokenizer.json in the model folder; copy it from the published model"
            )
        cutter = PatchCutter.from_folder(folder, max_pixels=max_pixels, min_pixels=min_pixels)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        except Exception as err:  # a broken file raises what its parser does: OSError, ValueError, Exception
            raise CheckpointError(
                f"tokenizer or preprocessor_config.json of {folder.name} cannot be read "
                f"({type(err).__name__}); copy them from the published model"
            ) from err
        image_processor.size = {"shortest_edge": cutter.min_pixels, "longest_edge": cutter.max_pixels}
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text() if template_file.is_file() else tokenizer.chat_template
        return cls(image_processor, tokenizer, chat_template=template)

    def save(self, folder: Path) -> None:
        """Write tokenizer, preprocessor configuration and chat template as published folders have them."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.chat_template)

    def cut(self, image: Pixels) -> tuple[Patches, Grids]:
        """As `PatchCutter.cut`."""
        return self.cutter.cut(image)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_kwargs: Any) -> str:
        """The placeholder once per merged patch of this image."""
        return IMAGE_TOKEN * self.num_image_tokens(image_inputs["image_grid_thw"][image_idx])

    def num_image_tokens(self, grid_thw: Grids) -> int:
        """Tokens that an image of this patch grid takes in the text model."""
        return int(np.prod(grid_thw)) // MERGE**2

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
