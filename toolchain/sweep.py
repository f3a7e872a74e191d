"""Sweeps: a codec's rates are searched until the scenario's points lie in the range, each point kept and done once.

Rates are chosen on dev-clean; test-clean is transcribed for the chosen ones alone.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from device_runner.bitstream import SUFFIX
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of, write_json
from device_runner.names import nearest
from device_runner.transcripts import read_transcripts
from toolchain.bitstreams import calibration_of, compress, reconstruct
from toolchain.compression import make_codec
from toolchain.datasets import DataSet
from toolchain.evaluate import TRANSCRIPTS, Evaluation, evaluate
from toolchain.models import AnchorModel
from toolchain.points import FEWEST_IN_RANGE, Curve, Point, make_curve, make_point, write_curve
from toolchain.progress import Watcher
from toolchain.report import ANCHOR, compare
from toolchain.subjects import subject_of

BISECTIONS = 6  # of a continuous rate on dev-clean: to a sixtieth of its span
FINALISTS = 6
RAISE = 1.08  # of a rate that test-clean did not confirm
MOST_POINTS = 14  # on test-clean, before a set is called incomplete


@dataclass(frozen=True)
class Rate:
    """The parameter of a codec that a sweep moves: more of it is more bits.

    Args:
        parameter: its name.
        low: the fewest bits.
        high: the most.
        whole: it is a whole number.
        lost: the parameter is the share that is lost; the rate is the rest.
    """

    parameter: str
    low: float
    high: float
    whole: bool = False
    lost: bool = False

    def value_of(self, rate: float) -> float:
        """Return the parameter's value, or from a value the rate."""
        return round(1 - rate, 3) if self.lost else rate

    def rounded(self, value: float) -> float:
        """Return the nearest value that the codec takes, with three digits behind the point."""
        return round(value) if self.whole else round(value, 3)


RATES = {
    "ectcq": Rate("bits", 0.8, 6),
    "uniform": Rate("bits", 2, 8, whole=True),
    "palette": Rate("colours", 3, 64, whole=True),
    "lowrank": Rate("share", 0.05, 0.9),
    "prune": Rate("share", 0.02, 0.95, lost=True),
}


@dataclass(frozen=True)
class Smallest:
    """The smallest bitstream within a budget.

    Args:
        configuration: its name.
        evaluation: on test-clean.
        anchor_wer: there.
        loss: 95 % interval of the word error rate above the anchor's, paired by utterances, as fractions.
        folder: where the bitstream and the transcripts are.
    """

    configuration: str
    evaluation: Evaluation
    anchor_wer: float
    loss: tuple[float, float]
    folder: Path


