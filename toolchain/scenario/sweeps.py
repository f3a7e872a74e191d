"""Sweeps of one model into one folder: what `asrdeploy sweep` and ``asrdeploy.sweep`` run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_runner.errors import say_once
from toolchain.accuracy.progress import NoProgress, Watcher
from toolchain.accuracy.workers import LocalWorkers, Workers
from toolchain.data.datasets import open_tuning_and_test
from toolchain.data.recordings import Needs, check_recordings
from toolchain.models.loading import load_model
from toolchain.models.test_cases import BUNDLES
from toolchain.scenario.points import Curve
from toolchain.scenario.sweep import BISECTIONS, FINALISTS, Smallest, Sweep, run_all
from toolchain.scenario.sweep_file import SweepFile, describe, moved

NAMED = 5  # recordings in a warning
DEFAULT_MODEL = "DIGITS_ASR_TINY"
Draw = Callable[[Curve, Path], None]


def draw_nothing(curve: Curve, path: Path) -> None:
    """Draw no plot."""


def sweep(
    methods: str | Sequence[str] | SweepFile,
    folder: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    parameters: Mapping[str, Any] | None = None,
    calibrated: bool = False,
    data: str = "digits",
    limit: int | None = None,
    skip_bad: bool = False,
    weights: str | None = None,
    threads: int = 1,
    replace: bool = False,
    workers: Workers | None = None,
    watcher: Watcher | None = None,
    draw: Draw = draw_nothing,
) -> Curve:
    """Search the rates of codecs until at least five points of each lie in the test case's WER range.

    Rates are searched on dev-clean; test-clean is transcribed for the chosen ones. An interrupted sweep resumes when it is called again.

    Example:
        >>> curve = asrdeploy.sweep("ectcq", "results/ectcq", calibrated=True)  # doctest: +SKIP
        >>> asrdeploy.plot_curve(curve, "results/curve.png")  # doctest: +SKIP

    Args:
        methods: A codec's name, several names, or the description of a sweep file (``read_sweep_file``).
        folder: Output folder. It gets ``points.csv``, ``points.json`` and the folder ``points``.
        model: Test case or custom model. A sweep file has this and the following seven itself.
        parameters: Fixed parameters of the codecs. The rate is searched.
        calibrated: Whether to calibrate the codecs on dev-clean.
        data: ``digits``, ``librispeech``, or a folder with dev-clean and test-clean.
        limit: Number of utterances of each split; None for all.
        skip_bad: Leave recordings out that cannot be transcribed.
        weights: Weights of the model; see ``load_model``.
        threads: Number of threads of every worker.
        replace: Replace the result of another model, data set or method in the folder.
        workers: Where to transcribe and compress (default: one worker on this machine).
        watcher: Told which configuration is being compressed or transcribed.
        draw: Called with the curve and a path after every point, for example ``asrdeploy.plot_curve``.

    Raises:
        AsrDeployError: An unknown codec or option, a folder that holds something else, or a step that failed.
    """
    described = (
        methods
        if isinstance(methods, SweepFile)
        else describe_sweeps(
            methods,
            model=model,
            parameters=parameters,
            calibrated=calibrated,
            data=data,
            limit=limit,
            skip_bad=skip_bad,
            weights=weights,
            threads=threads,
        )
    )
    return run_all(prepare_sweeps(described, Path(folder), workers or LocalWorkers(), watcher or NoProgress(), draw, replace=replace))


def find_smallest(
    described: SweepFile,
    folder: Path,
    budget: float,
    *,
    replace: bool = False,
    workers: Workers,
    watcher: Watcher,
    draw: Draw = draw_nothing,
) -> Smallest:
    """Find the smallest bitstream of a codec whose loss of accuracy stays within a budget; see ``Sweep.smallest``.

    Args:
        described: One method.
        folder: Output folder.
        budget: WER above the anchor's, as a fraction.
        replace: See ``sweep``.
        workers: Where to transcribe and compress.
        watcher: Told how the search proceeds.
        draw: See ``sweep``.
    """
    (prepared,) = prepare_sweeps(described, folder, workers, watcher, draw, replace=replace)
    return prepared.smallest(budget)


def describe_sweeps(
    codecs: str | Sequence[str],
    *,
    model: str = DEFAULT_MODEL,
    parameters: Mapping[str, Any] | None = None,
    calibrated: bool = False,
    data: str = "digits",
    limit: int | None = None,
    skip_bad: bool = False,
    weights: str | None = None,
    threads: int = 1,
) -> SweepFile:
    """Return the description of sweeps, as a sweep file holds it.

    Args:
        codecs: Name of the codec, or several names.
        model: Test case or custom model.
        parameters: Fixed parameters of the codecs. The rate is searched.
        calibrated: Calibrate the codecs on dev-clean.
        data: ``digits``, ``librispeech``, or a folder with dev-clean and test-clean.
        limit: Use only the first utterances of each split.
        skip_bad: Leave recordings out that cannot be transcribed.
        weights: Weights of the model; see ``load_model``.
        threads: Threads of every worker.

    Raises:
        AsrDeployError: An option is unknown or out of range.
    """
    names = [codecs] if isinstance(codecs, str) else list(codecs)
    methods = [{"codec": name, "calibrate": calibrated, "set": dict(parameters or {})} for name in names]
    described: dict[str, Any] = {"testcase": model, "weights": weights, "data": data, "limit": limit, "skip_bad": skip_bad}
    described |= {"threads": threads, "method": methods}
    return describe("The sweep", described)


def expected_configurations(described: SweepFile) -> int:
    """Return how many test configurations a sweep evaluates at most, the anchor included; for progress displays."""
    return sum(len(method.rates) or BISECTIONS + FINALISTS for method in described.method) + 1


def prepare_sweeps(
    described: SweepFile, folder: Path, workers: Workers, watcher: Watcher, draw: Draw = draw_nothing, *, replace: bool = False
) -> list[Sweep]:
    """Load the model and the data that sweeps need; see ``sweep`` for the arguments."""
    rates = [moved(method) for method in described.method]
    splits = open_tuning_and_test(described.data)
    limited = [each if described.limit is None else each.limited(described.limit) for each in splits]
    anchor = load_model(str(described.testcase), described.weights)
    if anchor.case.name in BUNDLES:
        say_once(
            f"{anchor.case.name} is not one of the scenario's anchors, so the scenario gives it no WER range. Here the range begins at the "
            f"WER that this run measures for the anchor and ends {100 * anchor.case.wer_range:g} points above it."
        )
    needs = Needs(anchor.case.sample_rate, anchor.minimum_samples)
    dev, test = [check_recordings(each, needs, skip_bad=described.skip_bad).data for each in limited]
    if dev.left_out:  # those of the test split are in the curve
        named = ", ".join(each.id for each in dev.left_out[:NAMED]) + (" and others" if len(dev.left_out) > NAMED else "")
        say_once(f"The search on {dev.name} {dev.split} leaves out {len(dev.left_out)} that cannot be transcribed: {named}.")
    return [
        Sweep(
            anchor=anchor,
            codec=method.codec,
            fixed=method.fixed,
            calibrate=described.data if method.calibrate else None,
            dev=dev,
            test=test,
            folder=folder,
            threads=described.threads,
            watcher=watcher,
            values=method.rates,
            moved=rate,
            decoder=method.decoder,
            name=method.name or "",
            workers=workers,
            draw=draw,
            replace_other=replace,
        )
        for method, rate in zip(described.method, rates, strict=True)
    ]
