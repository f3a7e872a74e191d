"""Comparison of runs on the same utterances: difference in WER (or CER), its significance, and the utterances that differ."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from rapidfuzz.distance import Levenshtein

from device_runner.errors import AsrDeployError
from device_runner.transcripts import Transcript
from toolchain.accuracy.metrics import count_errors, resampled_rates
from toolchain.accuracy.scoring import Evaluation, Score, read_evaluation, score
from toolchain.data.normalisers import NONE, normaliser

logger = logging.getLogger("asrdeploy")

ANCHOR = "anchor"
RESAMPLINGS = 2_000


@dataclass(frozen=True)
class Comparison:
    """Comparison of two configurations on the same utterances.

    Args:
        ours: Name of the first configuration.
        theirs: Name of the second configuration, or ``anchor``.
        difference: WER of the first minus WER of the second, as a fraction.
        interval: 95 % interval of the difference, by a paired bootstrap over utterances.
        p: Two-sided p-value: how often resampling gives a difference of the other sign.
        not_worse: Share of the utterances in which the first has no more errors than the second.
    """

    ours: str
    theirs: str
    difference: float
    interval: tuple[float, float]
    p: float
    not_worse: float


def compare(found: dict[str, list[Transcript]]) -> list[Comparison]:
    """Compare every pair of configurations on the same resampled utterances. The anchor, if there is one, is always the second.

    The method is a paired bootstrap after Bisani and Ney (ICASSP 2004); see ``metrics.bootstrap_interval``.

    Args:
        found: Transcripts of the same utterances in the same order, by configuration.
    """
    if not found:
        return []
    names = sorted(found, key=lambda name: name == ANCHOR)
    errors = np.array([[each.errors for each in found[name]] for name in names]).T
    words = [each.words for each in next(iter(found.values()))]
    rates = resampled_rates(errors, words, RESAMPLINGS)
    comparisons = []
    for ours, theirs in combinations(range(len(names)), 2):
        interval, p = _chance(rates[:, ours] - rates[:, theirs])
        comparisons.append(
            Comparison(
                ours=names[ours],
                theirs=names[theirs],
                difference=float(errors[:, ours].sum() - errors[:, theirs].sum()) / sum(words),
                interval=interval,
                p=p,
                not_worse=float(np.mean(errors[:, ours] <= errors[:, theirs])),
            )
        )
    return comparisons


def _chance(drawn: npt.NDArray[np.float64]) -> tuple[tuple[float, float], float]:
    """Return the 95 % interval of resampled differences, and the two-sided p-value."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Plus one, because p is never exactly 0 (Davison and Hinkley, 1997, 4.2).
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)) + 1
    return (float(low), float(high)), min(1.0, 2 * tail / (len(drawn) + 1))


def alignment(reference: str, hypothesis: str) -> list[tuple[str, str, str]]:
    """Align a hypothesis with its reference.

    Returns:
        Runs of words: ``equal``, ``replace``, ``delete`` or ``insert``, the words of the reference, and the words of the hypothesis.
    """
    words, found = reference.split(), hypothesis.split()
    return [
        (each.tag, " ".join(words[each.src_start : each.src_end]), " ".join(found[each.dest_start : each.dest_end]))
        for each in Levenshtein.opcodes(words, found)
    ]


class Run(BaseModel):
    """One of two runs that are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    configuration: str
    device: str
    score: Score


class Differing(BaseModel):
    """An utterance that two runs transcribed differently. All texts are normalised, as they were for counting errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    reference: str
    hypothesis_a: str
    hypothesis_b: str
    errors_a: int
    errors_b: int

    @property
    def loss(self) -> int:
        """Errors of B minus errors of A."""
        return self.errors_b - self.errors_a


