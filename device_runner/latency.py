"""Latency of an artifact on this machine: cold load, first inference, peak memory and steady state.

`measure` starts fresh processes for the cold figures (``python -m device_runner.latency --cold …``, this module) and times the
steady state in the calling process. All times are seconds of the monotonic clock; tables and figures show milliseconds.
"""

import gc
import importlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from device_runner.artifact import Artifact, open_artifact
from device_runner.audio import read_audio
from device_runner.engines import Engine, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import high_water_mark, machine_facts
from device_runner.files import atomic_path

Progress = Callable[[str, float], None]
# Beyond these a figure may not be quoted; nor may it where less was measured than STANDARD asks for.
LARGEST_SPREAD = 0.10
LARGEST_LOAD_PER_CPU = 0.5
COLD_LIMIT_S = 600.0
# What brings a format's runtime in: imported beforehand, its import is not counted as load.
RUNTIMES = {"onnx": "onnxruntime", "executorch": "executorch.runtime"}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Conditions(_Record):
    """How often and how long is measured; ``model_copy(update=…)`` of a preset makes another."""

    name: str
    warmup: Annotated[int, Field(ge=1)] = Field(description="runs discarded per length in round 1; later rounds discard one")
    minimum_runs: Annotated[int, Field(ge=1)] = Field(description="runs per length, all rounds together")
    minimum_seconds: Annotated[float, Field(ge=0)] = Field(description="seconds of runs per length, all rounds together")
    rounds: Annotated[int, Field(ge=1)] = Field(description="how often every length is visited in turn")
    cold_starts: Annotated[int, Field(ge=1)] = Field(description="fresh processes for load, first inference and memory")


STANDARD = Conditions(name="standard", warmup=10, minimum_runs=100, minimum_seconds=10.0, rounds=3, cold_starts=3)
STRICT = Conditions(name="strict", warmup=10, minimum_runs=1024, minimum_seconds=60.0, rounds=3, cold_starts=3)
QUICK = Conditions(name="quick", warmup=1, minimum_runs=6, minimum_seconds=0.0, rounds=2, cold_starts=1)


class ArtifactFacts(_Record):
    """Which artifact was measured."""

    model: str
    weights: str
    trained: bool
    format: str
    scheme: str
    sha256: str
    size_bytes: int
    parameters: int


class ColdStart(_Record):
    """One fresh process. The page cache is warm: the artifact's sha256 was checked, so its file was read, just before."""

    process_id: int
    import_seconds: float = Field(description="importing the runtime")
    load_seconds: float = Field(description="from the model file to a session that can run")
    first_inference_seconds: float
    baseline_bytes: int = Field(description="high-water mark of resident memory with the runtime imported, before load")
    peak_bytes: int = Field(description="high-water mark of resident memory after load and first inference")


class Cold(_Record):
    """All fresh processes, each with the longest audio, and the medians over them."""

    audio_seconds: float
    starts: Annotated[tuple[ColdStart, ...], Field(min_length=1)]
    median_load_seconds: float
    median_first_inference_seconds: float
    median_memory_bytes: float = Field(description="peak minus baseline; mapped pages of the model file that were touched count")


class Steady(_Record):
    """Steady state at one length of audio; times in seconds of one runtime call, batch 1."""

    audio_seconds: float
    n: int
    min: float
    mean: float
    p50: float
    p90: float = Field(description="the headline")
    p95: float
    p99: float | None = Field(description="none where n < 100")
    std: float = Field(description="sample standard deviation (n - 1); 0 where n is 1")
    real_time_factor: float = Field(description="mean seconds of computing per second of audio")
    spread: float = Field(description="between rounds: (largest - smallest median of a round) / median of all")
    rounds: tuple[tuple[float, ...], ...] = Field(description="every sample in the order of time, by round")


class LatencyResult(_Record):
    """The content of the JSON file that ``asrdeploy bench`` writes."""

    version: Literal[1] = 1
    artifact: ArtifactFacts
    threads: int
    conditions: Conditions
    machine: dict[str, Any]
    load_average: float = Field(description="runnable processes in the minute before the start")
    cold: Cold
    steady: tuple[Steady, ...]
    valid: bool
    reasons: tuple[str, ...] = Field(description="why the figures may not be quoted; empty where valid")


