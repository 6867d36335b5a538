"""A case's report in pieces while the model writes it; what is written after it comes whole."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from tokenizers.decoders import DecodeStream

from sonoloop.model.decoding import end_ids
from sonoloop.model.generation import Backend, Request, TurnAnswer
from sonoloop.model.processor import EchoVLMProcessor


def stream_report(
    backend: Backend, processor: EchoVLMProcessor, request: Request
) -> Generator[str, None, list[TurnAnswer]]:
    """Pieces of the first turn's text; the generator returns the answers of all turns.

    Closing the generator takes the request out of the batch.

    Raises:
        RejectedError: The model failed on this request.
    """
    ends, in_report = frozenset(end_ids(processor)), True
    spelled = DecodeStream(skip_special_tokens=True)
    with closing(backend.stream(request)) as stream:
        while True:
            try:
                tokens = next(stream)
            except StopIteration as stop:
                answers: list[TurnAnswer] = stop.value
                return answers
            for token in tokens:
                in_report = in_report and token.token_id not in ends
                if not in_report:
                    break
                if piece := spelled.step(processor.tokenizer.backend_tokenizer, token.token_id):
                    yield piece