class RunComparison(BaseModel):
    """Comparison of two runs on the same utterances. Rates are fractions. Differences are B minus A: below 0, B has fewer errors.

    In languages without spaces between words, characters take the place of words in all figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    normalizer: str
    main: Literal["wer", "cer"] = Field(default="wer", description="rate that is compared; cer for languages without spaces")
    utterances: int
    words: int = Field(description="words of the references, or characters if main is cer")
    a: Run
    b: Run
    difference: float = Field(description="WER (or CER) of B minus that of A")
    interval: tuple[float, float] = Field(description="95 % interval of the difference, by a paired bootstrap over utterances")
    p: float = Field(description="two-sided p-value: how often resampling gives a difference of the other sign")
    better: int = Field(description="number of utterances in which B has fewer errors than A")
    worse: int = Field(description="number of utterances in which B has more errors than A")
    equal: int = Field(description="number of utterances in which both have the same number of errors")
    differing: tuple[Differing, ...] = Field(description="utterances with different transcripts, in the order of the test set")

    @property
    def by_chance(self) -> bool:
        """Whether the interval of the difference contains 0."""
        return self.interval[0] <= 0 <= self.interval[1]

    @property
    def worsened(self) -> list[Differing]:
        """Utterances in which B has more errors, largest difference first."""
        return sorted((each for each in self.differing if each.loss > 0), key=lambda each: -each.loss)

    @property
    def bettered(self) -> list[Differing]:
        """Utterances in which B has fewer errors, largest difference first."""
        return sorted((each for each in self.differing if each.loss < 0), key=lambda each: each.loss)


def compare_runs(a: str | Path, b: str | Path, normalizer: str = NONE) -> RunComparison:
    """Compare two finished evaluations utterance by utterance, and test whether the difference of their WER is significant.

    Example:
        >>> comparison = asrdeploy.compare("results/fp32", "results/int8")  # doctest: +SKIP
        >>> comparison.difference, comparison.interval, comparison.p  # doctest: +SKIP

    Args:
        a: Folder of the first evaluation.
        b: Folder of the second evaluation.
        normalizer: Name of the normaliser for references and hypotheses.

    Returns:
        The WER of both, the difference (B minus A, as a fraction) with its 95 % interval, and the utterances that differ.

    Raises:
        AsrDeployError: If the normaliser is unknown, a folder has no finished evaluation, or the utterances or references differ.
    """
    return compare_with_differences(Path(a), Path(b), normalizer)[0]


def compare_with_differences(a: Path, b: Path, normalizer: str = NONE) -> tuple[RunComparison, npt.NDArray[np.float64]]:
    """Return the comparison of ``compare_runs``, and the resampled differences ``[resamplings]`` for a plot."""
    (first, ours), (second, unsorted) = read_evaluation(a), read_evaluation(b)
    words_only = normaliser(normalizer)
    if first.language != second.language:
        languages = [each.language or "no language" for each in (first, second)]
        logger.warning(f"{a} was scored with {languages[0]}, and {b} with {languages[1]}. Both are compared with {languages[0]}.")
    # Where no spaces separate words, every character is compared like a word.
    normalise = words_only if first.main == "wer" else lambda text: " ".join("".join(words_only(text).split()))
    theirs = _same_utterances(ours, unsorted, a, b)
    texts = [tuple(map(normalise, (mine.reference, mine.hypothesis, other.hypothesis))) for mine, other in zip(ours, theirs, strict=True)]
    counts = [[count_errors(reference, hypothesis) for hypothesis in both] for reference, *both in texts]
    errors, words = np.array([[each.errors for each in both] for both in counts]), [both[0].words for both in counts]
    runs = (_run(a, first, score(ours, normalizer, first.language)), _run(b, second, score(theirs, normalizer, first.language)))
    rates = resampled_rates(errors, words, RESAMPLINGS)
    drawn = rates[:, 1] - rates[:, 0]
    interval, p = _chance(drawn)
    loss = errors[:, 1] - errors[:, 0]
    comparison = RunComparison(
        normalizer=normalizer,
        main=first.main,
        utterances=len(ours),
        words=sum(words),
        a=runs[0],
        b=runs[1],
        difference=int(loss.sum()) / sum(words),
        interval=interval,
        p=p,
        better=int(np.count_nonzero(loss < 0)),
        worse=int(np.count_nonzero(loss > 0)),
        equal=int(np.count_nonzero(loss == 0)),
        differing=tuple(
            Differing(id=each.id, reference=reference, hypothesis_a=text_a, hypothesis_b=text_b, errors_a=one.errors, errors_b=other.errors)
            for each, (reference, text_a, text_b), (one, other) in zip(ours, texts, counts, strict=True)
            if text_a.split() != text_b.split()
        ),
    )
    return comparison, drawn


def _run(folder: Path, result: Evaluation, scored: Score) -> Run:
    return Run(folder=folder, configuration=result.configuration, device=result.device, score=scored)


def _same_utterances(ours: Sequence[Transcript], theirs: Sequence[Transcript], a: Path, b: Path) -> list[Transcript]:
    """Return the transcripts of the second run in the order of the first.

    Raises:
        AsrDeployError: Utterances or references differ.
    """
    found = {each.id: each for each in theirs}
    known = {each.id for each in ours}
    for one, other, lacking in (
        (a, b, [each.id for each in ours if each.id not in found]),
        (b, a, [each for each in found if each not in known]),
    ):
        if lacking:
            raise AsrDeployError(
                f"{one} has {len(lacking)} utterance{'s' * (len(lacking) > 1)} that {other} does not have, for example {lacking[0]}. "
                "Only runs on the same utterances can be compared."
            )
    for each in ours:
        if each.reference.split() != found[each.id].reference.split():
            raise AsrDeployError(
                f"The reference of {each.id} is “{_short(each.reference)}” in {a} and “{_short(found[each.id].reference)}” in {b}. "
                "Only runs with the same references can be compared. Repeat `asrdeploy evaluate` for both: their transcripts stay."
            )
    return [found[each.id] for each in ours]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
