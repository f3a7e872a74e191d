"""Exports by model, format and scheme: seconds, size against fp32, latency against torch fp32 and plain ONNX fp32 in the same run.

    python benchmarks/exporters.py [--models tiny,base,large] [--schemes onnx:int8,executorch:int8-full] [--seconds 3,10] [--json FILE]

tiny has trained weights, base and large are the anchors' architectures with seeded random weights: sizes and times only.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

# As a script this file would stand for the package that it measures and whose name it has.
sys.path[:] = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import torch
from rich.console import Console
from rich.table import Table

from device_runner.artifact import Artifact, describe_file, open_artifact
from device_runner.engines import Engine, OnnxEngine, open_engine
from device_runner.facts import machine_facts
from device_runner.files import write_json
from exporters.onnx_graph import export_plain_onnx
from exporters.schemes import find_scheme
from toolchain.exporting import export_model
from toolchain.models import AnchorModel, load_model
from toolchain.speech import bundled_speech
from toolchain.torch_engine import TorchEngine

MODELS = {"tiny": "DIGITS_ASR_TINY", "base": "WAV2VEC2_ASR_BASE_960H", "large": "HUBERT_ASR_LARGE"}
SCHEMES = (
    "onnx:fp32,onnx:fp16,onnx:int8,onnx:int8+conv8,onnx:int8-full,onnx:int8-full+conv8,onnx:int8-static,onnx:int4,onnx:int4+conv8,"
    "executorch:fp32,executorch:int8,executorch:int8-full,executorch:int4,executorch:int4+conv8"
)
WARM_UP = 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny,base", help="tiny, base, large; large takes long and 20 GB of memory")
    parser.add_argument("--schemes", default=SCHEMES, help="FORMAT:SCHEME with commas between")
    parser.add_argument("--seconds", default="3,10", help="lengths of audio")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    console, figures = Console(), []
    for name in options.models.split(","):
        model = load_model(MODELS[name], None if name == "tiny" else "random")
        rows = measure(model, options.schemes.split(","), [float(each) for each in options.seconds.split(",")], options, console)
        figures += rows
        console.print(draw(model, rows, options.threads))
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "threads": options.threads, "rows": figures})


def measure(model: AnchorModel, schemes: list[str], lengths: list[float], options: argparse.Namespace, console: Console) -> list[dict]:
    """Export every scheme of a model, then time all of them in interleaved rounds, torch fp32 and plain ONNX fp32 among them."""
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="asrdeploy-bench-") as folder:
        plain = Path(folder) / "plain"
        plain_bytes = export_plain(model, plain)
        for text in schemes:
            format_name, scheme = text.split(":")
            find_scheme(scheme, format_name)
            with console.status(f"exporting {model.case.name} {text}"):
                artifact, seconds = export_model(model, format_name=format_name, scheme_name=scheme, folder=Path(folder) / text)
            relative = max(each.relative for each in artifact.manifest.parity)
            rows.append({"model": model.case.name, "scheme": text, "export_s": seconds, "bytes": artifact.size_bytes, "relative": relative})
        sizes = {"torch fp32": 4 * model.case.anchor.num_param, "plain onnx fp32": plain_bytes}
        rows[:0] = [{"model": model.case.name, "scheme": name, "export_s": None, "bytes": size} for name, size in sizes.items()]
        engines = engines_of(model, plain, Path(folder), schemes, options.threads)
        for length in lengths:
            waveform = bundled_speech([length], model.case.sample_rate)[length]
            times: dict[str, list[float]] = {name: [] for name in engines}
            for round_number in range(options.rounds):
                for name, engine in engines.items():
                    for _ in range(WARM_UP if round_number == 0 else 1):
                        engine.logits(waveform)
                    started = time.perf_counter()
                    engine.logits(waveform)
                    times[name].append(time.perf_counter() - started)
            for row in rows:
                row[f"ms_{length:g}"] = 1000 * statistics.median(times[row["scheme"]])
        del engines
    for row in rows:
        row["size_to_fp32"] = row["bytes"] / rows[1]["bytes"]
        for length in lengths:
            for base, key in ((rows[0], "to_torch"), (rows[1], "to_onnx")):
                row[f"{key}_{length:g}"] = base[f"ms_{length:g}"] / row[f"ms_{length:g}"]
    return rows


def export_plain(model: AnchorModel, folder: Path) -> int:
    """Export TorchAudio's module as it is, without rewrites: the baseline of the ONNX formats. Return its bytes."""
    folder.mkdir()
    with torch.no_grad():
        export_plain_onnx(model.recogniser, model.case.sample_rate, folder / "model.onnx")
    return (folder / "model.onnx").stat().st_size


def engines_of(model: AnchorModel, plain: Path, folder: Path, schemes: list[str], threads: int) -> dict[str, Engine]:
    """Open each way to run the model."""
    some = open_artifact(folder / schemes[0])
    manifest = some.manifest.model_copy(update={"format": "onnx", "files": (describe_file(plain / "model.onnx"),)})
    engines: dict[str, Engine] = {
        "torch fp32": TorchEngine(model, threads),
        "plain onnx fp32": OnnxEngine(Artifact(plain, manifest), threads),
    }
    return engines | {text: open_engine(open_artifact(folder / text), threads) for text in schemes}


def draw(model: AnchorModel, rows: list[dict], threads: int) -> Table:
    """Draw the rows of a model."""
    weights = "trained weights" if model.trained else "random weights: sizes and times only"
    table = Table(title=f"{model.case.name}, {weights}, {threads} thread(s)", title_justify="left")
    lengths = [key.removeprefix("ms_") for key in rows[0] if key.startswith("ms_")]
    table.add_column("scheme", no_wrap=True)
    for head in ("export s", "MB", "to fp32", "error", *(f"{each} s: ms, x torch, x onnx" for each in lengths)):
        table.add_column(head, justify="right")
    for row in rows:
        times = [f"{row[f'ms_{each}']:.1f}  {row[f'to_torch_{each}']:.2f}  {row[f'to_onnx_{each}']:.2f}" for each in lengths]
        error = f"{row['relative']:.2%}" if "relative" in row else ""
        export = f"{row['export_s']:.0f}" if row["export_s"] else ""
        table.add_row(row["scheme"], export, f"{row['bytes'] / 1e6:.2f}", f"{row['size_to_fp32']:.4f}", error, *times)
    return table


if __name__ == "__main__":
    main()
