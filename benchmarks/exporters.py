"""Measure exports by model, format and scheme: duration, file size, difference of the logits, and latency.

    python -m benchmarks.exporters [--models tiny,base,large] [--schemes onnx:int8,executorch:int8-full] [--seconds 3,10] [--json FILE]

The baseline is PyTorch in fp32 in the same run. tiny has trained weights; base and large are the anchors' architectures with seeded random
weights, for sizes and times only. The audio is real speech. "plain onnx fp32" is TorchAudio's module without rewrites. error is the largest
relative difference of the logits from PyTorch's, which is larger for random weights than for trained ones. The size of the baseline is that
of its parameters, so the ratio of a size is its cSize.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.common import Figures, Row, arguments_of, in_turn, report, run, timed, timing_rows
from device_runner.artifact import Artifact, describe_file, open_artifact
from device_runner.engines import Engine, OnnxEngine, open_engine
from exporters.onnx.graph import export_plain_onnx
from exporters.schemes import find_scheme
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.data.speech import bundled_speech
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model

MODELS = {"tiny": "DIGITS_ASR_TINY", "base": "WAV2VEC2_ASR_BASE_960H", "large": "HUBERT_ASR_LARGE"}
SCHEMES = (
    "onnx:fp32,onnx:fp16,onnx:int8,onnx:int8+conv8,onnx:int8-full,onnx:int8-full+conv8,onnx:int8-static,onnx:int4,onnx:int4+conv8,"
    "executorch:fp32,executorch:int8,executorch:int8-full,executorch:int4,executorch:int4+conv8"
)
BASELINE, PLAIN = "torch fp32", "plain onnx fp32"
BYTES_OF_A_PARAMETER = 4


def measure(model: AnchorModel, schemes: list[str], lengths: list[float], threads: int, rounds: int) -> Iterator[Row]:
    """Export a model with every scheme, time all exports in turn with PyTorch and plain ONNX, and yield the rows.

    Args:
        model: Model.
        schemes: Schemes, each ``FORMAT:SCHEME``.
        lengths: Lengths of audio in seconds.
        threads: Number of runtime threads.
        rounds: Number of rounds.
    """
    group = f"{model.case.name}, {'trained' if model.trained else 'random weights'}, {threads} thread(s)"
    with tempfile.TemporaryDirectory(prefix="asrdeploy-bench-") as name:
        folder = Path(name)
        plain = folder / "plain"
        sizes = {BASELINE: BYTES_OF_A_PARAMETER * model.case.anchor.num_param, PLAIN: export_plain(model, plain)}
        exported = []
        for text in schemes:
            format_name, scheme = text.split(":")
            find_scheme(scheme, format_name)
            with Console(stderr=True).status(f"exporting {model.case.name} {text}"):
                artifact, seconds = export_model(model, folder / text, format=format_name, quant=scheme)
            sizes[text] = artifact.size_bytes
            error = 100 * max(each.relative for each in artifact.manifest.parity)
            exported.append(Row(group=group, what=text, measure="export", value=seconds, unit="s", better="less"))
            exported.append(Row(group=group, what=text, measure="error", value=error, unit="%", better="less"))
        for what, size in sizes.items():
            yield Row(group=group, what=what, measure="size", value=size / 1e6, unit="MB", better="less", ratio=size / sizes[BASELINE])
        yield from exported
        engines = engines_of(model, plain, folder, schemes, threads)
        for length in lengths:
            waveform = bundled_speech([length], model.case.sample_rate)[length]
            ways = {what: timed(partial(engine.logits, waveform), warm_up=1) for what, engine in engines.items()}
            yield from timing_rows(group, f"{length:g} s of audio", in_turn(ways, rounds, discarded=1), BASELINE)


def export_plain(model: AnchorModel, folder: Path) -> int:
    """Export TorchAudio's module without rewrites and return the size of the file in bytes."""
    folder.mkdir()
    with torch.no_grad():
        export_plain_onnx(model.recogniser, model.case.sample_rate, folder / "model.onnx")
    return (folder / "model.onnx").stat().st_size


def engines_of(model: AnchorModel, plain: Path, folder: Path, schemes: list[str], threads: int) -> dict[str, Engine]:
    """Open an engine for each variant: PyTorch, plain ONNX and the exports."""
    some = open_artifact(folder / schemes[0])
    manifest = some.manifest.model_copy(update={"format": "onnx", "files": (describe_file(plain / "model.onnx"),)})
    engines: dict[str, Engine] = {
        BASELINE: TorchEngine(model, threads),
        PLAIN: OnnxEngine(Artifact(plain, manifest), threads),
    }
    return engines | {text: open_engine(open_artifact(folder / text), threads) for text in schemes}


def main() -> None:
    """Run the benchmark."""
    parser = arguments_of(__doc__, rounds=5)
    parser.add_argument(
        "--models", default="tiny,base", help="tiny, base, large, separated by commas; large is slow and requires 20 GB of memory"
    )
    parser.add_argument("--schemes", default=SCHEMES, help="FORMAT:SCHEME, separated by commas")
    parser.add_argument("--seconds", default="3,10", help="lengths of audio in seconds, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    lengths = [float(each) for each in options.seconds.split(",")]
    rows: list[Row] = []
    for name in options.models.split(","):
        model = load_model(MODELS[name], None if name == "tiny" else "random")
        rows += measure(model, options.schemes.split(","), lengths, options.threads, options.rounds)
    report(Figures(benchmark="exporters", baseline=BASELINE, rows=tuple(rows)), options.json)


if __name__ == "__main__":
    run(main)
