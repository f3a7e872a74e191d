"""Configurations on the same utterances: by how much their word error rates differ, what chance explains, and where they differ."""

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

ANCHOR = "anchor"
RESAMPLINGS = 2_000


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the same utterances.

    Args:
        ours: name of the one; see ``report.label``.
        theirs: name of the other, or ``anchor``.
        difference: ours' word error rate less theirs, as a fraction.
        interval: of the difference, 95 %, by a paired bootstrap over utterances.
        p: two-sided; how often chance gives a difference of the other sign.
        not_worse: share of the utterances that ours has no more errors in.
    """

    ours: str
    theirs: str
    difference: float
    interval: tuple[float, float]
    p: float
    not_worse: float


def compare(found: dict[str, list[Transcript]]) -> list[Comparison]:
    """Compare every configuration with the anchor, where it is there, and with every other one, on the same resampled utterances.

    A paired bootstrap after Bisani and Ney (ICASSP 2004); see ``metrics.bootstrap_interval``.
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
    """Return the 95 % interval of resampled differences, and how often chance gives one of the other sign, two-sided."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Plus one: no number of resamplings proves that chance is impossible (Davison and Hinkley, 1997, 4.2).
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)) + 1
    return (float(low), float(high)), min(1.0, 2 * tail / (len(drawn) + 1))


def alignment(reference: str, hypothesis: str) -> list[tuple[str, str, str]]:
    """Return runs of words: equal, replace, delete or insert, what was said, what was heard."""
    words, heard = reference.split(), hypothesis.split()
    return [
        (each.tag, " ".join(words[each.src_start : each.src_end]), " ".join(heard[each.dest_start : each.dest_end]))
        for each in Levenshtein.opcodes(words, heard)
    ]


class Run(BaseModel):
    """One of two runs that are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    configuration: str
    device: str
    score: Score


class Differing(BaseModel):
    """An utterance that two runs heard differently, all texts as they were counted: after the normaliser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    reference: str
    hypothesis_a: str
    hypothesis_b: str
    errors_a: int
    errors_b: int

    @property
    def loss(self) -> int:
        """How many errors more B has than A; negative where it has fewer."""
        return self.errors_b - self.errors_a


class RunComparison(BaseModel):
    """Two runs on the same utterances. Rates as fractions; every difference is B less A, so below 0 B has fewer errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    normalizer: str
    utterances: int
    words: int
    a: Run
    b: Run
    difference: float = Field(description="word error rate of B less that of A")
    interval: tuple[float, float] = Field(description="of the difference, 95 %, by a paired bootstrap over utterances")
    p: float = Field(description="two-sided; how often chance gives a difference of the other sign")
    better: int = Field(description="utterances in which B has fewer errors than A")
    worse: int = Field(description="utterances in which B has more errors than A")
    equal: int = Field(description="utterances in which both have as many errors")
    differing: tuple[Differing, ...] = Field(description="the utterances that were heard differently, in the order of the set")

    @property
    def by_chance(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return self.interval[0] <= 0 <= self.interval[1]

    @property
    def worsened(self) -> list[Differing]:
        """The utterances in which B has more errors, the largest loss first."""
        return sorted((each for each in self.differing if each.loss > 0), key=lambda each: -each.loss)

    @property
    def bettered(self) -> list[Differing]:
        """The utterances in which B has fewer errors, the largest gain first."""
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
    """Return what ``compare_runs`` returns, and the resampled differences that its interval is of: for a plot."""
    normalise = normaliser(normalizer)
    (first, ours), (second, unsorted) = read_evaluation(a), read_evaluation(b)
    theirs = _same_utterances(ours, unsorted, a, b)
    texts = [tuple(map(normalise, (mine.reference, mine.hypothesis, other.hypothesis))) for mine, other in zip(ours, theirs, strict=True)]
    counts = [[count_errors(reference, heard) for heard in both] for reference, *both in texts]
    errors, words = np.array([[each.errors for each in both] for both in counts]), [both[0].words for both in counts]
    runs = (_run(a, first, score(ours, normalizer)), _run(b, second, score(theirs, normalizer)))
    rates = resampled_rates(errors, words, RESAMPLINGS)
    drawn = rates[:, 1] - rates[:, 0]
    interval, p = _chance(drawn)
    loss = errors[:, 1] - errors[:, 0]
    comparison = RunComparison(
        normalizer=normalizer,
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
            Differing(
                id=each.id, reference=reference, hypothesis_a=heard_a, hypothesis_b=heard_b, errors_a=one.errors, errors_b=other.errors
            )
            for each, (reference, heard_a, heard_b), (one, other) in zip(ours, texts, counts, strict=True)
            if heard_a.split() != heard_b.split()
        ),
    )
    return comparison, drawn


def _run(folder: Path, result: Evaluation, scored: Score) -> Run:
    return Run(folder=folder, configuration=result.configuration, device=result.device, score=scored)


def _same_utterances(ours: Sequence[Transcript], theirs: Sequence[Transcript], a: Path, b: Path) -> list[Transcript]:
    """Return the second run's transcripts in the order of the first's.

    Raises:
        AsrDeployError: their utterances or references are not the same.
    """
    sides = {a: ours, b: theirs} if a != b else {a: ours}
    for folder, lines in sides.items():
        if len({each.id for each in lines}) < len(lines):
            raise AsrDeployError(f"{folder} has two transcripts of one utterance; evaluate again.")
    found = {each.id: each for each in theirs}
    known = {each.id for each in ours}
    for one, other, lacking in (
        (a, b, [each.id for each in ours if each.id not in found]),
        (b, a, [each for each in found if each not in known]),
    ):
        if lacking:
            raise AsrDeployError(
                f"{one} has {len(lacking)} utterance{'s' * (len(lacking) > 1)} that {other} has not, such as {lacking[0]}; "
                "only runs of the same utterances can be compared."
            )
    for each in ours:
        if each.reference.split() != found[each.id].reference.split():
            raise AsrDeployError(
                f"What was said in {each.id} is “{_short(each.reference)}” in {a} and “{_short(found[each.id].reference)}” in {b}; "
                "only runs with the same references can be compared."
            )
    return [found[each.id] for each in ours]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
