"""Measure speed and memory of `asrdeploy evaluate` and of the scenario's script.

    python -m benchmarks.evaluate [--json FILE] [--rounds 3] [--models tiny,base] [--minutes 20]

The baseline is the scenario's procedure: PyTorch in fp32, a data loader with batch size 1, PyTorch's default number of threads.
asrdeploy runs one single-threaded worker per core. Each variant runs in a separate process, in turn. Its time starts when the model is
loaded and ends with the WER; its memory is the peak of the process.

tiny is the bundled model with trained weights on repetitions of the bundled test-clean. base is WAV2VEC2_ASR_BASE_960H with random weights
(its WER is meaningless and not reported) on bundled speech, joined to recordings of LibriSpeech's mean length.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import REPOSITORY, Figures, Row, arguments_of, in_turn, ratio_of, report, run
from device_runner.artifact import open_artifact
from device_runner.facts import high_water_mark, usable_cpus
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.accuracy.workers import LocalWorkers
from toolchain.data.datasets import DataSet, open_data, read_folder

SCRIPT = "scenario's script, torch fp32"
SCHEMES = ("fp32", "int8", "int8-full+conv8")
JOINED_SECONDS = 7.4  # mean length in LibriSpeech's test-clean: 5.4 h in 2620 utterances
BASE_MINUTES = 3.2  # takes the scenario's script a minute on a slow core
NAMES = {"tiny": "DIGITS_ASR_TINY", "base": "WAV2VEC2_ASR_BASE_960H"}


def scenario_script(model_name: str, weights: str | None, data: DataSet) -> tuple[float, float]:
    """Transcribe and score as in the scenario. Return the seconds and the WER as a fraction."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torcheval.metrics import WordErrorRate

    from toolchain.models.loading import load_model

    class Recordings(Dataset[Any]):
        def __len__(self) -> int:
            return len(data.utterances)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
            utterance = data.utterances[number]
            waveform, _ = soundfile.read(utterance.path, dtype="float32")
            return torch.from_numpy(waveform), utterance.reference

    model = load_model(model_name, weights)
    labels, recogniser, metric = model.case.labels, model.recogniser, WordErrorRate()
    started = time.perf_counter()
    for waveform, (reference,) in DataLoader(Recordings(), batch_size=1):
        with torch.inference_mode():
            logits = recogniser(waveform)
        indices = torch.unique_consecutive(torch.argmax(logits[0], dim=-1))
        text = "".join(labels[index] for index in indices.tolist() if index != 0).replace("|", " ")
        metric.update([text], [reference])
    wer = float(metric.compute())
    return time.perf_counter() - started, wer


def ours(subject_name: str, weights: str | None, data: DataSet, workers: int) -> tuple[float, float]:
    """Evaluate with asrdeploy. Return the seconds and the WER as a fraction."""
    transcriber = open_transcriber(subject_name, weights=weights)
    import torcheval.metrics  # noqa: F401  (as in the script, the time excludes this import)

    with tempfile.TemporaryDirectory() as results:
        started = time.perf_counter()
        found = evaluate(transcriber, data, Path(results), workers=LocalWorkers(workers))
        return time.perf_counter() - started, found.wer


def repeated(folder: Path, seconds: float) -> None:
    """Fill a folder with repetitions of the bundled test-clean, up to a total length in seconds."""
    data = open_data("digits", "test-clean")
    length, round_ = 0.0, 0
    while length < seconds:
        round_ += 1
        for utterance in data.utterances:
            speaker, _, number = utterance.id.split("-")
            length += soundfile.info(utterance.path).duration
            _add(folder, speaker, round_, number, utterance.reference).symlink_to(utterance.path)


def joined(folder: Path, seconds: float) -> None:
    """Fill a folder with bundled speech joined to recordings of equal length, up to a total length in seconds."""
    length, number = 0.0, 0
    for speaker, samples, reference in _joined():
        if length >= seconds:
            return
        soundfile.write(_add(folder, speaker, 1, f"{number:04d}", reference), samples, 16_000)
        length, number = length + len(samples) / 16_000, number + 1


def _joined() -> Iterator[tuple[str, np.ndarray, str]]:
    parts: list[np.ndarray] = []
    words: list[str] = []
    for utterance in cycle(open_data("digits", "test-clean").utterances):
        samples, _ = soundfile.read(utterance.path, dtype="float32")
        parts.append(samples)
        words.append(utterance.reference)
        if sum(map(len, parts)) >= JOINED_SECONDS * 16_000:
            yield utterance.id.split("-")[0], np.concatenate(parts)[: int(JOINED_SECONDS * 16_000)], " ".join(words)
            parts, words = [], []


def _add(folder: Path, speaker: str, chapter: int, number: str, reference: str) -> Path:
    """Add a reference to a folder in LibriSpeech's layout and return the path for its recording."""
    place = folder / "test-clean" / speaker / str(chapter)
    place.mkdir(parents=True, exist_ok=True)
    name = f"{speaker}-{chapter}-{number}"
    with (place / f"{speaker}-{chapter}.trans.txt").open("a") as file:
        file.write(f"{name} {reference}\n")
    return place / f"{name}.flac"


