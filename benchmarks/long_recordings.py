"""Measure what overlapping windows cost on long recordings: errors, speed and memory, with short recordings as the baseline.

    python -m benchmarks.long_recordings [--json FILE] [--rounds 3] [--windows 10/2,20/2] [--orders 4] [--minutes 60] [--artifacts LIST]

The model is the bundled one on one thread, and the speech is bundled.

Windows (seconds of window/overlap) run on recordings of about two minutes, which hold the utterances of dev-clean in several random orders.
Defaults are chosen from these figures, so that test-clean is left for reports. "WER" counts errors against the references, "changed"
those against the transcript of the whole recording. The baseline runs the utterances one by one. Times are those of the
model only.

The hour is test-clean, repeated: once as a file for each utterance, which is the baseline, once as a file for every ten seconds, and once
as a single file. `asrdeploy transcribe --format json` runs on one of them in a process of its own, from its start to its end. Its memory
is the peak of the process. Speeds are those per second of processor time: the model runs on one thread, and other work on the machine
changes processor time less than time.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
from rich.console import Console

from benchmarks.common import REPOSITORY, Figures, Row, arguments_of, in_turn, ratio_of, report, run
from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.engines import Waveform
from device_runner.errors import AsrDeployError
from device_runner.facts import high_water_mark
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.transcriber import Transcriber, as_transcriber
from toolchain.data.datasets import open_data

SHORT, TENS, LONG, WHOLE = "short recordings", "recordings of 10 s", "one recording", "whole recordings"
RATE = 16_000
PARTS = 2  # recordings in which a random order of dev-clean is joined, so that a whole one fits into memory
MAX_SECONDS = 35.0  # the default of exports
LONGEST = 300.0  # seconds that the artifact accepts whole where windows are compared
WINDOWS = "5/1,10/1,10/2,20/1,20/2,20/4,30/2,30/4,30/8"
ARTIFACTS = "onnx:fp32,onnx:int8,onnx:int8-full+conv8,executorch:fp32,executorch:int8-full"


@dataclass(frozen=True)
class Recording:
    """Samples ``[samples]`` and what is said."""

    samples: Waveform
    reference: str


def utterances_of(split: str) -> list[Recording]:
    """Return the utterances of a bundled split."""
    return [Recording(read_audio(each.path, RATE), each.reference) for each in open_data("digits", split).utterances]


def joined(recordings: Sequence[Recording]) -> Recording:
    """Return recordings one behind another."""
    return Recording(np.concatenate([each.samples for each in recordings]), " ".join(each.reference for each in recordings))


def exported(name: str, folder: Path, max_seconds: float = MAX_SECONDS) -> Artifact:
    """Export the bundled model as ``FORMAT:SCHEME``."""
    from toolchain.models.loading import load_model  # here, so that PyTorch is not in the memory that is measured
    from toolchain.scenario.exporting import export_model

    format_name, _, scheme = name.partition(":")
    with Console(stderr=True).status(f"exporting {name}"):
        return export_model(load_model("0"), folder / name.replace(":", "-"), format=format_name, quant=scheme, max_seconds=max_seconds)[0]


def windows_of(text: str) -> dict[str, tuple[float, float]]:
    """Return window and overlap in seconds for each of a list such as ``10/2,30/4``.

    Raises:
        AsrDeployError: The text is no such list.
    """
    try:
        return {each: (float(each.split("/")[0]), float(each.split("/")[1])) for each in text.split(",")}
    except (ValueError, IndexError) as error:
        raise AsrDeployError(f"--windows {text}: write WINDOW/OVERLAP in seconds, separated by commas, for example 10/2,30/4.") from error


def measure_windows(transcriber: Transcriber, windows: dict[str, tuple[float, float]], orders: int, rounds: int) -> Iterator[Row]:
    """Yield the rows of windows on joined speech.

    Args:
        transcriber: Transcriber of recordings up to ``LONGEST`` seconds.
        windows: Window and overlap in seconds, by name.
        orders: Number of random orders.
        rounds: Number of rounds.
    """
    single, rng = utterances_of("dev-clean"), np.random.default_rng(0)
    shuffled = [[single[number] for number in rng.permutation(len(single))] for _ in range(orders)]
    long = [joined(order[part * len(order) // PARTS : (part + 1) * len(order) // PARTS]) for order in shuffled for part in range(PARTS)]
    short = [each for order in shuffled for each in order]
    ways: dict[str, tuple[Transcriber, list[Recording]]] = {SHORT: (transcriber, short), WHOLE: (transcriber, long)}
    ways |= {f"windows of {name} s": (transcriber.windowed(*each), long) for name, each in windows.items()}

    texts: dict[str, list[str]] = {}

    def transcribe(name: str) -> None:
        used, recordings = ways[name]
        texts[name] = [used.transcribe(each.samples) for each in recordings]

    seconds = in_turn({name: cpu_seconds(partial(transcribe, name)) for name in ways}, rounds)
    audio = sum(each.samples.size for each in long) / RATE
    group = f"{transcriber.case.name}, onnx fp32, {audio / 60:.0f} min of speech in {len(long)} recordings"
    for name, (_, recordings) in ways.items():
        row = partial(Row, group=group, what=name)
        yield row(measure="WER", value=wrong([each.reference for each in recordings], texts[name]), unit="%", better="less")
        if name not in (SHORT, WHOLE):
            yield row(measure="changed", value=wrong(texts[WHOLE], texts[name]), unit="%", better="less")
        yield speed_row(row, audio, seconds[name], seconds[SHORT])


def cpu_seconds(function: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls another one and returns the processor time of this process that it took, in seconds."""

    def seconds() -> float:
        started = time.process_time()
        function()
        return time.process_time() - started

    return seconds


