"""Measure the overhead of latency measurement over calls of `session.run` with the same model in the same process.

    python -m benchmarks.latency [--json FILE] [--rounds 5] [--runs 40] [--seconds 1,5] [--schemes fp32,int8-full]

The model is the bundled one in ONNX on one thread. Each variant makes the same number of runs per round, in turn:

- bare onnxruntime: `session.run`, timed call by call. This is the baseline.
- engine: `OnnxEngine.logits`, which also checks lengths and output, timed call by call.
- latency job: the job of `asrdeploy bench` and of phones (`run_job`), with the times that it reports.

"fastest run" and "median run" refer to the runs of a round. "total" is the duration of a round divided by the number of runs. For the job,
it includes everything around the runs: job file, digests, loading the model, first inference, warm-up, device state and result.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import onnxruntime
from rich.console import Console

from benchmarks.common import Figures, Row, arguments_of, in_turn, report, run, timing_rows
from device_runner.artifact import Artifact
from device_runner.contract import job_text
from device_runner.engines import OnnxEngine, Waveform
from device_runner.errors import AsrDeployError
from device_runner.files import write_text
from device_runner.jobs import make_task
from device_runner.runner import run_job
from toolchain.data.speech import bundled_speech
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model

BARE, ENGINE, JOB = "bare onnxruntime", "engine", "latency job"


@dataclass
class Runs:
    """A variant. ``make`` makes the runs of a round and returns their seconds."""

    make: Callable[[], list[float]]
    fastest: list[float] = field(default_factory=list)  # fastest run of each round
    medians: list[float] = field(default_factory=list)  # median run of each round

    def __call__(self) -> float:
        """Make the runs of a round and return the total seconds."""
        started = perf_counter()
        samples = self.make()
        seconds = perf_counter() - started
        self.fastest.append(min(samples))
        self.medians.append(statistics.median(samples))
        return seconds


def timed_calls(call: Callable[[], object], runs: int) -> list[float]:
    """Call a function ``runs`` times and return the seconds of each call."""
    samples = []
    for _ in range(runs):
        started = perf_counter()
        call()
        samples.append(perf_counter() - started)
    return samples


def bare_session(artifact: Artifact) -> onnxruntime.InferenceSession:
    """Open a session of onnxruntime on one thread, without the engine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(artifact.model_path), options, providers=["CPUExecutionProvider"])


def job_runs(artifact: Artifact, waveform: Waveform, runs: int, folder: Path) -> Callable[[], list[float]]:
    """Write a latency job with its files and return a function that runs it and returns the seconds of its runs."""
    task = make_task(artifact, [("speech", waveform)], mode="latency", threads=1, warmup=1, repeats=runs, minimum_seconds=0.0)
    job = folder / "job.json"
    write_text(job, job_text(task.job))
    (folder / "files").mkdir()
    for name, path in task.files.items():
        (folder / "files" / name).symlink_to(path.resolve())

    def start() -> list[float]:
        result = run_job(job, folder / "result.json")
        if result.error is not None:
            raise AsrDeployError(f"The latency job failed: {result.error}")
        return list(result.timings[0].samples)

    return start


def measure(artifact: Artifact, seconds: float, runs: int, rounds: int) -> Iterator[Row]:
    """Yield the rows of an artifact.

    Args:
        artifact: ONNX artifact.
        seconds: Length of the audio in seconds.
        runs: Number of runs per round.
        rounds: Number of rounds.
    """
    waveform = bundled_speech([seconds], artifact.manifest.sample_rate)[seconds]
    session, engine = bare_session(artifact), OnnxEngine(artifact, 1)
    inputs = {"input_values": waveform[None]}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            BARE: Runs(partial(timed_calls, partial(session.run, ["logits"], inputs), runs)),
            ENGINE: Runs(partial(timed_calls, partial(engine.logits, waveform), runs)),
            JOB: Runs(job_runs(artifact, waveform, runs, Path(folder))),
        }
        whole = in_turn(ways, rounds, discarded=1)
    group = f"{artifact.manifest.model}, onnx {artifact.manifest.scheme}, {seconds:g} s of audio"
    yield from timing_rows(group, "fastest run", {name: way.fastest[1:] for name, way in ways.items()}, BARE)
    yield from timing_rows(group, "median run", {name: way.medians[1:] for name, way in ways.items()}, BARE)
    yield from timing_rows(group, "total", whole, BARE, unit="ms per run", scale=1000 / runs)


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = arguments_of(__doc__, rounds=5)
    parser.add_argument("--runs", type=int, default=40, help="number of runs of each variant per round")
    parser.add_argument("--seconds", default="1,5", help="lengths of audio in seconds, separated by commas")
    parser.add_argument("--schemes", default="fp32,int8-full", help="ONNX schemes, separated by commas")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for scheme in options.schemes.split(","):
            with Console(stderr=True).status(f"exporting {scheme}"):
                artifact, _ = export_model(load_model("0"), Path(name) / scheme, quant=scheme)
            for seconds in options.seconds.split(","):
                rows += measure(artifact, float(seconds), options.runs, options.rounds)
    report(Figures(benchmark="latency", baseline=BARE, rows=tuple(rows)), options.json)


if __name__ == "__main__":
    run(main)