def in_a_process(way: dict[str, Any]) -> dict[str, Any]:
    """Run a variant in a separate process and return its results."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.evaluate", "--way", json.dumps(way)], cwd=REPOSITORY, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{way['name']} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_way(way: dict[str, Any]) -> dict[str, float]:
    """Run a variant in this process and return its seconds, WER and peak memory in bytes."""
    data = read_folder(Path(way["data"]), "test-clean", "benchmark")
    if way["name"] == SCRIPT:
        seconds, wer = scenario_script(way["transcriber"], way["weights"], data)
    else:
        seconds, wer = ours(way["transcriber"], way["weights"], data, way["workers"])
    return {"seconds": seconds, "wer": wer, "peak_bytes": high_water_mark()}


def ways_of(model: str, folder: Path, minutes: float) -> list[dict[str, Any]]:
    """Prepare data and artifacts of a model and return the variants to run.

    Args:
        model: ``tiny`` or ``base``.
        folder: Folder for data and artifacts.
        minutes: Length of the audio in minutes.
    """
    import torch
    from safetensors.torch import save_file

    from toolchain.models.loading import load_model
    from toolchain.scenario.exporting import export_model

    data, weights = folder / f"{model}-data", None
    if model == "tiny":
        repeated(data, 60 * minutes)
    else:
        joined(data, 60 * min(minutes, BASE_MINUTES))
        weights = str(folder / "random.safetensors")
        save_file(load_model(NAMES[model], "random").state(), weights)
    common = {"data": str(data), "transcriber": NAMES[model], "weights": weights, "workers": usable_cpus(), "bytes": None}
    found = [common | {"name": SCRIPT, "workers": 1}, common | {"name": "asrdeploy, torch fp32"}]
    torch.set_num_threads(usable_cpus())
    for scheme in SCHEMES:
        artifact = folder / f"{model}-{scheme}"
        export_model(load_model(NAMES[model], weights), artifact, quant=scheme)
        found.append(
            common
            | {
                "name": f"asrdeploy, onnx {scheme}",
                "transcriber": str(artifact),
                "weights": None,
                "bytes": open_artifact(artifact).size_bytes,
            }
        )
    return found


def measure(model: str, ways: list[dict[str, Any]], rounds: int) -> list[Row]:
    """Run the variants of a model in turn and return the rows."""
    data = read_folder(Path(ways[0]["data"]), "test-clean", "benchmark")
    audio = sum(soundfile.info(each.path).duration for each in data.utterances)
    group = f"{NAMES[model]}, {'trained' if model == 'tiny' else 'random weights'}, {audio / 60:.1f} min of audio"
    runs: dict[str, list[dict[str, Any]]] = {way["name"]: [] for way in ways}

    def seconds_of(way: dict[str, Any]) -> float:
        runs[way["name"]].append(in_a_process(way))
        return float(runs[way["name"]][-1]["seconds"])

    seconds = in_turn({way["name"]: partial(seconds_of, way) for way in ways}, rounds)
    script_peak = max(each["peak_bytes"] for each in runs[SCRIPT])
    rows = []
    for way in ways:
        name = way["name"]
        common = {"group": group, "what": name}
        ratio, spread = ratio_of(seconds[SCRIPT], seconds[name])
        speed = audio / statistics.median(seconds[name])
        rows.append(Row(**common, measure="speed", value=speed, unit="audio s/s", better="more", ratio=ratio, spread=spread))
        if model == "tiny":
            rows.append(Row(**common, measure="WER", value=100 * runs[name][0]["wer"], unit="%", better="less"))
        peak = max(each["peak_bytes"] for each in runs[name])
        rows.append(Row(**common, measure="peak", value=peak / 1e6, unit="MB", better="less", ratio=peak / script_peak))
        if way["workers"] > 1:
            extra = (peak - in_a_process(way | {"workers": 1})["peak_bytes"]) / (way["workers"] - 1)
            rows.append(Row(**common, measure="per extra worker", value=extra / 1e6, unit="MB", better="less"))
            if way["bytes"] is not None:
                share = 100 * extra / way["bytes"]
                rows.append(Row(**common, measure="share of artifact", value=share, unit="%", better="less"))
    return rows


def options_of() -> argparse.Namespace:
    """Read the command line. ``--way`` is internal: it names the variant for a separate process."""
    parser = arguments_of(__doc__, rounds=3)
    parser.add_argument("--models", default="tiny,base")
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes of audio for the bundled model")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the ratios."""
    options = options_of()
    if options.way:
        print(json.dumps(run_way(json.loads(options.way))))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for model in options.models.split(","):
            rows += measure(model, ways_of(model, Path(name), options.minutes), options.rounds)
    note = (
        f"asrdeploy uses {usable_cpus()} single-threaded workers. “per extra worker” is the peak memory with all workers minus that with "
        "one, divided by the number of additional workers; “share of artifact” is that memory relative to the size of the artifact."
    )
    report(Figures(benchmark="evaluate", baseline=SCRIPT, rows=tuple(rows), notes=(note,)), options.json)


if __name__ == "__main__":
    run(main)