def measure(
    artifact: Artifact,
    waveforms: dict[float, Waveform],
    *,
    threads: int = 1,
    conditions: Conditions = STANDARD,
    progress: Progress | None = None,
) -> LatencyResult:
    """Measure an artifact: cold starts in fresh processes, then the steady state here, lengths interleaved over the rounds.

    Args:
        artifact: what to run; its file must not change meanwhile.
        waveforms: seconds of audio → waveform ``[samples]`` of just that length at the artifact's sample rate (`real_speech`).
        threads: threads of the runtime.
        conditions: `STANDARD`, `STRICT`, `QUICK` or another.
        progress: is told what comes next and the share that is done, 0..1.

    Raises:
        AsrDeployError: no waveform, threads below 1, the artifact changed, a fresh process failed, or a waveform is too short.
        ValueError: a waveform is not as long as its key says.
    """
    if not waveforms:
        raise AsrDeployError("There is no audio to measure with: name at least one length in seconds.")
    if threads < 1:
        raise AsrDeployError(f"A measurement needs at least 1 thread, not {threads}.")
    for seconds, waveform in waveforms.items():
        if waveform.shape != (round(seconds * artifact.manifest.sample_rate),):
            raise ValueError(f"a waveform of shape {waveform.shape} is not {seconds:g} s at {artifact.manifest.sample_rate} Hz")
    load_average = os.getloadavg()[0]
    say = progress or (lambda what, share: None)
    visits = [(turn, seconds) for turn in range(conditions.rounds) for seconds in waveforms]
    steps = conditions.cold_starts + len(visits)

    starts = []
    longest = max(waveforms)  # it decides the peak of memory
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio.npy"
        np.save(audio, waveforms[longest])
        for index in range(conditions.cold_starts):
            say(f"cold start {index + 1} of {conditions.cold_starts}", index / steps)
            starts.append(cold_start(artifact.folder, threads, audio))

    engine = open_engine(artifact, threads)
    samples: dict[float, list[list[float]]] = {seconds: [] for seconds in waveforms}
    for index, (turn, seconds) in enumerate(visits, start=conditions.cold_starts):
        say(f"round {turn + 1} of {conditions.rounds}, {seconds:g} s of audio", index / steps)
        samples[seconds].append(_time_round(engine, waveforms[seconds], conditions, first=turn == 0))
    say("done", 1.0)
    if open_artifact(artifact.folder).manifest != artifact.manifest:
        raise AsrDeployError(f"{artifact.folder} was exported again while it was being measured; measure it again.")
    steady = tuple(summarise(seconds, rounds) for seconds, rounds in samples.items())
    reasons = why_invalid(conditions, steady, load_average, os.cpu_count() or 1)
    facts = artifact.manifest.model_dump(include={"model", "weights", "trained", "format", "scheme", "parameters"})
    return LatencyResult(
        artifact=ArtifactFacts(**facts, sha256=artifact.digest, size_bytes=artifact.size_bytes),
        threads=threads,
        conditions=conditions,
        machine=machine_facts(),
        load_average=load_average,
        cold=Cold(
            audio_seconds=longest,
            starts=tuple(starts),
            median_load_seconds=float(np.median([each.load_seconds for each in starts])),
            median_first_inference_seconds=float(np.median([each.first_inference_seconds for each in starts])),
            median_memory_bytes=float(np.median([each.peak_bytes - each.baseline_bytes for each in starts])),
        ),
        steady=steady,
        valid=not reasons,
        reasons=reasons,
    )


def summarise(audio_seconds: float, rounds: Sequence[Sequence[float]]) -> Steady:
    """Return the statistics of one length from its samples [s] by round; every round has at least one.

    Percentiles interpolate linearly between samples (numpy's default). A p99 of fewer than 100 samples would be little but their maximum.
    """
    samples = np.array([sample for each in rounds for sample in each])
    mean = math.fsum(samples) / samples.size
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, [50, 90, 95, 99]))
    return Steady(
        audio_seconds=audio_seconds,
        n=samples.size,
        min=float(samples.min()),
        mean=mean,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99 if samples.size >= 100 else None,
        std=float(samples.std(ddof=1)) if samples.size > 1 else 0.0,
        real_time_factor=mean / audio_seconds,
        spread=float(np.ptp([np.median(each) for each in rounds])) / p50,
        rounds=tuple(tuple(each) for each in rounds),
    )


