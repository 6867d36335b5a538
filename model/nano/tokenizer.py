"""Nano's tokenizer: byte-level BPE over reports, entity JSON and prompts of the four phantom organs.

Any text can be written; what the loop writes often is short. The prompts are whole tokens, JSON's punctuation
and keys are cut apart from its values, so that a word is spelled alike wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sonoloop.model.decoding import END_OF_TEXT
from sonoloop.model.processor import CHAT_TEMPLATE, END_OF_TURN, IMAGE_TOKEN, VIDEO_TOKEN
from sonoloop.model.prompts import ENTITIES_PROMPT, ORGAN_SENTENCES, REPORT_PROMPT, SYSTEM_PROMPT
from sonoloop.platform.lexicon import BOX_GRID, field_values, fields
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS

SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE_TOKEN,
    VIDEO_TOKEN,
)
"""Ids 0 to 6, in this order; the first pads."""

_REPEATS = 100
_BOXES = '","boxes":[[0,1,2,3,4],[1,2,3,4,5]]}'
_PIECES = Regex(
    r'\{"[a-z_]+":"?|","[a-z_]+":"?|\[+(?=\d)|\[\]\}?|\],\[|\]+\}?|"\}'  # JSON around values
    r"| ?\d{1,3}[A-C]?(?![A-Za-z])"  # a number or a category such as 4A
    r"| ?[A-Za-z]+(?:-[A-Za-z]+)*"  # a word, hyphens inside
    r"|\s+| ?[^\sA-Za-z0-9]"
)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on texts of the loop; the same texts give the same tokenizer.

    Args:
        texts: Reports and entity JSON.
        vocab_size: Tokens in all, special tokens and the prompts' own included.
    """
    prompts = (SYSTEM_PROMPT, REPORT_PROMPT, ENTITIES_PROMPT)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(prompts),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *_numbers(), *_lexicon(), *_frame()], trainer=trainer)
    tokenizer.add_tokens([AddedToken(prompt, normalized=False) for prompt in prompts])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def _numbers() -> list[str]:
    """Every edge of a box, often enough to become one token each."""
    return [f"{number},{number} {number}" for number in range(BOX_GRID + 1)] * _REPEATS


def _lexicon() -> list[str]:
    """Every value of every field, the rare and the never drawn ones too."""
    return [
        f'","{name}":"{value}"}}'
        for organ in PHANTOM_ORGANS
        for name in fields(organ)
        for value in field_values(organ, name)
    ] * _REPEATS


def _frame() -> list[str]:
    """What stands around answers: the roles, the organ sentences, the brackets of boxes."""
    sentences = [ORGAN_SENTENCES[organ] for organ in PHANTOM_ORGANS]
    return ["system", "user", "assistant", *sentences, _BOXES] * _REPEATS
