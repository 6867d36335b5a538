"""How a text is cut into words before figures are made of it; each way has a name that results carry.

| name | text is cut | METEOR's modules |
|---|---|---|
| 13a, lower case | as mteval-v13a does: punctuation stands apart (sacrebleu) | exact, stem |
| jieba words | into Chinese words by jieba's own dictionary and HMM; other scripts at their spaces | exact |
| characters | each Chinese character alone, the rest as 13a does (sacrebleu's ``zh``) | exact |
| white space | at white space only, case kept: what pycocoevalcap makes of plain text | exact, stem |
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from sonoloop.platform.errors import ConfigError

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Tokenizer:
    """One way to cut a text.

    Attributes:
        name: As results carry it, with the library's version.
        short: As the head of a column carries it.
        tokenize: From a text to its words; rouge-score calls it by this name.
        stemmed: Whether words of this kind have an English stem, for METEOR.
    """

    name: str
    short: str
    tokenize: Callable[[str], list[str]]
    stemmed: bool


def is_chinese(text: str) -> bool:
    """Whether a text holds a Chinese character."""
    return _HAN.search(text) is not None


def tokenizers_for(references: Iterable[str]) -> tuple[Tokenizer, ...]:
    """The tokenizers of a data set: Chinese where any reference holds a Chinese character, else English.

    Raises:
        ConfigError: jieba is needed and not installed.
    """
    return (chinese_words(), chinese_characters()) if any(map(is_chinese, references)) else (english(),)


@cache
def english() -> Tokenizer:
    """Words of English, punctuation apart, in lower case."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    cut = Tokenizer13a()  # type: ignore[no-untyped-call]
    name = f"13a, lower case (sacrebleu {version('sacrebleu')})"
    return Tokenizer(name, "13a", lambda text: cut(text.lower()).split(), stemmed=True)


@cache
def chinese_words() -> Tokenizer:
    """Words of Chinese.

    Raises:
        ConfigError: jieba is not installed.
    """
    try:
        import jieba
    except ImportError as err:
        raise ConfigError(
            "Chinese words need jieba; install it with `pip install 'sonoloop[train]'`"
        ) from err
    jieba.setLogLevel(logging.WARNING)  # it tells of every dictionary that it loads

    def tokenize(text: str) -> list[str]:
        return [word for word in jieba.lcut(text.lower()) if not word.isspace()]

    return Tokenizer(f"jieba words (jieba {version('jieba')})", "jieba", tokenize, stemmed=False)


@cache
def chinese_characters() -> Tokenizer:
    """Characters of Chinese, words of everything else."""
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    cut = TokenizerZh()  # type: ignore[no-untyped-call]
    name = f"characters (sacrebleu {version('sacrebleu')}, zh)"
    return Tokenizer(name, "characters", lambda text: cut(text.lower()).split(), stemmed=False)


@cache
def white_space() -> Tokenizer:
    """Whatever white space separates."""
    return Tokenizer("white space, case kept", "white space", str.split, stemmed=True)
