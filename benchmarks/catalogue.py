"""Which benchmarks there are: what each measures, against what, and its arguments in the quick and the full setting."""

from dataclasses import dataclass
from typing import Literal, get_args

from device_runner.errors import AsrDeployError

Setting = Literal["quick", "full"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True)
class Benchmark:
    """One module of this folder.

    Args:
        name: of the module, the result's file and the plot.
        title: on the page.
        measures: a sentence.
        baseline: what the ratios are to.
        quick: arguments of a run of a minute or so.
        full: arguments of the figures to quote.
        plot: the measure that is drawn, and which of its groups (a part of the name); None: no plot.
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
        """Return what a person types."""
        return " ".join(["python", "-m", f"benchmarks.{self.name}", *self.arguments(setting)])


BENCHMARKS = (
    Benchmark(
        name="startup",
        title="Start of the command line",
        measures="Whole processes; half a second is aimed at for those that need no torch (all but codecs; devices asks adb).",
        baseline="`python -c pass`",
        quick=("--rounds", "5"),
        full=("--rounds", "15"),
        plot=("start to end", ""),
    ),
    Benchmark(
        name="latency",
        title="Latency loop",
        measures="What the loop by which `asrdeploy bench` times artifacts adds to the runtime's own call, and what a job costs around it.",
        baseline="`session.run` of onnxruntime on the same model and audio in the same process",
        full=("--rounds", "15"),
        plot=("fastest run", ""),
    ),
    Benchmark(
        name="codecs",
        title="Encode and decode",
        measures="Seconds to encode and decode a million weights, bits a weight, signal-to-noise ratio, its gap to Shannon's bound.",
        baseline="a cast to fp16",
        full=("--base", "--rounds", "5"),
        plot=("encode", "DIGITS"),
    ),
    Benchmark(
        name="evaluate",
        title="Accuracy runs",
        measures="Speed and memory of `asrdeploy evaluate` on all cores, from the loaded model to the word error rate.",
        baseline="the scenario's own script: torch in fp32, a data loader with batch 1, as many threads as torch takes",
        quick=("--models", "tiny", "--minutes", "5", "--rounds", "2"),
        plot=("speed", ""),
    ),
    Benchmark(
        name="exporters",
        title="Exports",
        measures="Seconds of an export, size (its ratio is the cSize), distance of the logits to torch's, and latency on one thread.",
        baseline="torch fp32; TorchAudio's module exported without our rewrites (plain onnx fp32) stands beside it",
        quick=("--models", "tiny", "--schemes", "onnx:fp32,onnx:int8,onnx:int8-full+conv8,onnx:int4+conv8"),
        plot=("3 s of audio", ""),
    ),
    Benchmark(
        name="updates",
        title="Updates after a fine-tuning",
        measures="Bytes of an update against the full bitstream, and the word error rates of both.",
        baseline="the fine-tuned model sent in full",
    ),
)


def find(names: list[str] | None) -> tuple[Benchmark, ...]:
    """Return the benchmarks of these names, all where there are none.

    Raises:
        AsrDeployError: there is no benchmark of a name.
    """
    known = {each.name: each for each in BENCHMARKS}
    for name in names or ():
        if name not in known:
            raise AsrDeployError(f"There is no benchmark “{name}”; there are: {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else BENCHMARKS
