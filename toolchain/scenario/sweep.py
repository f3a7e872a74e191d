"""Sweeps: a codec's rates are searched until the scenario's points lie in the range, each point kept and done once.

Rates are chosen on dev-clean; test-clean is transcribed for the chosen ones alone.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np

from device_runner.bitstream.format import SUFFIX
from device_runner.errors import AsrDeployError
from device_runner.files import write_json
from device_runner.transcripts import Timing, Transcript, read_transcripts
from toolchain.accuracy.comparison import ANCHOR, compare
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.progress import Watcher
from toolchain.accuracy.scoring import TRANSCRIPTS, Evaluation
from toolchain.accuracy.transcriber import model_transcriber
from toolchain.accuracy.workers import LocalWorkers, Workers, shut_down
from toolchain.compression import CODECS, codec_plugins, make_codec
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.compression.calibration import Calibration
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.data.datasets import DataSet
from toolchain.data.speech import calibration_speech
from toolchain.data.splits import check_tuning_data, check_unseen
from toolchain.models.anchor_model import AnchorModel
from toolchain.scenario.points import FEWEST_IN_RANGE, Curve, Point, make_curve, make_point, write_curve
from toolchain.scenario.rates import RATES, Rate

BISECTIONS = 6  # of a continuous rate on dev-clean: to a sixtieth of its span
FINALISTS = 6
RAISE = 1.08  # of a rate that test-clean did not confirm
MOST_POINTS = 14  # on test-clean, before a set is called incomplete
HERE = LocalWorkers()


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
        codec: its name.
        fixed: other parameters of the codec.
        calibrate: data whose dev-clean the codec may know; None: none.
        dev: rates are chosen on it.
        test: word error rates are reported on it.
        folder: of the results; a stopped sweep goes on there.
        threads: of torch, for every worker.
        watcher: is told how it goes on.
        values: of the codec's parameter, chosen by hand; empty: searched.
        before: points of other methods in the same folder; they stay in its curve.
        moved: what is moved of a codec that is not in ``RATES``.
        decoder: the command that decodes what an external encoder made.
        name: of the method in tables and plots; empty: the codec with what is fixed.
        workers: what transcribes and compress.
        draw: draws a curve into a file, after every point.
        done: evaluations of this run by configuration and split, so that a curve's earlier points are not decoded again.
        measured: the calibration, once it was needed.
        calibrating: held while it is measured.
        stopped: configurations that are in work at the same time end.
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
    moved: Rate | None = None
    decoder: str | None = None
    name: str = ""
    workers: Workers = HERE
    draw: Callable[[Curve, Path], None] = lambda curve, path: None
    done: dict[tuple[str, str], Evaluation] = field(default_factory=dict, init=False, compare=False, repr=False)
    measured: list[Calibration] = field(default_factory=list, init=False, compare=False, repr=False)
    calibrating: Lock = field(default_factory=Lock, init=False, compare=False, repr=False)
    stopped: Event = field(default_factory=Event, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.moved is None and self.codec not in RATES:
            if self.codec in CODECS | codec_plugins()[0]:
                raise AsrDeployError(
                    f"Sweeps do not know what to move of {self.codec}: a file of sweeps says it (vary, span); docs/codecs.md shows one."
                )
            make_codec(self.codec)  # says what is wrong with the name
        if self.rate.parameter in self.fixed:
            raise AsrDeployError(f"--set {self.rate.parameter}: the sweep chooses it; leave it out.")
        if not self.anchor.trained:
            raise AsrDeployError(f"{self.anchor.case.name} has random weights: a word error rate from them says nothing.")
        for value in self.values or [self.rate.value_of(each) for each in (self.rate.low, self.rate.high)]:
            self._check(make_codec(self.codec, **self._parameters(value)))
        if self.decoder is not None:
            make_codec(EXTERNAL, encoder=self.decoder)  # the same is asked of both commands
        self._check_splits()
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / "points").is_dir():
            raise AsrDeployError(f"{self.folder} exists and holds no sweep; choose another folder for the results.")

    @property
    def rate(self) -> Rate:
        """What is moved."""
        return self.moved or RATES[self.codec]

    @property
    def method(self) -> str:
        """The codec with what is fixed, as plots name it."""
        words = [Path(word).name for word in shlex.split(self.rate.template) if word not in ("{input}", "{output}")]
        more = [f"{key}={value}" for key, value in self.fixed.items()] + (["calibrated"] if self.calibrate else [])
        return self.name or ", ".join([self.codec, *([" ".join(words)] if words else []), *more])

    def _check_splits(self) -> None:
        """Raise AsrDeployError where something would be chosen by what word error rates are reported on."""
        check_tuning_data(self.dev)
        check_unseen([each.id for each in self.dev.utterances], self.test, f"The search on {self.dev.name} {self.dev.split}")
        if self.calibrate:  # by the whole split, however few utterances of it the search takes
            known = calibration_speech(self.calibrate, self.dev.split)
            check_unseen(known.ids, self.test, f"The codec's calibration on {self.calibrate} {self.dev.split}")

    def _check(self, codec: Any) -> None:
        """Raise AsrDeployError where the values of a search are not those of the codec's parameter."""
        if self.moved is None or self.moved.template:
            return
        kind = next(str(each.type) for each in fields(codec) if each.name == self.moved.parameter)
        if "str" in kind or "bool" in kind:
            raise AsrDeployError(f"{self.moved.parameter} of {self.codec} is no number that a sweep could move.")
        if "int" in kind and "float" not in kind and not self.moved.whole and not self.values:
            raise AsrDeployError(f"{self.moved.parameter} of {self.codec} is a whole number; add whole = true.")

    def run(self) -> Curve:
        """Search the range and return the curve; it is written and drawn after every point, and the search on dev-clean as ``search.png``.

        Raises:
            AsrDeployError: a step failed.
        """
        chosen = dict.fromkeys(self.rate.rate_of(each) for each in self.values)
        tried = list(chosen) or self._first_rates(self._lowest_in_range())
        self._evaluate_together(tried, self.test)
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
                highest = f"{self.rate.parameter} {self.rate.value_of(value):g}"
                raise AsrDeployError(f"No rate of {self.codec} up to {highest} stays within {100 * budget:g} points.")
            value = min(self.rate.high, self.rate.rounded(value * RAISE + self.rate.whole / 2))
        evaluation = self._evaluate(value, self.test)
        return Smallest(self._name(value), evaluation, self._anchor(self.test).wer, self._loss(value, self.test), self._folder(value))

    def _lowest_in_range(self) -> float:
        anchor, tried = self._anchor(self.dev), dict[float, Point]()

        def good(value: float) -> bool:
            tried[value] = self._point(value, self.dev)
            # On a real corpus it takes hours until the first point on test-clean; the search is seen meanwhile.
            self.draw(make_curve(self.anchor.case, anchor, self._anchor_folder(self.dev), list(tried.values())), self.folder / "search.png")
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
        self.draw(curve, self.folder / "curve.png")
        return curve

    def _point(self, rate: float, data: DataSet) -> Point:
        evaluation, folder = self._evaluate(rate, data), self._folder(rate) / data.split
        return make_point(self._name(rate), "bitstream", evaluation, folder, self.anchor.case, self._anchor(data).wer, self.method)

    def _anchor_folder(self, data: DataSet) -> Path:
        return self.folder / "points" / "anchor" / data.split

    def _anchor(self, data: DataSet) -> Evaluation:
        if ("anchor", data.split) not in self.done:
            progress = self.watcher.configuration("anchor", f"transcribing {data.split}", len(data.utterances))
            transcriber = model_transcriber(self.anchor, "anchor", threads=self.threads)
            self.done["anchor", data.split] = evaluate(
                transcriber, data, self._anchor_folder(data), workers=self.workers, progress=progress
            )
        return self.done["anchor", data.split]

    def _evaluate_together(self, rates: Sequence[float], data: DataSet) -> None:
        """Evaluate rates at the same time where the workers have room for several configurations."""
        if self.workers.configurations > 1:
            with shut_down(ThreadPoolExecutor(self.workers.configurations)) as executor:
                try:
                    list(executor.map(lambda rate: self._evaluate(rate, data), rates))
                except BaseException:
                    self.stopped.set()  # the others stop with their next utterance
                    raise

    def _evaluate(self, rate: float, data: DataSet) -> Evaluation:
        """Return a rate's word error rate on a split; what an earlier run finished is read, once."""
        name, folder = self._name(rate), self._folder(rate)
        if (name, data.split) in self.done:
            return self.done[name, data.split]
        bitstream = folder / f"model{SUFFIX}"
        self._check_going()
        if not bitstream.is_file():
            self.watcher.configuration(name, "compressing", len(data.utterances))
            calibration = self._calibration()
            write_json(folder / "configuration.json", self._described(rate))
            compress(
                self.anchor,
                self.codec,
                self._parameters(self.rate.value_of(rate)),
                bitstream,
                calibration=calibration,
                call=self.workers.call,
            )
        progress = self.watcher.configuration(name, f"transcribing {data.split}", len(data.utterances))
        model = decompress(bitstream, decoder=self.decoder, custom=self.anchor)
        transcriber = model_transcriber(model, name, threads=self.threads)
        if data is self.dev:  # a search may hear what its codec was calibrated with: it reports nothing of it
            transcriber = replace(transcriber, tuned_on=frozenset())

        def heard(transcript: Transcript, timing: Timing) -> None:
            self._check_going()
            progress(transcript, timing)

        self.done[name, data.split] = evaluate(transcriber, data, folder / data.split, workers=self.workers, progress=heard)
        return self.done[name, data.split]

    def _check_going(self) -> None:
        if self.stopped.is_set():
            raise AsrDeployError("The sweep was stopped; the same command goes on.")

    def _calibration(self) -> Calibration | None:
        """Return the one measurement of this sweep: it is large, and configurations in work at once share it."""
        if not self.calibrate:
            return None
        with self.calibrating:
            if not self.measured:
                self.measured.append(calibration_of(self.anchor, self.calibrate, self.dev.split, cache=self.folder / "points"))
            return self.measured[0]

    def _folder(self, rate: float) -> Path:
        described = json.dumps(self._described(rate), sort_keys=True)
        return self.folder / "points" / hashlib.sha256(described.encode()).hexdigest()[:16]

    def _described(self, rate: float) -> dict[str, object]:
        """Return what a point follows from: its folder is named after it."""
        parameters, decoder = self._parameters(self.rate.value_of(rate)), {} if self.decoder is None else {"decoder": self.decoder}
        return {"codec": self.codec, "parameters": parameters, "calibrate": self.calibrate, "weights": self.anchor.weights, **decoder}

    def _parameters(self, value: float) -> dict[str, str | float | bool]:
        return {**self.fixed, self.rate.parameter: self.rate.setting(value)}

    def _name(self, rate: float) -> str:
        return f"{self.name or self.codec}-{self.rate.value_of(rate):.12g}"


def run_all(sweeps: Sequence[Sweep]) -> Curve:
    """Run sweeps of one anchor into one folder and return the curve of all their points.

    Raises:
        AsrDeployError: none are given, two are the same method, or a step failed.
    """
    methods = [sweep.method for sweep in sweeps]
    twice = next((method for method in methods if methods.count(method) > 1), None)
    if not sweeps or twice is not None:
        raise AsrDeployError(
            "There is nothing to sweep." if twice is None else f"{twice} is swept twice; give it once, or by another name."
        )
    points: tuple[Point, ...] = ()
    for sweep in sweeps:
        curve = replace(sweep, before=points).run()
        points = curve.points
    return curve
