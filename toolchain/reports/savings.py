"""Several curves of one test case side by side: which method sends fewer bits at the same word error rate, and what chance explains."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_runner.errors import AsrDeployError
from device_runner.transcripts import Transcript, read_transcripts
from toolchain.accuracy.comparison import ANCHOR
from toolchain.accuracy.scoring import TRANSCRIPTS, read_evaluation
from toolchain.scenario.points import FEWEST_IN_RANGE, Curve, Point, pareto


@dataclass(frozen=True)
class Saving:
    """How many bits a method saves against another on average over the word error rates that both reach.

    Args:
        share: of the bits; negative where it needs more.
        wer: the range of word error rates, as fractions.
    """

    method: str
    against: str
    share: float
    wer: tuple[float, float]


def merged(curves: Sequence[Curve]) -> Curve:
    """Return one curve with the points of all.

    Raises:
        AsrDeployError: they are of different test cases or sets, or the anchor differs.
    """
    first = curves[0]
    for other in curves[1:]:
        if any(getattr(first, name) != getattr(other, name) for name in ("test_case", "data", "split", "anchor_size_bits", "anchor_wer")):
            raise AsrDeployError("These curves are of different test cases, sets or anchors; a report needs one of each.")
    if len({identity for curve in curves if (identity := _anchor_identity(curve)) is not None}) > 1:
        raise AsrDeployError("These curves' anchors have one name and different weights; a report needs one anchor.")
    points: dict[tuple[str, str, int], Point] = {}
    for curve in curves:
        points |= {(point.method, point.configuration, point.size_bits): point for point in curve.points}
    return first.model_copy(update={"points": tuple(points.values())})


def _anchor_identity(curve: Curve) -> str | None:
    """Return what tells a curve's anchor from others; None where its evaluation is no longer there."""
    try:
        return read_evaluation(curve.anchor_evaluation)[0].identity
    except AsrDeployError:
        return None


def savings(curve: Curve) -> list[Saving]:
    """Compare every pair of methods that have enough points.

    After Bjøntegaard, "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001): the mean difference of the logarithms
    of the sizes over the word error rates that both reach. Piecewise linear instead of a cubic, through the points that no smaller one is
    as good as: word error rates of a finite set are not monotone.
    """
    hulls = {
        method: hull
        for method in dict.fromkeys(point.method for point in curve.points)
        if len(hull := pareto([point for point in curve.points if point.method == method])) > 1
    }
    found = []
    for method, ours in hulls.items():
        for against, theirs in hulls.items():
            low, high = max(ours[-1].wer, theirs[-1].wer), min(ours[0].wer, theirs[0].wer)
            high = min(high, curve.anchor_wer + curve.wer_range)
            if method == against or low >= high:
                continue
            rates = np.linspace(low, high, 101)
            sizes = [
                np.interp(rates, [each.wer for each in reversed(hull)], [np.log(each.size_bits) for each in reversed(hull)])
                for hull in (ours, theirs)
            ]
            share = 1 - float(np.exp(np.trapezoid(sizes[0] - sizes[1], rates) / (high - low)))
            found.append(Saving(method, against, share, (low, high)))
    return found


def label(point: Point) -> str:
    """Return a configuration's name with what is fixed of its method, which tells methods of one codec apart."""
    return ", ".join([point.configuration, *point.method.split(", ")[1:]])


def transcripts_of(curve: Curve) -> tuple[dict[str, list[Transcript]], list[str]]:
    """Return the transcripts of the anchor and of every configuration by its label, and a sentence on each that has none.

    Raises:
        AsrDeployError: transcripts are not of the same utterances.
    """
    folders = {ANCHOR: curve.anchor_evaluation} | {label(point): point.evaluation for point in curve.points}
    found = {name: read_transcripts(folder / TRANSCRIPTS) for name, folder in folders.items()}
    missing = [f"{folders[name]} has no transcripts: {name} is not compared." for name, lines in found.items() if not lines]
    found = {name: lines for name, lines in found.items() if lines}
    ids = {tuple(each.id for each in lines) for lines in found.values()}
    if len(ids) > 1:
        raise AsrDeployError("These curves' transcripts are not of the same utterances; run the sweeps again.")
    return found, missing


def incomplete(curve: Curve) -> list[str]:
    """Return a sentence for every method that has too few points in the range."""
    counts: Counter[str] = Counter()
    for point in curve.points:
        counts[point.method] += point.in_range
    return [
        f"{method} has {count} points in the range; a complete test case has {FEWEST_IN_RANGE}."
        for method, count in counts.items()
        if count < FEWEST_IN_RANGE
    ]
