"""Word and character error rates (WER, CER): error counts of utterances, and bootstrap intervals of the corpus rates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class ErrorCounts:
    """Word-level edits that turn a reference into a hypothesis, and the number of reference words."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        """Sum of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the edits of a minimal word alignment. Texts are split at white space."""
    words, found = reference.split(), hypothesis.split()
    counts = {"replace": 0, "delete": 0, "insert": 0}
    for edit in Levenshtein.editops(words, found):
        counts[edit.tag] += 1
    return ErrorCounts(counts["replace"], counts["delete"], counts["insert"], len(words))


def count_character_errors(reference: str, hypothesis: str, *, spaced: bool = True) -> tuple[int, int]:
    """Count the edits of a minimal alignment of characters.

    Args:
        reference: Reference; runs of white space count as one space.
        hypothesis: Hypothesis.
        spaced: Whether spaces between words count as characters, as in jiwer and torchmetrics. False for languages without them.

    Returns:
        Number of edits, and number of characters of the reference.
    """
    between = " " if spaced else ""
    said, heard = between.join(reference.split()), between.join(hypothesis.split())
    return Levenshtein.distance(said, heard), len(said)


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], *, confidence: float = 0.95, samples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the corpus WER. Utterances are resampled.

    After Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004).

    Args:
        errors: Number of word errors of every utterance.
        words: Number of reference words of every utterance, in the same order.
        confidence: Share of the resampled rates inside the interval.
        samples: Number of resamplings.
        seed: Seed of the resampling. The same seed gives the same interval.
    """
    rates = resampled_rates(np.asarray(errors)[:, None], words, samples, seed)[:, 0]
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_rates(errors: npt.NDArray[np.int64], words: Sequence[int], samples: int = 2_000, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return the corpus WER of every resampling and column. All columns use the same resampled utterances, so they can be compared.

    Args:
        errors: Word errors ``[utterances, columns]``.
        words: Number of reference words of every utterance.
        samples: Number of resamplings.
        seed: Seed of the resampling.

    Returns:
        Rates ``[samples, columns]``, as fractions.
    """
    counts = np.concatenate([errors, np.asarray(words)[:, None]], axis=1)
    rng = np.random.default_rng(seed)
    # Multiplicities instead of indices: both take samples x utterances of memory, but one matrix product sums multiplicities.
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=samples) @ counts
    return np.asarray(drawn[:, :-1] / np.maximum(drawn[:, -1:], 1))
