"""Text figures against second implementations, and what their names promise."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from transformers import BertConfig, BertModel, BertTokenizerFast

from sonoloop.model.metrics.bertscore import BertScorer, f1
from sonoloop.model.metrics.text import bleu, count_texts, meteor, text_statistics
from sonoloop.model.metrics.tokens import (
    Tokenizer,
    chinese_characters,
    chinese_words,
    english,
    tokenizers_for,
    white_space,
)
from sonoloop.model.resampling import estimates_over
from sonoloop.platform.errors import ConfigError

ENGLISH = ("the", "liver", "is", "normal", "lesions", "lesion", "coarse", "echo", "seen", "no", "of")
CHINESE = ("肝脏", "大小", "正常", "回声", "均匀", "可见", "低回声", "结节", "甲状腺", "右叶", "未见", "异常")
REPORT = "肝脏大小正常，内部回声均匀，可见12mm低回声结节。"


def pairs(words: Sequence[str], glue: str, num: int, seed: int) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    texts = [glue.join(rng.choices(words, k=rng.randint(4, 14))) for _ in range(2 * num)]
    return texts[:num], texts[num:]


def grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + order]) for at in range(len(words) - order + 1))


def bleu_by_formula(said: list[list[str]], wanted: list[list[str]], order: int) -> float:
    """Clipped precisions over the corpus and the brevity penalty (Papineni et al. 2002)."""
    logs = []
    for n in range(1, order + 1):
        hits = sum((grams(s, n) & grams(w, n)).total() for s, w in zip(said, wanted, strict=True))
        total = sum(grams(s, n).total() for s in said)
        if not hits:
            return 0.0
        logs.append(math.log(hits / total))
    length, full = sum(map(len, said)), sum(map(len, wanted))
    return math.exp(sum(logs) / order) * min(1.0, math.exp(1 - full / length))


def rouge_by_formula(said: list[str], wanted: list[str], kind: str) -> float:
    if kind == "ROUGE-1":
        common = (Counter(said) & Counter(wanted)).total()
    else:
        row = [0] * (len(wanted) + 1)
        for word in said:
            before, row = row, [0]
            for place, other in enumerate(wanted):
                row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        common = row[-1]
    return 2 * common / (len(said) + len(wanted))


def meteor_by_formula(said: list[str], wanted: list[str]) -> float:
    """Lavie and Agarwal 2007 with exact matches; the last free occurrence from the end, as nltk takes it."""
    free, matches = list(range(len(wanted))), []
    for at in reversed(range(len(said))):
        place = next((p for p in reversed(free) if wanted[p] == said[at]), None)
        if place is not None:
            free.remove(place)
            matches.append((at, place))
    if not matches:
        return 0.0
    matches.sort()
    chunks = 1 + sum((a[0] + 1, a[1] + 1) != b for a, b in pairwise(matches))
    precision, recall = len(matches) / len(said), len(matches) / len(wanted)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / len(matches)) ** 3)


def value(texts: tuple[list[str], list[str]], tokenizer: Tokenizer, name: str) -> float:
    statistic = text_statistics(count_texts(*texts, tokenizer))[name]
    return float(statistic(np.ones((1, len(texts[0]))))[0])


@pytest.mark.parametrize(
    ("tokenizer", "words", "glue"),
    [(english(), ENGLISH, " "), (chinese_words(), CHINESE, ""), (chinese_characters(), CHINESE, "")],
    ids=["English", "Chinese words", "Chinese characters"],
)
@pytest.mark.parametrize("seed", range(5))
def test_every_figure_agrees_with_a_second_implementation(
    tokenizer: Tokenizer, words: tuple[str, ...], glue: str, seed: int
) -> None:
    texts = pairs(words, glue, 6, seed)
    said, wanted = ([tokenizer.tokenize(text) for text in side] for side in texts)
    for order in (1, 2, 3, 4):
        expected = bleu_by_formula(said, wanted, order)
        found = value(texts, tokenizer, f"BLEU-{order}")
        assert found == pytest.approx(expected, abs=1e-9)
        joined = [[" ".join(text) for text in side] for side in (said, wanted)]
        library = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
        assert found == pytest.approx(library.corpus_score(joined[0], [joined[1]]).score / 100, abs=1e-9)
    for name in ("ROUGE-1", "ROUGE-L"):
        each = [rouge_by_formula(s, w, name) for s, w in zip(said, wanted, strict=True)]
        assert value(texts, tokenizer, name) == pytest.approx(np.mean(each), abs=1e-9)
    if not tokenizer.stemmed:
        each = [meteor_by_formula(s, w) for s, w in zip(said, wanted, strict=True)]
        assert value(texts, tokenizer, "METEOR") == pytest.approx(np.mean(each), abs=1e-9)


def test_a_figure_over_drawn_cases_is_that_of_a_corpus_made_of_them() -> None:
    texts = pairs(ENGLISH, " ", 5, seed=9)
    counts = count_texts(*texts, english())
    weights = np.array([[2.0, 0, 1, 0, 2]])
    drawn = [0, 0, 2, 4, 4]
    again = ([texts[0][i] for i in drawn], [texts[1][i] for i in drawn])
    for name, statistic in text_statistics(counts).items():
        assert statistic(weights)[0] == pytest.approx(value(again, english(), name))


def test_meteor_meets_stems_in_english_and_never_synonyms() -> None:
    assert meteor(["lesions"], ["lesion"], stemmed=True) == pytest.approx(0.5)  # one chunk of one match
    assert meteor(["lesions"], ["lesion"], stemmed=False) == 0.0
    assert meteor(["big"], ["large"], stemmed=True) == 0.0
    assert meteor([], ["large"], stemmed=True) == 0.0


def test_equal_texts_are_perfect_and_no_answer_is_zero() -> None:
    for tokenizer in tokenizers_for([REPORT]):
        perfect, nothing = ([REPORT], [REPORT]), ([""], [REPORT])
        for name in ("BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-L"):
            assert value(perfect, tokenizer, name) == pytest.approx(1.0)
            assert value(nothing, tokenizer, name) == 0.0
        assert value(perfect, tokenizer, "edit distance") == 0.0
        assert value(nothing, tokenizer, "METEOR") == 0.0


def test_bleu_without_smoothing_is_zero_where_no_gram_of_an_order_is_met() -> None:
    counts = count_texts(["a b c d"], ["a c b d"], english()).bleu_N
    assert bleu(counts, 1)(np.ones((1, 1)))[0] == pytest.approx(1.0)
    assert bleu(counts, 4)(np.ones((1, 1)))[0] == 0.0
    assert np.isnan(bleu(counts, 1)(np.zeros((1, 1)))[0])  # a draw without any case


def test_the_tokenizers_cut_chinese_into_words_and_into_characters_and_say_so() -> None:
    words, characters = tokenizers_for(["ok", REPORT])
    assert {"肝脏", "结节", "12mm"} <= set(words.tokenize(REPORT))
    assert {"肝", "脏", "12mm"} <= set(characters.tokenize(REPORT))
    assert words.name.startswith("jieba words (jieba 0.42")
    assert characters.name.startswith("characters (sacrebleu")
    (plain,) = tokenizers_for(["The liver."])
    assert plain.tokenize("The LIVER.") == ["the", "liver", "."]
    assert white_space().tokenize("The LIVER.") == ["The", "LIVER."]


def test_intervals_hold_the_figure_and_are_the_same_again() -> None:
    texts = pairs(ENGLISH, " ", 20, seed=3)
    statistics = {name: (s, 20) for name, s in text_statistics(count_texts(*texts, english())).items()}
    first, again = (estimates_over([str(i) for i in range(20)], statistics) for _ in range(2))
    assert first == again
    for estimate in first.values():
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 20


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows the words of ENGLISH."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ENGLISH]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: at for at, word in enumerate(vocabulary)}).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    return folder


def test_bertscore_is_greedy_cosine_matching_without_special_tokens(encoder: Path) -> None:
    scorer = BertScorer(encoder)
    said, wanted = "no lesion seen", "the liver is normal"
    scores = scorer.score([said, said, "", said * 1], [wanted, said, wanted, wanted])
    model, tokenizer = BertModel.from_pretrained(encoder).eval(), BertTokenizerFast.from_pretrained(encoder)

    def states(text: str) -> list[np.ndarray]:
        with torch.no_grad():
            found = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()
        return [row / np.linalg.norm(row) for row in found]

    one, other = states(said), states(wanted)
    precision = np.mean([max(float(a @ b) for b in other) for a in one])
    recall = np.mean([max(float(a @ b) for a in one) for b in other])
    assert scores[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert scores[1] == pytest.approx(1.0, abs=1e-5)
    assert scores[2] == 0.0
    assert scores[3] == pytest.approx(scores[0], abs=1e-5)  # padding beside others changes nothing
    assert f1(torch.zeros(0, 4), torch.ones(2, 4)) == 0.0


def test_a_folder_without_an_encoder_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no encoder in Hugging Face"):
        BertScorer(tmp_path)
