"""Sweeps: search the rates of a codec until enough points lie in the WER range. Every point is saved and evaluated only once.

Rates are searched on dev-clean. test-clean is transcribed only for the chosen rates.
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
from device_runner.files import shown, write_json
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
from toolchain.scenario.points import FEWEST_IN_RANGE, Curve, Point, make_curve, make_point, methods_in, write_curve
from toolchain.scenario.rates import RATES, Rate

BISECTIONS = 6  # steps of the search on dev-clean: to 1/64 of the span
FINALISTS = 6
RAISE = 1.08  # factor for a rate that test-clean did not confirm
MOST_POINTS = 14  # on test-clean, after which the sweep ends incomplete
HERE = LocalWorkers()


@dataclass(frozen=True)
class Smallest:
    """The smallest bitstream within a WER budget.

    Args:
        configuration: Name of the configuration.
        evaluation: Evaluation on test-clean.
        anchor_wer: WER of the anchor on test-clean, as a fraction.
        loss: 95 % interval of the WER above the anchor's, by a paired bootstrap over utterances, as fractions.
        folder: Folder of the bitstream and the transcripts.
    """

    configuration: str
    evaluation: Evaluation
    anchor_wer: float
    loss: tuple[float, float]
    folder: Path


@dataclass(frozen=True)
class Sweep:
    """A sweep of one codec on one test case.

    Args:
        anchor: Model with trained weights.
        codec: Name of the codec.
        fixed: Fixed parameters of the codec.
        calibrate: Data set whose dev-clean calibrates the codec; None for no calibration.
        dev: Split on which rates are searched.
        test: Split on which the WER is reported.
        folder: Output folder. An interrupted sweep resumes there.
        threads: Number of PyTorch threads of every worker.
        watcher: Receives the progress.
        values: Given values of the varied parameter; empty to search them.
        before: Points of other methods in the same folder, which stay in the curve.
        moved: The varied parameter of a codec that is not in ``RATES``.
        decoder: Decoder command of an external encoder.
        name: Name in tables and plots (default: the codec with its fixed parameters).
        workers: Where to transcribe and compress.
        draw: Draws a curve to a file, after every point.
        replace_other: Replace the result of another model, data set or method in the folder.
        done: Evaluations of this run by configuration and split, so that bitstreams are not decoded again.
        measured: The calibration, after its first use.
        calibrating: Lock of the calibration.
        stopped: Set if concurrent configurations must stop.
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
    replace_other: bool = False
    done: dict[tuple[str, str], Evaluation] = field(default_factory=dict, init=False, compare=False, repr=False)
    measured: list[Calibration] = field(default_factory=list, init=False, compare=False, repr=False)
    calibrating: Lock = field(default_factory=Lock, init=False, compare=False, repr=False)
    stopped: Event = field(default_factory=Event, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.moved is None and self.codec not in RATES:
            if self.codec in CODECS | codec_plugins()[0]:
                raise AsrDeployError(
                    f"Sweeps do not know which parameter to vary for {self.codec}. Set vary and span in a sweep file; see docs/codecs.md."
                )
            make_codec(self.codec)  # raises the error for an unknown name
        if self.rate.parameter in self.fixed:
            raise AsrDeployError(f"--set {self.rate.parameter}: the sweep varies this parameter. Leave it out.")
        if not self.anchor.trained:
            raise AsrDeployError(f"{self.anchor.case.name} has random weights, so its WER means nothing. Use trained weights.")
        for value in self.values or [self.rate.value_of(each) for each in (self.rate.low, self.rate.high)]:
            self._check(make_codec(self.codec, **self._parameters(value)))
        if self.decoder is not None:
            make_codec(EXTERNAL, encoder=self.decoder)  # checks the command like that of an encoder
        self._check_splits()
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / "points").is_dir():
            raise AsrDeployError(f"{self.folder} exists and is not the folder of a sweep. Choose another folder with -o.")

    @property
    def rate(self) -> Rate:
        """The varied parameter."""
        return self.moved or RATES[self.codec]

    @property
    def method(self) -> str:
        """Name in tables and plots: the codec with its fixed parameters."""
        words = [Path(word).name for word in shlex.split(self.rate.template) if word not in ("{input}", "{output}")]
        more = [f"{key}={value}" for key, value in self.fixed.items()] + (["calibrated"] if self.calibrate else [])
        return self.name or ", ".join([self.codec, *([" ".join(words)] if words else []), *more])

    def _check_splits(self) -> None:
        """Raise AsrDeployError if the test split would be used to choose rates or to calibrate."""
        check_tuning_data(self.dev)
        check_unseen([each.id for each in self.dev.utterances], self.test, f"The search on {self.dev.name} {self.dev.split}")
        if self.calibrate:  # the whole split, even if --limit shortens the search
            known = calibration_speech(self.calibrate, self.dev.split)
            check_unseen(known.ids, self.test, f"The codec's calibration on {self.calibrate} {self.dev.split}")

    def _check(self, codec: Any) -> None:
        """Raise AsrDeployError if the varied parameter has another type than the values of the search."""
        if self.moved is None or self.moved.template:
            return
        kind = next(str(each.type) for each in fields(codec) if each.name == self.moved.parameter)
        if "str" in kind or "bool" in kind:
            raise AsrDeployError(
                f"{self.moved.parameter} of {self.codec} is not a number, so a sweep cannot vary it. Choose another parameter."
            )
        if "int" in kind and "float" not in kind and not self.moved.whole and not self.values:
            raise AsrDeployError(f"{self.moved.parameter} of {self.codec} is a whole number. Add whole = true.")

    def run(self) -> Curve:
        """Search the rates and return the curve.

        The curve is written and drawn after every point. The search on dev-clean is drawn to ``search.png``.

        Raises:
            AsrDeployError: A step failed.
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
        """Find the smallest bitstream whose loss stays within a WER budget, even at the upper end of its 95 % interval.

        The rate is searched on dev-clean. On test-clean it is raised until the interval stays within the budget.

        Args:
            budget: WER above the anchor's, as a fraction.

        Raises:
            AsrDeployError: The highest rate exceeds the budget.
        """
        value = self._lowest(lambda rate: self._loss(rate, self.dev)[1] <= budget)
        while self._loss(value, self.test)[1] > budget:
            if value >= self.rate.high:
                highest = f"{self.rate.parameter} {self.rate.value_of(value):g}"
                raise AsrDeployError(f"No rate of {self.codec} up to {highest} stays within {100 * budget:g} points. Raise --wer-budget.")
            value = min(self.rate.high, self.rate.rounded(value * RAISE + self.rate.whole / 2))
        evaluation = self._evaluate(value, self.test)
        return Smallest(self._name(value), evaluation, self._anchor(self.test).wer, self._loss(value, self.test), self._folder(value))

    def _lowest_in_range(self) -> float:
        anchor, tried = self._anchor(self.dev), dict[float, Point]()

        def good(value: float) -> bool:
            tried[value] = self._point(value, self.dev)
            # On a large corpus the first point on test-clean takes hours, so show the search meanwhile.
            self.draw(make_curve(self.anchor.case, anchor, self._anchor_folder(self.dev), list(tried.values())), self.folder / "search.png")
            return tried[value].wer <= anchor.wer + self.anchor.case.wer_range

        return self._lowest(good)

    def _lowest(self, good: Callable[[float], bool]) -> float:
        """Return the lowest good rate, found by bisection."""
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
        """Return the 95 % interval of a rate's WER minus the anchor's, by a paired bootstrap over utterances."""
        self._anchor(data)
        self._evaluate(value, data)
        folders = {"": self._folder(value) / data.split, ANCHOR: self._anchor_folder(data)}
        (comparison,) = compare({name: read_transcripts(folder / TRANSCRIPTS) for name, folder in folders.items()})
        return comparison.interval

    def _first_rates(self, lowest: float) -> list[float]:
        """Return evenly spaced rates, starting at the lowest that dev-clean allows, without duplicates."""
        highest = min(self.rate.high, (4 if self.rate.whole else 2.5) * lowest)
        return list(dict.fromkeys(self.rate.rounded(float(each)) for each in np.linspace(lowest, highest, FINALISTS)))

    def _another_rate(self, tried: list[float]) -> float | None:
        """Return the rate in the middle of the widest gap; None if whole rates leave no gap."""
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
                transcriber, data, self._anchor_folder(data), workers=self.workers, replace=self.replace_other, progress=progress
            )
        return self.done["anchor", data.split]

    def _evaluate_together(self, rates: Sequence[float], data: DataSet) -> None:
        """Evaluate several rates at the same time, if the workers allow it."""
        if self.workers.configurations > 1:
            with shut_down(ThreadPoolExecutor(self.workers.configurations)) as executor:
                try:
                    list(executor.map(lambda rate: self._evaluate(rate, data), rates))
                except BaseException:
                    self.stopped.set()  # the others stop with their next utterance
                    raise

    def _evaluate(self, rate: float, data: DataSet) -> Evaluation:
        """Return the evaluation of a rate on a split. Results of an earlier run are reused."""
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
        model = decompress(bitstream, decoder=self.decoder, model=self.anchor)
        transcriber = model_transcriber(model, name, threads=self.threads)
        if data is self.dev:  # the search may use calibration data, because it reports no WER
            transcriber = replace(transcriber, tuned_on=frozenset())

        def transcribed(transcript: Transcript, timing: Timing) -> None:
            self._check_going()
            progress(transcript, timing)

        self.done[name, data.split] = evaluate(
            transcriber, data, folder / data.split, workers=self.workers, replace=self.replace_other, progress=transcribed
        )
        return self.done[name, data.split]

    def _check_going(self) -> None:
        if self.stopped.is_set():
            raise AsrDeployError("The sweep was interrupted. Repeat the command to resume.")

    def _calibration(self) -> Calibration | None:
        """Return the calibration. It is large, so concurrent configurations share one."""
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
        """Return everything that a point depends on. It determines the name of the point's folder."""
        parameters, decoder = self._parameters(self.rate.value_of(rate)), {} if self.decoder is None else {"decoder": self.decoder}
        return {"codec": self.codec, "parameters": parameters, "calibrate": self.calibrate, "weights": self.anchor.weights, **decoder}

    def _parameters(self, value: float) -> dict[str, str | float | bool]:
        return {**self.fixed, self.rate.parameter: self.rate.setting(value)}

    def _name(self, rate: float) -> str:
        return f"{self.name or self.codec}-{self.rate.value_of(rate):.12g}"


def run_all(sweeps: Sequence[Sweep]) -> Curve:
    """Run sweeps of one anchor in one folder, and return the curve of all points.

    Raises:
        AsrDeployError: There is no sweep, two have the same name, or a step failed.
    """
    methods = [sweep.method for sweep in sweeps]
    twice = next((method for method in methods if methods.count(method) > 1), None)
    if not sweeps or twice is not None:
        raise AsrDeployError(
            "There is nothing to sweep. Give at least one method."
            if twice is None
            else f"{twice} is swept twice. Give it once, or set another name."
        )
    if not sweeps[0].replace_other:
        _check_curve(sweeps[0].folder, methods)
    points: tuple[Point, ...] = ()
    for sweep in sweeps:
        curve = replace(sweep, before=points).run()
        points = curve.points
    return curve


def _check_curve(folder: Path, methods: Sequence[str]) -> None:
    """Refuse a folder whose curve has other methods, which the new curve would not contain."""
    lost = sorted(methods_in(folder) - set(methods))
    if lost:
        raise AsrDeployError(
            f"{shown(folder)} holds the curve of “{'”, “'.join(lost)}”, which this sweep does not contain. Choose another folder with -o, "
            "sweep all methods together, or use --replace to overwrite the curve."
        )