def speed_row(row: "partial[Row]", audio: float, own: Sequence[float], base: Sequence[float]) -> Row:
    """Return the row of a speed: seconds of audio per second of processor time, and its ratio to the baseline."""
    ratio, spread = ratio_of(base, own)
    return row(measure="speed", value=audio / median(own), unit="audio s/s", better="more", ratio=ratio, spread=spread)


def wrong(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word errors in percent of the words of the references."""
    counts = [count_errors(one, other) for one, other in zip(references, hypotheses, strict=True)]
    return 100 * sum(each.errors for each in counts) / sum(each.words for each in counts)


def write_hour(folder: Path, seconds: float) -> float:
    """Write the same speech as short recordings, as recordings of ten seconds, and as one; return its length in seconds."""
    parts: list[Waveform] = []
    length = 0
    places = {name: folder / name.replace(" ", "-") for name in (SHORT, TENS, LONG)}
    for place in places.values():
        place.mkdir()
    for each in cycle(utterances_of("test-clean")):
        soundfile.write(places[SHORT] / f"{len(parts):05}.wav", each.samples, RATE)
        parts.append(each.samples)
        length += each.samples.size
        if length >= seconds * RATE:
            break
    whole = np.concatenate(parts)
    for number in range(0, whole.size, 10 * RATE):
        soundfile.write(places[TENS] / f"{number:09}.wav", whole[number : number + 10 * RATE], RATE)
    soundfile.write(places[LONG] / "long.wav", whole, RATE)
    return whole.size / RATE


def measure_hour(artifact: Artifact, folder: Path, audio: float, rounds: int) -> Iterator[Row]:
    """Yield the rows of an artifact on the recordings of ``write_hour``."""
    peaks: dict[str, list[float]] = {name: [] for name in (SHORT, TENS, LONG)}

    def transcribe(name: str) -> float:
        words = [sys.executable, "-m", "benchmarks.long_recordings", "--way", str(artifact.folder), str(folder / name.replace(" ", "-"))]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise AsrDeployError(f"Transcribing {name} failed: {done.stderr.strip()[-300:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        peaks[name].append(found["peak_bytes"] / 1e6)
        return float(found["seconds"])

    seconds = in_turn({name: partial(transcribe, name) for name in peaks}, rounds)
    manifest = artifact.manifest
    group = f"{manifest.model}, {manifest.format} {manifest.scheme}, {audio / 60:.0f} min of speech, asrdeploy transcribe"
    for name in peaks:
        row = partial(Row, group=group, what=name)
        yield speed_row(row, audio, seconds[name], seconds[SHORT])
        yield row(measure="peak", value=max(peaks[name]), unit="MB", better="less", ratio=max(peaks[name]) / max(peaks[SHORT]))


def transcribe_here(artifact: str, folder: str) -> dict[str, float]:
    """Run ``asrdeploy transcribe`` in this process and return its seconds and peak memory in bytes."""
    from toolchain.cli.main import main as asrdeploy

    sys.argv = ["asrdeploy", "transcribe", artifact, folder, "--format", "json"]
    with tempfile.TemporaryFile("w") as output, contextlib.redirect_stdout(output):
        try:
            asrdeploy()
        except SystemExit as ending:
            if ending.code:
                raise
    return {"seconds": time.process_time(), "peak_bytes": high_water_mark()}


def options_of() -> argparse.Namespace:
    """Read the command line. ``--way`` is internal: it names artifact and recordings for a separate process."""
    parser = arguments_of(__doc__, rounds=3)
    parser.add_argument("--windows", default=WINDOWS, help="windows and overlaps in seconds, separated by commas")
    parser.add_argument("--orders", type=int, default=4, help="number of random orders of dev-clean; 0 leaves the windows out")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the long recording")
    parser.add_argument("--artifacts", default=ARTIFACTS, help="artifacts for the long recording, FORMAT:SCHEME, separated by commas")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the ratios."""
    options = options_of()
    if options.way:
        print(json.dumps(transcribe_here(*options.way)))
        return
    windows = windows_of(options.windows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unlimited = as_transcriber(exported("onnx:fp32", folder / "unlimited", max_seconds=LONGEST))
        rows = list(measure_windows(unlimited, windows, options.orders, options.rounds)) if options.orders else []
        (folder / "speech").mkdir()
        audio = write_hour(folder / "speech", 60 * options.minutes)
        for each in options.artifacts.split(","):
            rows += measure_hour(exported(each, folder), folder / "speech", audio, options.rounds)
    report(Figures(benchmark="long_recordings", baseline=SHORT, rows=tuple(rows)), options.json)


if __name__ == "__main__":
    run(main)
