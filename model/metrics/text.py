"""Figures that compare written texts with reference texts, from maintained libraries.

What a figure needs of a case is counted once; the figure itself is a function of how often each case counts,
so that its interval (`sonoloop.model.resampling`) takes a product of matrices instead of new counting.

Shape letters: R draws, N cases
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from sonoloop.model.metrics.tokens import Tokenizer
from sonoloop.model.resampling import Array, Statistic, mean
from sonoloop.platform.errors import ConfigError

MAX_ORDER = 4
DEFINITIONS = {
    "BLEU": "corpus BLEU of orders 1 to n, 0..1: geometric mean of the clipped n-gram precisions times the "
    "brevity penalty, one reference, no smoothing, so 0 where no n-gram of an order is met (sacrebleu; "
    "Papineni et al., ACL 2002)",
    "ROUGE-1": "mean over cases of the F1 of single words (rouge-score; Lin, ACL Workshop 2004)",
    "ROUGE-L": "mean over cases of the F1 of the longest common subsequence (rouge-score; Lin, ACL Workshop "
    "2004)",
    "METEOR": "mean over cases of METEOR with alpha 0.9, beta 3, gamma 0.5 (nltk; Lavie and Agarwal, ACL "
    "Workshop 2007), exact and stem modules for English, exact alone for Chinese, no WordNet synonyms",
    "edit distance": "mean over cases of the Levenshtein distance in words by the longer text's words, 0..1 "
    "(rapidfuzz)",
}


@dataclass(frozen=True, eq=False)
class TextCounts:
    """What the figures need of each case.

    Attributes:
        bleu_N: ``(N, 10)``: words of the answer and of the reference, then n-grams met of orders 1 to 4, then
            n-grams written of orders 1 to 4.
        rouge_1_N: F1 of single words, 0..1.
        rouge_l_N: F1 of the longest common subsequence, 0..1.
        meteor_N: METEOR, 0..1.
        edit_N: Edit distance, 0..1.
    """

    bleu_N: Array
    rouge_1_N: Array
    rouge_l_N: Array
    meteor_N: Array
    edit_N: Array


def count_texts(answers: Sequence[str], references: Sequence[str], tokenizer: Tokenizer) -> TextCounts:
    """Count each answer against its one reference.

    Args:
        answers: What was written; empty where nothing was.
        references: What should have been, in the same order.
        tokenizer: How both are cut.

    Raises:
        ValueError: lengths that differ.
        ConfigError: nltk is not installed.
    """
    rouge = RougeScorer(["rouge1", "rougeL"], tokenizer=tokenizer)
    bleu = BLEU(tokenize="none", smooth_method="none", effective_order=True)  # counts are the same for any
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        said, wanted = tokenizer.tokenize(answer), tokenizer.tokenize(reference)
        counted = bleu.sentence_score(" ".join(said), [" ".join(wanted)])
        f1 = rouge.score(reference, answer)
        rows.append(
            [
                *(counted.sys_len, counted.ref_len, *counted.counts, *counted.totals),
                *(f1["rouge1"].fmeasure, f1["rougeL"].fmeasure),
                meteor(said, wanted, stemmed=tokenizer.stemmed),
                Levenshtein.normalized_distance(said, wanted),
            ]
        )
    table = np.asarray(rows, np.float64).reshape(len(rows), 14)
    return TextCounts(table[:, :10], *table[:, 10:].T)


def text_statistics(counts: TextCounts) -> dict[str, Statistic]:
    """The figures of counted texts by name, in the order of the published tables."""
    return {
        **{f"BLEU-{order}": bleu(counts.bleu_N, order) for order in range(1, MAX_ORDER + 1)},
        "ROUGE-1": mean(counts.rouge_1_N.tolist()),
        "ROUGE-L": mean(counts.rouge_l_N.tolist()),
        "METEOR": mean(counts.meteor_N.tolist()),
        "edit distance": mean(counts.edit_N.tolist()),
    }


def bleu(counts_N: Array, order: int) -> Statistic:
    """Corpus BLEU from each case's counts, see `TextCounts.bleu_N`; undefined where nothing is drawn.

    The counts are sacrebleu's. The formula stands here because a thousand draws are one product of matrices;
    a test holds it to `sacrebleu.metrics.BLEU.corpus_score`.

    Source: Papineni et al., ACL 2002, section 2.3.
    """

    def figure(weights_RN: Array) -> Array:
        sums = weights_RN @ counts_N
        said, wanted = sums[:, 0], sums[:, 1]
        met, written = sums[:, 2 : 2 + order], sums[:, 2 + MAX_ORDER : 2 + MAX_ORDER + order]
        with np.errstate(divide="ignore", invalid="ignore"):
            brevity = np.exp(np.minimum(0, 1 - wanted / said))
            precision = np.exp(np.log(met / written).mean(axis=1))
        found = np.where((met > 0).all(axis=1), precision * brevity, 0.0)
        return np.where(wanted > 0, found, np.nan)

    return figure


class _NoSynonyms:
    """Stands for WordNet, whose data is no part of nltk: a word has no other meaning's name."""

    def synsets(self, _word: str) -> list[object]:
        return []


class _Unstemmed:
    """Stands for the stemmer where words have no stem: a word is its own."""

    def stem(self, word: str) -> str:
        return word


def meteor(said: Sequence[str], wanted: Sequence[str], *, stemmed: bool) -> float:
    """METEOR of one answer, without synonyms.

    Args:
        said: Words of the answer.
        wanted: Words of the reference.
        stemmed: Whether words that share an English stem meet.

    Raises:
        ConfigError: nltk is not installed.
    """
    try:
        from nltk.stem.porter import PorterStemmer
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError as err:
        raise ConfigError("METEOR needs nltk; install it with `pip install 'sonoloop[train]'`") from err
    if not said or not wanted:
        return 0.0
    stemmer = PorterStemmer() if stemmed else _Unstemmed()
    return float(single_meteor_score(wanted, said, preprocess=str, stemmer=stemmer, wordnet=_NoSynonyms()))
