"""Catalogue of the benchmarks: what each measures, its baseline, and its arguments in the quick and full settings."""

from dataclasses import dataclass
from typing import Literal, get_args

from device_runner.errors import AsrDeployError

Setting = Literal["quick", "full"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, which is a module of this folder.

    Args:
        name: Name of the module, the result file and the plot.
        title: Title on the page.
        measures: Sentence that says what is measured.
        baseline: Baseline of the ratios.
        quick: Arguments of a run of about a minute.
        full: Arguments of the run whose figures may be quoted.
        plot: Measure to plot and a part of the names of its groups, or None for no plot.
    """

    name: str
    title: str
    measures: str
    baseline: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    plot: tuple[str, str] | None = None

    def arguments(self, setting: Setting) -> tuple[str, ...]:
        """Return the arguments of a setting."""
        return self.quick if setting == "quick" else self.full

    def command(self, setting: Setting) -> str:
        """Return the command line that runs this benchmark alone."""
        return " ".join(["python", "-m", f"benchmarks.{self.name}", *self.arguments(setting)])


BENCHMARKS = (
    Benchmark(
        name="startup",
        title="Start-up time of the command line",
        measures=(
            "Time from start to exit of a process. The target is half a second for commands that do not import PyTorch (all but `codecs`). "
            "`devices` also queries adb."
        ),
        baseline="`python -c pass`",
        quick=("--rounds", "5"),
        full=("--rounds", "15"),
        plot=("total time", ""),
    ),
    Benchmark(
        name="latency",
        title="Overhead of latency measurement",
        measures="Time that the timing loop of `asrdeploy bench`, and the job around it, add to a call of the runtime.",
        baseline="`session.run` of ONNX Runtime with the same model and audio in the same process",
        full=("--rounds", "15"),
        plot=("fastest run", ""),
    ),
    Benchmark(
        name="codecs",
        title="Encode and decode",
        measures=(
            "Seconds to encode and decode a million weights (s/M), bits per weight, signal-to-noise ratio (SNR), and the gap between the "
            "SNR and Shannon's bound."
        ),
        baseline="a cast to fp16",
        full=("--base", "--rounds", "5"),
        plot=("encode", "DIGITS"),
    ),
    Benchmark(
        name="evaluate",
        title="Accuracy runs",
        measures="Speed and memory of `asrdeploy evaluate` on all cores, from the loaded model to the WER.",
        baseline="the scenario's script: PyTorch in fp32, a data loader with batch size 1, PyTorch's default number of threads",
        quick=("--models", "tiny", "--minutes", "5", "--rounds", "2"),
        plot=("speed", ""),
    ),
    Benchmark(
        name="exporters",
        title="Exports",
        measures=(
            "Duration of an export, file size (its ratio is the cSize), difference of the logits from PyTorch's, and latency on one "
            "thread. The row `plain onnx fp32` is TorchAudio's module exported without our rewrites."
        ),
        baseline="PyTorch in fp32",
        quick=("--models", "tiny", "--schemes", "onnx:fp32,onnx:int8,onnx:int8-full+conv8,onnx:int4+conv8"),
        plot=("3 s of audio", ""),
    ),
    Benchmark(
        name="long_recordings",
        title="Long recordings",
        measures=(
            "WER and speed of [windows](evaluation.md#long-recordings) on joined speech, and speed and memory of `asrdeploy transcribe` on "
            "one long recording."
        ),
        baseline="the same speech as short recordings, one for each utterance",
        quick=("--rounds", "1", "--orders", "2", "--minutes", "10", "--windows", "10/1,30/4", "--artifacts", "onnx:fp32"),
        plot=("speed", ""),
    ),
    Benchmark(
        name="updates",
        title="Updates after a fine-tuning",
        measures="Size of an update and of the full bitstream, and the WER of both.",
        baseline="the full bitstream of the fine-tuned model",
    ),
)


def find(names: list[str] | None) -> tuple[Benchmark, ...]:
    """Return the benchmarks with these names, or all benchmarks without names.

    Raises:
        AsrDeployError: If a name is unknown.
    """
    known = {each.name: each for each in BENCHMARKS}
    for name in names or ():
        if name not in known:
            raise AsrDeployError(f"Unknown benchmark “{name}” in --only. Choose from {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else BENCHMARKS
