"""Word error rates: counts per utterance, the corpus figure, its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class ErrorCounts:
    """Word-level edits that turn a reference into a hypothesis, and the reference's words."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the edits of a minimal word alignment; words are what ``str.split`` finds."""
    words, heard = reference.split(), hypothesis.split()
    counts = {"replace": 0, "delete": 0, "insert": 0}
    for edit in Levenshtein.editops(words, heard):
        counts[edit.tag] += 1
    return ErrorCounts(counts["replace"], counts["delete"], counts["insert"], len(words))


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], *, confidence: float = 0.95, samples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the corpus word error rate, resampling utterances.

    After Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004).

    Args:
        errors: word errors of every utterance.
        words: reference words of every utterance, in the same order.
        confidence: share of the resampled rates inside the interval.
        samples: resamplings.
        seed: of the resampling; the same seed gives the same interval.
    """
    rates = resampled_rates(np.asarray(errors)[:, None], words, samples, seed)[:, 0]
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_rates(errors: npt.NDArray[np.int64], words: Sequence[int], samples: int = 2_000, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return corpus rates ``[samples, columns]`` of errors ``[utterances, columns]``, all columns resampled alike: for pairs."""
    counts = np.concatenate([errors, np.asarray(words)[:, None]], axis=1)
    rng = np.random.default_rng(seed)
    # Multiplicities instead of indices: memory is samples x utterances either way, and one product sums them all.
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=samples) @ counts
    return np.asarray(drawn[:, :-1] / np.maximum(drawn[:, -1:], 1))
