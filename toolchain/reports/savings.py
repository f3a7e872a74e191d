"""Comparison of methods on one test case: the average bits saved at equal WER."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from device_runner.transcripts import Transcript, read_transcripts
from toolchain.accuracy.comparison import ANCHOR
from toolchain.accuracy.scoring import RESULT, TRANSCRIPTS, read_evaluation
from toolchain.scenario.points import FEWEST_IN_RANGE, Curve, Point, pareto

SHARED = {
    "test_case": "test cases",
    "data": "data sets",
    "split": "splits",
    "anchor_size_bits": "anchor sizes in bits",
    "anchor_wer": "anchor WERs",
}


@dataclass(frozen=True)
class Saving:
    """Average bits that one method saves against another, over the WER range that both reach.

    Args:
        method: Name of the method.
        against: Name of the method that it is compared with.
        share: Share of the bits saved; negative if the method needs more bits.
        wer: WER range, as fractions.
    """

    method: str
    against: str
    share: float
    wer: tuple[float, float]


def merged(curves: Sequence[Curve], names: Sequence[str] = ()) -> Curve:
    """Merge several curves into one that has the points of all.

    Args:
        curves: Curves of the same test case, data set and anchor.
        names: Names of the curves for messages (default: the folders of their anchors).

    Raises:
        AsrDeployError: The test cases, the data sets or the anchors differ.
    """
    first, identities = curves[0], [_anchor_identity(curve) for curve in curves]
    told = names or [shown(curve.anchor_evaluation) for curve in curves]
    for name, other in zip(told, curves, strict=True):
        for key, what in SHARED.items():
            if getattr(first, key) != getattr(other, key):
                raise AsrDeployError(
                    f"The curves of {told[0]} and {name} have different {what}: {getattr(first, key)} and {getattr(other, key)}. "
                    "Give folders of the same test case, data set and anchor."
                )
    known = {identity: name for name, identity in zip(told, identities, strict=True) if identity is not None}
    if len(known) > 1:
        raise AsrDeployError(
            f"The anchors of {' and '.join(known.values())} have the same name but different weights. Give folders that share one anchor."
        )
    points: dict[tuple[str, str, int], Point] = {}
    for curve in curves:
        points |= {(point.method, point.configuration, point.size_bits): point for point in curve.points}
    return first.model_copy(update={"points": tuple(points.values())})


def _anchor_identity(curve: Curve) -> str | None:
    """Return the identity of a curve's anchor, or None if its evaluation no longer exists."""
    try:
        return read_evaluation(curve.anchor_evaluation)[0].identity
    except AsrDeployError:
        return None


def savings(curve: Curve) -> list[Saving]:
    """Compute the bits saved between every pair of methods that have enough points.

    After Bjøntegaard, "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001): the mean difference of the logarithms
    of the sizes over the WER range that both methods reach. The curves are piecewise linear through the Pareto front instead of cubic,
    because the WER of a finite set is not monotone in the size.

    Args:
        curve: Curve with the points of several methods.
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
    """Return the name of a configuration with the fixed parameters of its method, which distinguish methods of one codec."""
    return ", ".join([point.configuration, *point.method.split(", ")[1:]])


def transcripts_of(curve: Curve) -> tuple[dict[str, list[Transcript]], list[str]]:
    """Read the transcripts of the anchor and of every configuration.

    Args:
        curve: Curve whose points name the evaluation folders.

    Returns:
        The transcripts by label, and a sentence for each configuration without transcripts.

    Raises:
        AsrDeployError: The transcripts do not cover the same utterances.
    """
    folders = {ANCHOR: curve.anchor_evaluation} | {label(point): point.evaluation for point in curve.points}
    found = {name: read_transcripts(folder / TRANSCRIPTS) for name, folder in folders.items()}
    missing = [f"{folders[name]} contains no transcripts, so {name} is not compared." for name, lines in found.items() if not lines]
    found = {name: lines for name, lines in found.items() if lines}
    ids = {tuple(each.id for each in lines) for lines in found.values()}
    if len(ids) > 1:
        raise AsrDeployError("The transcripts of these curves do not cover the same utterances. Run the sweeps again on one data set.")
    return found, missing


def reservations(curve: Curve) -> list[str]:
    """Return sentences on what limits a curve: recordings left out, a language without spaces, methods with too few points in range."""
    counts: Counter[str] = Counter()
    for point in curve.points:
        counts[point.method] += point.in_range
    left_out = (
        f"{curve.left_out} recording{'s' * (curve.left_out > 1)} of {curve.data} {curve.split} could not be transcribed and "
        f"{'were' if curve.left_out > 1 else 'was'} left out. The reasons are in {shown(curve.anchor_evaluation / RESULT)}."
    )
    unspaced = (
        f"The references of {curve.data} {curve.split} have no spaces between words, so WER, which searches, curves and reports use, means "
        "little. points.csv has the CER of every point, and `asrdeploy compare` compares characters."
    )
    return (
        [left_out] * bool(curve.left_out)
        + [unspaced] * (curve.main == "cer")
        + [
            f"{method} has {count} points in the WER range; a complete test case has {FEWEST_IN_RANGE}."
            for method, count in counts.items()
            if count < FEWEST_IN_RANGE
        ]
    )
