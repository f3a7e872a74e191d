"""Accuracy runs: `asrdeploy evaluate` against the scenario's own script, on the bundled speech, in one run.

    python benchmarks/evaluate.py [--json FILE] [--rounds 3]

The baseline is the scenario's procedure as it is written: torch, batch 1, one utterance after the other, fp32, with the
number of threads that torch chooses. The others use one thread. Weights: bundled and trained.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# This folder has an exporters.py, which would stand for the package.
sys.path[:] = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torcheval.metrics import WordErrorRate

from device_runner.facts import machine_facts
from device_runner.files import write_json
from toolchain.datasets import DataSet, open_data
from toolchain.evaluate import evaluate
from toolchain.exporting import export_model
from toolchain.models import load_model
from toolchain.subjects import open_subject

BASELINE = "scenario's script (torch fp32)"


def scenario_script(data: DataSet) -> float:
    """Transcribe and score as the scenario does; return the word error rate."""
    model = load_model("0")
    labels, recogniser, metric = model.case.labels, model.recogniser, WordErrorRate()
    for utterance in data.utterances:
        waveform, _ = soundfile.read(utterance.path, dtype="float32")
        with torch.inference_mode():
            logits = recogniser(torch.from_numpy(waveform)[None])
        indices = torch.unique_consecutive(torch.argmax(logits[0], dim=-1))
        text = "".join(labels[index] for index in indices.tolist() if index != 0).replace("|", " ")
        metric.update([text], [utterance.reference])
    return float(metric.compute())


def main() -> None:
    """Run the rounds, interleaved, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = open_data("digits", "test-clean")
    audio = sum(soundfile.info(utterance.path).duration for utterance in data.utterances)
    threads = torch.get_num_threads()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts = {}
        for scheme in ("fp32", "int8"):
            export_model(load_model("0"), format_name="onnx", scheme_name=scheme, folder=folder / scheme)
            artifacts[scheme] = str(folder / scheme)

        def ours(subject: str) -> float:
            with tempfile.TemporaryDirectory() as results:
                return evaluate(open_subject(subject), data, Path(results), threads=1).wer

        ways: dict[str, Callable[[], float]] = {
            BASELINE: lambda: scenario_script(data),
            "asrdeploy, torch fp32": lambda: ours("0"),
            "asrdeploy, onnx fp32": lambda: ours(artifacts["fp32"]),
            "asrdeploy, onnx int8": lambda: ours(artifacts["int8"]),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        wers = {}
        for _ in range(options.rounds):
            for way, run in ways.items():
                torch.set_num_threads(threads if way == BASELINE else 1)
                started = time.perf_counter()
                wers[way] = run()
                seconds[way].append(time.perf_counter() - started)

    rows = []
    for way, taken in seconds.items():
        ratio = statistics.median(base / own for base, own in zip(seconds[BASELINE], taken, strict=True))
        rows.append(
            {"way": way, "audio_seconds_per_second": audio / statistics.median(taken), "ratio": ratio, "wer": wers[way], "seconds": taken}
        )
    table = Table(
        "way", "audio s / s", "ratio to the script", "wer", title=f"{audio:.0f} s of bundled speech, median of {options.rounds} rounds"
    )
    for row in rows:
        table.add_row(row["way"], f"{row['audio_seconds_per_second']:.0f}", f"{row['ratio']:.2f}", f"{row['wer']:.2%}")
    Console().print(table)
    if options.json:
        write_json(options.json, {"audio_seconds": audio, "rows": rows, "machine": machine_facts()})


if __name__ == "__main__":
    main()
