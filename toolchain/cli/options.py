"""What the commands of `asrdeploy` share: options, the console, how a complaint looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console

from device_runner.errors import AsrDeployError

if TYPE_CHECKING:
    from device_runner.devices import Device
    from toolchain.accuracy.workers import Pool

console = Console()

STANDARD_OUTPUT = Path("-")
_output: TextIO | None = None  # where standard output led before


def _figures_alone(file: Path | None) -> Path | None:
    """Where the figures go to standard output, all else goes to the error stream, also what others' code prints."""
    global _output
    if file == STANDARD_OUTPUT and _output is None:
        _output, sys.stdout = sys.stdout, sys.stderr
    return file


def give_output_back() -> None:
    """Undo what a command did to standard output."""
    global _output
    if _output is not None:
        _output, sys.stdout = None, _output


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=_figures_alone, help="File (JSON) for the figures too; -: standard output alone."),
]


def write_figures(file: Path | None, figures: Any) -> None:
    """Write what a command shows as JSON, where that was asked for; what is no number (NaN, infinity) becomes null.

    Args:
        file: of ``--json``.
        figures: models, dataclasses, and plain values of them.
    """
    if file is None:
        return
    from pydantic_core import to_json

    from device_runner.files import write_text

    text = to_json(figures, indent=2, inf_nan_mode="null", fallback=str).decode() + "\n"
    if file == STANDARD_OUTPUT:
        give_output_back()
        typer.echo(text, nl=False)
    else:
        write_text(file, text)
        console.print(f"The figures are in {file}.", highlight=False, markup=False, soft_wrap=True)


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Return the shell's completion of an option that takes one of these names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    from toolchain.models.test_cases import TEST_CASES

    return one_of(*(case.name for case in TEST_CASES))(incomplete)


def schemes_like(incomplete: str) -> list[str]:
    """Return the schemes, and their variants, that begin as what was typed."""
    from exporters.schemes import SCHEMES, VARIANTS

    return one_of(*SCHEMES, *(f"{name}+{variant}" for name in SCHEMES for variant in VARIANTS))(incomplete)


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "--testcase",
        help="Test case, or a model of your own: a Hugging Face folder, FILE.toml, or package.module:factory; see docs/custom-models.md.",
        autocompletion=_models,
    ),
]
CodeOption = Annotated[
    str | None,
    typer.Option("--model", "--testcase", help="Of an own model's bitstream: the model, where a factory makes it, or for --base."),
]
WeightsOption = Annotated[str | None, typer.Option("--weights", help="`random`, or a .safetensors/.pt file; default: the model's own.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of `--weights random`.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Weights that an update was made against (a file); `own`: the model's.")]
DecoderOption = Annotated[
    str | None, typer.Option("--decoder", help="Command of an external codec's decoder, with {input} and {output} in it.")
]
DataOption = Annotated[str, typer.Option("--data", help="`digits` (bundled), `librispeech`, or a folder in LibriSpeech's layout.")]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only the first N utterances of each split, to try out.")]
CalibrateSplitOption = Annotated[str, typer.Option("--calibrate-split", help="Its split; never a test split.")]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Threads of the runtime.")]
NormalizerOption = Annotated[
    str,
    typer.Option(
        "--normalizer",
        help="Of both sides before words are counted: none (the scenario's) or whisper (English).",
        autocompletion=one_of("none", "whisper"),
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Utterances that are heard at the same time; default: as many as the cores have room for.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine", help="Who transcribes: local, or ray, a cluster (needs the extra ray).", autocompletion=one_of("local", "ray")
    ),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Of the Ray cluster, HOST:PORT; default: RAY_ADDRESS, or one of this machine alone.")
]

DeviceOption = Annotated[
    str, typer.Option("--device", help="local, qemu-arm64, or the serial of an adb device; `asrdeploy devices` lists them.")
]
ViaOption = Annotated[
    str | None,
    typer.Option(
        "--via",
        help="The way onto a phone: app or shell; default: the app where it is installed, else the shell.",
        autocompletion=one_of("app", "shell"),
    ),
]
AdbOption = Annotated[Path | None, typer.Option("--adb", help="The adb program; default: the one on the PATH, or of the package adbutils.")]
ApkOption = Annotated[Path | None, typer.Option("--apk", help="The app's APK, installed where the device has none or an older one.")]
CoolDownOption = Annotated[float, typer.Option("--cool-down", min=0.0, help="Seconds between two latency jobs on a phone.")]
ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider", help="What ONNX Runtime computes with: cpu, xnnpack or nnapi.", autocompletion=one_of("cpu", "xnnpack", "nnapi")
    ),
]


def complain(sentence: str) -> None:
    """Print one sentence on the error stream."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"asrdeploy: {sentence}", markup=False)


def check_via(via: str | None) -> None:
    """Raise AsrDeployError for a way that there is not."""
    if via not in (None, "app", "shell"):
        raise AsrDeployError(f"--via {via} is no way onto a phone; give app or shell.")


def check_pool(engine: str, address: str | None, workers: int | None, threads: int) -> None:
    """Raise AsrDeployError where the options of a pool do not fit together."""
    from device_runner.engines import check_threads
    from device_runner.suggestions import nearest
    from toolchain.accuracy.workers import LocalPool

    check_threads(threads)
    if engine not in ("local", "ray"):
        raise nearest(engine, ("local", "ray"), "engine")
    if engine == "local" and address is not None:
        raise AsrDeployError("--address is of a Ray cluster; add --engine ray.")
    if engine == "ray" and workers is not None:
        raise AsrDeployError("--workers is of this machine; a Ray cluster has as many as it has CPUs for.")
    if workers is not None:
        LocalPool(workers)  # refuses what is no number of workers


@contextmanager
def open_pool(engine: str, address: str | None, workers: int | None, threads: int) -> "Iterator[Pool]":
    """Yield the workers that the options name, with an engine of so many threads each; see ``toolchain.accuracy.workers``."""
    check_pool(engine, address, workers, threads)
    if engine == "ray":
        from toolchain.accuracy.ray_workers import open_cluster

        with open_cluster(address, threads) as pool:
            yield pool
        return
    from device_runner.facts import usable_cpus
    from toolchain.accuracy.workers import LocalPool

    yield LocalPool(max(1, usable_cpus() // threads) if workers is None else workers)


def open_chosen(
    name: str,
    via: str | None,
    adb: Path | None,
    apk: Path | None,
    say: "Callable[[str], None]" = lambda sentence: None,
    cool_down: float = 60.0,
) -> "Device":
    """Return the device that the options name; see ``device_choice.open_device``."""
    from device_runner.device_choice import Choice, open_device
    from device_runner.phone.device import Patience

    check_via(via)
    return open_device(Choice(name, via, adb, apk, Patience(cool_down=cool_down)), say)  # type: ignore[arg-type]  # checked above
