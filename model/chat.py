"""Free conversations: messages with PIL images in, an answer out, whole or in pieces."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, get_args

import numpy as np
from PIL import Image
from tokenizers.decoders import DecodeStream

from sonoloop.model.decoding import answer_text
from sonoloop.model.frames import Pixels
from sonoloop.model.generation import Backend, Prompt, Request, TurnAnswer
from sonoloop.model.patches import NO_PATCHES
from sonoloop.model.prepared import CaseInput, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.prompts import Content, Message, Role


class ChatPart(TypedDict):
    """One part of a message: ``text`` with its text, or ``image`` with its picture."""

    type: Literal["text", "image"]
    text: NotRequired[str]
    image: NotRequired[Image.Image]


class ChatMessage(TypedDict):
    """One turn."""

    role: Role
    content: list[ChatPart]


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A finished answer; ``length`` means that it was cut at the limit of tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


def chat_prompt(processor: EchoVLMProcessor, messages: Sequence[ChatMessage]) -> Prompt:
    """Tokens and patches of a conversation.

    Raises:
        ValueError: no message, an unknown role or part, or a last message that is not the user's.
        RejectedError: an image cannot be used.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("expected a conversation that ends with a message of the user")
    turns: list[Message] = []
    pictures: list[Pixels] = []
    for turn in messages:
        if turn["role"] not in get_args(Role):
            raise ValueError(f"expected one of the roles {', '.join(get_args(Role))}")
        turns.append({"role": turn["role"], "content": [_part(part, pictures) for part in turn["content"]]})
    if pictures:
        prepared = prepare(processor, CaseInput("chat", tuple(pictures)), max_images=len(pictures))
        patches, grids = prepared.patches, prepared.image_grid_thw
    else:
        patches, grids = NO_PATCHES, np.zeros((0, 3), np.int64)
    return Prompt(processor.token_ids(turns, grids), patches, grids)


def _part(part: ChatPart, pictures: list[Pixels]) -> Content:
    if part["type"] == "text":
        return {"type": "text", "text": part.get("text", "")}
    picture = part.get("image")
    if part["type"] != "image" or picture is None:
        raise ValueError("expected message parts of type text or image")
    pictures.append(np.asarray(picture.convert("RGB")))
    return {"type": "image"}


def stream_answer(
    backend: Backend, processor: EchoVLMProcessor, request: Request
) -> Generator[str, None, ChatResult]:
    """Pieces of text as the model writes them; the generator returns the whole answer.

    The model writes in a thread of its own, so that a slow reader holds nobody up. Closing the generator
    stops it at its next token. What the model raises is raised here.
    """
    pieces: queue.SimpleQueue[tuple[int, ...] | list[TurnAnswer] | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            pieces.put(
                backend.stream(
                    request,
                    on_tokens=lambda ids: pieces.put(tuple(ids)),
                    is_wanted=lambda: not stopped.is_set(),
                )
            )
        except BaseException as err:  # handed to the reader of the stream, which raises it
            pieces.put(err)

    threading.Thread(target=work, name="sonoloop-chat", daemon=True).start()
    spelled = DecodeStream(skip_special_tokens=True)
    text = ""
    try:
        while isinstance(item := pieces.get(), tuple):
            for token_id in item:
                piece = spelled.step(processor.tokenizer.backend_tokenizer, token_id)
                if piece:
                    text += piece
                    yield piece
    finally:
        stopped.set()
    if isinstance(item, BaseException):
        raise item
    (answer,) = item
    whole = answer_text(processor, answer.token_ids)
    if len(whole) > len(text):  # bytes at the end that never became a character
        yield whole[len(text) :]
    return ChatResult(
        text=whole,
        prompt_tokens=len(request.prompt.token_ids),
        completion_tokens=len(answer.token_ids),
        finish_reason="stop" if answer.ended else "length",
    )