def why_invalid(conditions: Conditions, steady: Sequence[Steady], load_average: float, cpus: int) -> tuple[str, ...]:
    """Return the reasons why figures may not be quoted; none where they may.

    ``load_average`` counts the runnable processes in the minute before the start, which are not ours; ``cpus`` are logical ones.
    """
    checks = [
        (conditions.name == QUICK.name, "quick conditions are for trying out"),
        (conditions.cold_starts < STANDARD.cold_starts, f"cold starts: {conditions.cold_starts}, fewer than {STANDARD.cold_starts}"),
        (conditions.rounds < STANDARD.rounds, f"rounds: {conditions.rounds}, fewer than {STANDARD.rounds}"),
        (conditions.warmup < STANDARD.warmup, f"warm-up runs: {conditions.warmup}, fewer than {STANDARD.warmup}"),
        (load_average > LARGEST_LOAD_PER_CPU * cpus, f"load average {load_average:.1f} on {cpus} CPUs: other work was running"),
    ]
    for each in steady:
        audio = f"{each.audio_seconds:g} s of audio"
        total = round(math.fsum(sample for samples in each.rounds for sample in samples), 9)  # samples are whole nanoseconds
        checks += [
            (each.n < STANDARD.minimum_runs, f"{audio}: {each.n} runs, fewer than {STANDARD.minimum_runs}"),
            (total < STANDARD.minimum_seconds, f"{audio}: {total:.1f} s of runs, less than {STANDARD.minimum_seconds:g} s"),
            (each.spread > LARGEST_SPREAD, f"{audio}: the rounds differ by {each.spread:.0%}, more than {LARGEST_SPREAD:.0%}"),
        ]
    return tuple(reason for found, reason in checks if found)


