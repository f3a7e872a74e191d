"""What the latency loop costs on top of onnxruntime: the same runs of the same model by bare `session.run` calls, in the same process.

    python -m benchmarks.latency [--json FILE] [--rounds 5] [--runs 40] [--seconds 1,5] [--schemes fp32,int8-full]

The bundled model in ONNX on one thread. Each way makes the same number of runs a round, in turn:

- bare onnxruntime: `session.run`, every call timed; the baseline.
- engine: `OnnxEngine.logits`, which checks lengths and the answer, every call timed.
- latency job: what `asrdeploy bench` and a phone run (`run_job`), with the times that it reports.

"fastest run" and "median run" are those of a round. "all of it" is the whole time over the number of runs: for the job also what is around
them (the job's file, digests, loading the model, the first inference and the warm-up, the device's state, the result).
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
    """A way to make runs, of which ``make`` returns the seconds."""

    make: Callable[[], list[float]]
    fastest: list[float] = field(default_factory=list)  # of a round's runs
    medians: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """Make a round of runs and return the seconds of all that it took."""
        started = perf_counter()
        samples = self.make()
        seconds = perf_counter() - started
        self.fastest.append(min(samples))
        self.medians.append(statistics.median(samples))
        return seconds


def timed_calls(call: Callable[[], object], runs: int) -> list[float]:
    """Return the seconds of each of some calls."""
    samples = []
    for _ in range(runs):
        started = perf_counter()
        call()
        samples.append(perf_counter() - started)
    return samples


def bare_session(artifact: Artifact) -> onnxruntime.InferenceSession:
    """Open a model as a program with onnxruntime alone would, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(artifact.model_path), options, providers=["CPUExecutionProvider"])


def job_runs(artifact: Artifact, waveform: Waveform, runs: int, folder: Path) -> Callable[[], list[float]]:
    """Lay out a latency job with its files and return what runs it and gives the seconds of its runs."""
    task = make_task(artifact, [("speech", waveform)], mode="latency", threads=1, warmup=1, repeats=runs, minimum_seconds=0.0)
    job = folder / "job.json"
    write_text(job, job_text(task.job))
    (folder / "files").mkdir()
    for name, path in task.files.items():
        (folder / "files" / name).symlink_to(path.resolve())

    def start() -> list[float]:
        result = run_job(job, folder / "result.json")
        if result.error is not None:
            raise AsrDeployError(f"The latency job ended early: {result.error}")
        return list(result.timings[0].samples)

    return start


def measure(artifact: Artifact, seconds: float, runs: int, rounds: int) -> Iterator[Row]:
    """Yield the rows of one artifact and one length of audio [s]."""
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
    yield from timing_rows(group, "all of it", whole, BARE, unit="ms a run", scale=1000 / runs)


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = arguments_of(__doc__, rounds=5)
    parser.add_argument("--runs", type=int, default=40, help="of each way in a round")
    parser.add_argument("--seconds", default="1,5", help="lengths of audio")
    parser.add_argument("--schemes", default="fp32,int8-full", help="of ONNX, with commas between")
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