@dataclass(frozen=True)
class Sweep:
    """One codec on one test case.

    Args:
        anchor: with trained weights.
        codec: a key of ``RATES``.
        fixed: other parameters of the codec.
        calibrate: data whose dev-clean the codec may know; None: none.
        dev: rates are chosen on it.
        test: word error rates are reported on it.
        folder: of the results; a stopped sweep goes on there.
        threads: of torch.
        watcher: is told how it goes on.
        values: of the codec's parameter, chosen by hand; empty: searched.
        before: points of other methods in the same folder; they stay in its curve.
        done: evaluations of this run by configuration and split, so that a curve's earlier points are not decoded again.
    """

    anchor: AnchorModel
    codec: str
    fixed: Mapping[str, str | float | bool]
    calibrate: str | None
    dev: DataSet
    test: DataSet
    folder: Path
    threads: int
    watcher: Watcher
    values: tuple[float, ...] = ()
    before: tuple[Point, ...] = ()
    done: dict[tuple[str, str], Evaluation] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.codec not in RATES:
            raise nearest(self.codec, RATES, "codec of sweeps")
        if self.rate.parameter in self.fixed:
            raise AsrDeployError(f"--set {self.rate.parameter}: the sweep chooses it; leave it out.")
        if not self.anchor.trained:
            raise AsrDeployError(f"{self.anchor.case.name} has random weights: a word error rate from them says nothing.")
        for value in self.values or [self.rate.value_of(self.rate.high)]:
            make_codec(self.codec, **self.fixed, **{self.rate.parameter: value})
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / "points").is_dir():
            raise AsrDeployError(f"{self.folder} exists and holds no sweep; choose another folder for the results.")

    @property
    def rate(self) -> Rate:
        """What is moved."""
        return RATES[self.codec]

    @property
    def method(self) -> str:
        """The codec with what is fixed, as plots name it."""
        more = [f"{key}={value}" for key, value in self.fixed.items()] + (["calibrated"] if self.calibrate else [])
        return ", ".join([self.codec, *more])

    def run(self) -> Curve:
        """Search the range and return the curve; it is written and drawn after every point, and the search on dev-clean as ``search.png``.

        Raises:
            AsrDeployError: a step failed.
        """
        tried = [self.rate.rounded(self.rate.value_of(each)) for each in self.values] or self._first_rates(self._lowest_in_range())
        for number in range(len(tried)):
            curve = self._curve(tried[: number + 1])
        while not self.values and self._in_range(curve) < FEWEST_IN_RANGE and len(tried) < MOST_POINTS:
            new = self._another_rate(tried)
            if new is None:
                break
            tried.append(new)
            curve = self._curve(tried)
        return curve

    def _in_range(self, curve: Curve) -> int:
        return sum(point.method == self.method for point in curve.in_range)

    def smallest(self, budget: float) -> "Smallest":
        """Find the smallest bitstream whose loss of words stays within a budget, also at the upper end of its interval.

        The rate is searched on dev-clean and confirmed on test-clean, where it is raised until the interval stays within the budget too.

        Args:
            budget: word error rate above the anchor's, as a fraction.

        Raises:
            AsrDeployError: the highest rate loses more.
        """
        value = self._lowest(lambda rate: self._loss(rate, self.dev)[1] <= budget)
        while self._loss(value, self.test)[1] > budget:
            if value >= self.rate.high:
                raise AsrDeployError(f"No rate of {self.codec} up to {self.rate.high:g} stays within {100 * budget:g} points.")
            value = min(self.rate.high, self.rate.rounded(value * RAISE + self.rate.whole / 2))
        evaluation = self._evaluate(value, self.test)
        return Smallest(self._name(value), evaluation, self._anchor(self.test).wer, self._loss(value, self.test), self._folder(value))

    def _lowest_in_range(self) -> float:
        anchor, tried = self._anchor(self.dev), dict[float, Point]()

        def good(value: float) -> bool:
            tried[value] = self._point(value, self.dev)
            # On a real corpus it takes hours until the first point on test-clean; the search is seen meanwhile.
            self._draw(make_curve(self.anchor.case, anchor, self._anchor_folder(self.dev), list(tried.values())), "search.png")
            return tried[value].wer <= anchor.wer + self.anchor.case.wer_range

        return self._lowest(good)

    def _lowest(self, good: Callable[[float], bool]) -> float:
        """Return the lowest rate that is good, by bisection."""
        low, high = self.rate.low, self.rate.high
        for _ in range(BISECTIONS):
            middle = self.rate.rounded((low * high) ** 0.5)
            if middle in (low, high):
                break
            low, high = (low, middle) if good(middle) else (middle, high)
        if self.rate.whole and low == self.rate.low and good(low):
            return low
        return high

    def _loss(self, value: float, data: DataSet) -> tuple[float, float]:
        """Return the 95 % interval of a rate's word error rate less the anchor's, utterance by utterance."""
        self._anchor(data)
        self._evaluate(value, data)
        folders = {"": self._folder(value) / data.split, ANCHOR: self._anchor_folder(data)}
        (comparison,) = compare({name: read_transcripts(folder / TRANSCRIPTS) for name, folder in folders.items()})
        return comparison.interval

    def _first_rates(self, lowest: float) -> list[float]:
        """Return evenly spaced rates from the lowest that dev-clean allows, without repetition."""
        highest = min(self.rate.high, (4 if self.rate.whole else 2.5) * lowest)
        return list(dict.fromkeys(self.rate.rounded(float(each)) for each in np.linspace(lowest, highest, FINALISTS)))

    def _another_rate(self, tried: list[float]) -> float | None:
        """Return the rate halfway into the widest gap; None where a whole rate has no gap left."""
        known = sorted({*tried, self.rate.low, self.rate.high})
        gaps = [(high / low, self.rate.rounded((low + high) / 2)) for low, high in pairwise(known)]
        return next((value for _, value in sorted(gaps, reverse=True) if value not in known), None)

    def _curve(self, values: list[float]) -> Curve:
        anchor = self._anchor(self.test)
        points = [self._point(value, self.test) for value in sorted(values)]
        curve = make_curve(self.anchor.case, anchor, self._anchor_folder(self.test), [*self.before, *points])
        write_curve(curve, self.folder)
        self._draw(curve, "curve.png")
        return curve

    def _draw(self, curve: Curve, name: str) -> None:
        from toolchain.plots import plot_curve

        plot_curve(curve, self.folder / name)

    def _point(self, value: float, data: DataSet) -> Point:
        evaluation, folder = self._evaluate(value, data), self._folder(value) / data.split
        return make_point(self._name(value), "bitstream", evaluation, folder, self.anchor.case, self._anchor(data).wer, self.method)

    def _anchor_folder(self, data: DataSet) -> Path:
        return self.folder / "points" / "anchor" / data.split

    def _anchor(self, data: DataSet) -> Evaluation:
        if ("anchor", data.split) not in self.done:
            progress = self.watcher.configuration("anchor", f"transcribing {data.split}", len(data.utterances))
            subject = subject_of(self.anchor, "anchor", f"{self.anchor.case.name}, {self.anchor.weights}", None, self.threads)
            self.done["anchor", data.split] = evaluate(subject, data, self._anchor_folder(data), threads=self.threads, progress=progress)
        return self.done["anchor", data.split]

    def _evaluate(self, value: float, data: DataSet) -> Evaluation:
        """Return a rate's word error rate on a split; what an earlier run finished is read, once."""
        name, folder = self._name(value), self._folder(value)
        if (name, data.split) in self.done:
            return self.done[name, data.split]
        bitstream = folder / f"model{SUFFIX}"
        if not bitstream.is_file():
            self.watcher.configuration(name, "compressing", len(data.utterances))
            calibration = None
            if self.calibrate:
                calibration = calibration_of(self.anchor, self.calibrate, self.dev.split, cache=self.folder / "points")
            write_json(folder / "configuration.json", self._described(value))
            compress(self.anchor, self.codec, self._parameters(value), bitstream, calibration=calibration)
        progress = self.watcher.configuration(name, f"transcribing {data.split}", len(data.utterances))
        model, _ = reconstruct(bitstream)
        subject = subject_of(model, name, sha256_of(bitstream), 8 * bitstream.stat().st_size, self.threads)
        self.done[name, data.split] = evaluate(subject, data, folder / data.split, threads=self.threads, progress=progress)
        return self.done[name, data.split]

    def _folder(self, value: float) -> Path:
        described = json.dumps(self._described(value), sort_keys=True)
        return self.folder / "points" / hashlib.sha256(described.encode()).hexdigest()[:16]

    def _described(self, value: float) -> dict[str, object]:
        """Return what a point follows from: its folder is named after it."""
        parameters = self._parameters(value)
        return {"codec": self.codec, "parameters": parameters, "calibrate": self.calibrate, "weights": self.anchor.weights}

    def _parameters(self, value: float) -> dict[str, str | float | bool]:
        return {**self.fixed, self.rate.parameter: self.rate.value_of(value)}

    def _name(self, value: float) -> str:
        return f"{self.codec}-{self.rate.value_of(value):g}"


def run_all(sweeps: Sequence[Sweep]) -> Curve:
    """Run sweeps of one anchor into one folder and return the curve of all their points.

    Raises:
        AsrDeployError: none are given, two are the same method, or a step failed.
    """
    methods = [sweep.method for sweep in sweeps]
    twice = next((method for method in methods if methods.count(method) > 1), None)
    if not sweeps or twice is not None:
        raise AsrDeployError("There is nothing to sweep." if twice is None else f"{twice} is swept twice; give it once.")
    points: tuple[Point, ...] = ()
    for sweep in sweeps:
        curve = replace(sweep, before=points).run()
        points = curve.points
    return curve