def real_speech(utterances: list[Path], seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return real speech of just these lengths: seconds → waveform ``[samples]``, float32 at ``sample_rate`` Hz.

    The recordings are put behind each other, from the start again where they are too short in all, and cut. So every length
    begins with the same speech, and a list of recordings always gives the same audio.

    Raises:
        AsrDeployError: no recording, one that cannot be read, or a length that is no positive number.
    """
    for length in seconds:
        if not math.isfinite(length) or round(length * sample_rate) < 1:
            raise AsrDeployError(f"A length of audio must be a positive number of seconds, not {length:g}.")
    if not utterances:
        raise AsrDeployError("There is no recording to measure with: give at least one audio file with speech in it.")
    samples = {length: round(length * sample_rate) for length in seconds}
    parts: list[Waveform] = []
    for path in utterances:
        if sum(part.size for part in parts) < max(samples.values(), default=0):
            parts.append(read_audio(path, sample_rate))
    return {length: np.resize(np.concatenate(parts), count) for length, count in samples.items()}


def summary_table(result: LatencyResult) -> Table:
    """Return a table with a row per length of audio; times in milliseconds. Its caption has cold figures and validity."""
    cold = result.cold
    caption = (
        f"load {cold.median_load_seconds * 1e3:.1f} ms, first inference of {cold.audio_seconds:g} s "
        f"{cold.median_first_inference_seconds * 1e3:.1f} ms, peak memory {cold.median_memory_bytes / 1e6:.1f} MB over the baseline "
        f"(medians over fresh processes: {len(cold.starts)})"
    )
    if result.reasons:
        caption += "\nnot valid:\n" + "\n".join(result.reasons)
    table = Table(title=f"Latency of {_label(result)}", caption=caption)
    for column in ("audio s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "RTF", "n"):
        table.add_column(column, justify="right")
    for each in result.steady:
        times = ("–" if value is None else f"{value * 1e3:.2f}" for value in (each.p50, each.p90, each.p95, each.p99))
        table.add_row(f"{each.audio_seconds:g}", *times, f"{each.real_time_factor:.4f}", str(each.n))
    return table


def plot(results: Sequence[LatencyResult], path: Path) -> None:
    """Draw latency over length of audio, a line per result: p50 with a whisker up to p90. The suffix of ``path`` decides the format.

    Raises:
        AsrDeployError: nothing to draw, a suffix that matplotlib does not know, or ``path`` cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot there is no window and no global state; a PNG is drawn by Agg

    if not results:
        raise AsrDeployError("There is no latency result to draw: name at least one.")
    figure = Figure(figsize=(8, 5), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise AsrDeployError(f"Cannot draw {path}: end its name with .png or one of {', '.join(sorted(known))}.")
    untrained = sorted({result.artifact.model for result in results if not result.artifact.trained})
    title = "Latency of the runtime call: p50, whisker up to p90" + f"\nrandom weights: {', '.join(untrained)}" * bool(untrained)
    axes = figure.add_subplot()
    for result in results:
        lengths, p50, p90 = np.array([(each.audio_seconds, each.p50 * 1e3, each.p90 * 1e3) for each in result.steady]).T
        # Rounding of the percentiles may put p90 an ulp below p50, and matplotlib refuses negative whiskers.
        whiskers = [0 * p50, np.maximum(p90 - p50, 0)]
        axes.errorbar(lengths, p50, yerr=whiskers, label=_label(result) + " (not valid)" * (not result.valid), marker="o", capsize=3)
    axes.set(title=title, xlabel="length of audio (s)", ylabel="latency (ms)", xlim=(0, None), ylim=(0, None))
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def cold_start(folder: Path, threads: int, audio: Path) -> ColdStart:
    """Load an artifact in a fresh Python process and run it once on a ``.npy`` file's waveform ``[samples]``, float32.

    Raises:
        AsrDeployError: the process failed or took longer than 10 minutes.
    """
    command = [sys.executable, "-m", "device_runner.latency", "--cold", str(folder.resolve()), str(threads), str(audio.resolve())]
    try:  # `-m` looks in the current folder first, so a checkout that is not installed works too
        done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=COLD_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise AsrDeployError(f"A fresh process did not load {folder} and run it once within {COLD_LIMIT_S:g} s.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise AsrDeployError(f"A fresh process could not run {folder}: {lines[-1]}")
    return ColdStart.model_validate_json(done.stdout.strip().splitlines()[-1])  # a runtime may print something before


def _cold_start_here(folder: Path, threads: int, audio: Path) -> ColdStart:
    """What the fresh process does."""
    artifact, waveform = open_artifact(folder), np.load(audio, allow_pickle=False)
    start = perf_counter_ns()
    importlib.import_module(RUNTIMES.get(artifact.manifest.format, "device_runner.engines"))  # an unknown format fails at the load
    imported, baseline, before_load = perf_counter_ns(), high_water_mark(), perf_counter_ns()  # in this order
    engine = open_engine(artifact, threads)
    loaded = perf_counter_ns()
    engine.logits(waveform)
    finished = perf_counter_ns()
    return ColdStart(
        process_id=os.getpid(),
        import_seconds=(imported - start) / 1e9,
        load_seconds=(loaded - before_load) / 1e9,
        first_inference_seconds=(finished - loaded) / 1e9,
        baseline_bytes=baseline,
        peak_bytes=high_water_mark(),
    )


def _time_round(engine: Engine, waveform: Waveform, conditions: Conditions, *, first: bool) -> list[float]:
    """Return the seconds of every run of one round, enough for its share of the minimum runs and the minimum time."""
    # All rounds share one process, so kernels, pages and threads are warm after the first; a later round only has to fit the
    # runtime's buffers to another length again, which one run does.
    for _ in range(conditions.warmup if first else 1):
        engine.logits(waveform)
    runs = math.ceil(conditions.minimum_runs / conditions.rounds)
    nanoseconds = math.ceil(conditions.minimum_seconds * 1e9 / conditions.rounds)
    samples: list[int] = []
    total = 0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while len(samples) < runs or total < nanoseconds:
            start = perf_counter_ns()
            engine.logits(waveform)
            samples.append(perf_counter_ns() - start)
            total += samples[-1]
    finally:
        if collecting:
            gc.enable()
    return [sample / 1e9 for sample in samples]


def _label(result: LatencyResult) -> str:
    artifact = result.artifact
    weights = "" if artifact.trained else ", random weights"
    return f"{artifact.model} {artifact.format} {artifact.scheme}{weights}, {result.threads} thread{'s' * (result.threads > 1)}"


if __name__ == "__main__":  # the fresh process that `cold_start` starts
    try:
        print(_cold_start_here(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])).model_dump_json())
    except AsrDeployError as error:
        sys.exit(str(error))
