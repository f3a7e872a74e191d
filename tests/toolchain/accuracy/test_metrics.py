"""Word errors compared with manual counts, a plain dynamic program and torcheval; the interval of the corpus WER."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torcheval.metrics import WordErrorRate

from toolchain.accuracy.metrics import ErrorCounts, bootstrap_interval, count_errors, resampled_rates

WORDS = st.lists(st.sampled_from(["ONE", "TWO", "THREE", "ONE'S", "O"]), max_size=9)
PAIRS = st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=6)


@pytest.mark.parametrize(
    "reference, hypothesis, substitutions, deletions, insertions",
    [
        ("ONE TWO THREE", "ONE TWO THREE", 0, 0, 0),
        ("ONE TWO THREE", "ONE FOUR THREE", 1, 0, 0),
        ("ONE TWO THREE", "ONE THREE", 0, 1, 0),
        ("ONE TWO THREE", "ONE TWO TWO THREE", 0, 0, 1),
        ("ONE TWO THREE", "", 0, 3, 0),
        ("ONE TWO THREE", "   ", 0, 3, 0),
        ("ONE", "TWO THREE FOUR", 1, 0, 2),
        ("FIVE FIVE FIVE", "FIVE", 0, 2, 0),
        ("FIVE", "FIVE FIVE FIVE", 0, 0, 2),
        ("ONE TWO THREE FOUR", "TWO THREE FOUR FIVE", 0, 1, 1),
        ("IT'S ONE", "ITS ONE", 1, 0, 0),
        ("ONE TWO", " ONE  TWO ", 0, 0, 0),
        ("ONE", "one", 1, 0, 0),
    ],
)
def test_golden(reference: str, hypothesis: str, substitutions: int, deletions: int, insertions: int) -> None:
    counts = count_errors(reference, hypothesis)
    assert counts == ErrorCounts(substitutions, deletions, insertions, len(reference.split()))
    assert counts.errors == substitutions + deletions + insertions


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(hypothesis) + 1))
    for number, word in enumerate(reference, 1):
        before, row = row, [number]
        for place, heard in enumerate(hypothesis, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != heard)))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(WORDS, WORDS)
def test_errors_are_a_minimal_alignment(reference: list[str], hypothesis: list[str]) -> None:
    counts = count_errors(" ".join(reference), " ".join(hypothesis))
    assert counts.errors == distance(reference, hypothesis)
    # The three kinds fit the lengths for every minimal alignment.
    assert counts.insertions - counts.deletions == len(hypothesis) - len(reference)
    assert counts.words == len(reference) >= counts.substitutions + counts.deletions


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_the_corpus_rate_is_torchevals(pairs: list[tuple[list[str], list[str]]]) -> None:
    references, hypotheses = ([" ".join(each) for each in side] for side in zip(*pairs, strict=True))
    metric = WordErrorRate()
    metric.update(hypotheses, references)
    counts = [count_errors(*pair) for pair in zip(references, hypotheses, strict=True)]
    ours = sum(each.errors for each in counts) / sum(each.words for each in counts)
    assert float(metric.compute()) == pytest.approx(ours, abs=1e-6)


def test_the_corpus_rate_is_no_mean_of_rates() -> None:
    pairs = [("ONE", "TWO"), ("ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE", "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE")]
    counts = [count_errors(*pair) for pair in pairs]
    metric = WordErrorRate()
    metric.update([hypothesis for _, hypothesis in pairs], [reference for reference, _ in pairs])
    assert sum(each.errors for each in counts) / sum(each.words for each in counts) == pytest.approx(0.1)
    assert float(metric.compute()) == pytest.approx(0.1)
    assert np.mean([each.errors / each.words for each in counts]) == 0.5


def drawn(utterances: int, rate: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Draw errors and words of utterances whose words are wrong with a probability of ``rate``."""
    rng = np.random.default_rng(seed)
    words = rng.integers(2, 8, utterances)
    return rng.binomial(words, rate).tolist(), words.tolist()


@settings(max_examples=40, deadline=None)
@given(utterances=st.integers(30, 300), rate=st.floats(0.02, 0.5), seed=st.integers(0, 1000))
def test_interval_contains_the_rate(utterances: int, rate: float, seed: int) -> None:
    errors, words = drawn(utterances, rate, seed)
    assume(sum(errors) > 0)
    low, high = bootstrap_interval(errors, words)
    assert 0 <= low <= sum(errors) / sum(words) <= high
    assert low < high


def test_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(*drawn(150, 0.1, seed), samples=400)
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_is_deterministic() -> None:
    errors, words = drawn(100, 0.1)
    assert bootstrap_interval(errors, words) == bootstrap_interval(errors, words) == bootstrap_interval(tuple(errors), np.array(words))
    assert bootstrap_interval(errors, words) != bootstrap_interval(errors, words, seed=1)


def test_interval_without_errors_or_without_spread() -> None:
    assert bootstrap_interval([0, 0, 0], [2, 3, 4]) == (0.0, 0.0)
    assert bootstrap_interval([1], [4]) == (0.25, 0.25)
    assert bootstrap_interval([4, 6], [2, 3]) == (2.0, 2.0)


def test_interval_narrows_with_utterances_and_widens_with_confidence() -> None:
    def width(utterances: int, **options: float) -> float:
        low, high = bootstrap_interval(*drawn(utterances, 0.1), **options)  # type: ignore[arg-type]
        return high - low

    assert width(50) > 1.5 * width(400) > 2.25 * width(3200)
    assert width(100, confidence=0.5) < width(100, confidence=0.9) < width(100, confidence=0.99)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_interval_leaves_out_as_much_below_as_above(confidence: float) -> None:
    errors, words = drawn(100, 0.1)
    rates = np.sort(resampled_rates(np.asarray(errors)[:, None], words, 4_000, 0)[:, 0])
    low, high = bootstrap_interval(errors, words, confidence=confidence, samples=4_000)
    outside = (1 - confidence) / 2
    assert np.mean(rates < low) == pytest.approx(outside, abs=0.01) and np.mean(rates > high) == pytest.approx(outside, abs=0.01)
    assert bootstrap_interval(errors, words) == bootstrap_interval(errors, words, confidence=0.95, samples=2_000, seed=0)


def test_columns_are_resampled_alike() -> None:
    first, words = drawn(60, 0.1)
    columns = np.array([first, [2 * each for each in first], words]).T
    rates = resampled_rates(columns, words)
    assert rates.shape == (2_000, 3)
    assert np.array_equal(rates[:, 0], resampled_rates(columns[:, :1], words, 2_000, seed=0)[:, 0])
    assert np.allclose(rates[:, 1], 2 * rates[:, 0]) and np.array_equal(rates[:, 2], np.ones(2_000))
