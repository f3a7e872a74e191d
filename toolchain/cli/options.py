"""Options, the console and error output shared by the commands."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from device_runner.terminal import PlainConsole

if TYPE_CHECKING:
    from device_runner.devices import Device
    from toolchain.accuracy.workers import Workers

# Panels of a command's help: long commands group their options.
INPUT, CODING, RUNNING, DEVICES, OUTPUT = "Model and data", "Compression", "Running", "Devices", "Output"

console = PlainConsole()

STANDARD_OUTPUT = Path("-")
_output: TextIO | None = None  # standard output before it was redirected


def _figures_alone(file: Path | None) -> Path | None:
    """Send everything but the JSON to standard error if the JSON goes to standard output, prints of other libraries included."""
    global _output
    if file == STANDARD_OUTPUT and _output is None:
        _output, sys.stdout = sys.stdout, sys.stderr
    elif file is not None and file.is_file() and not _is_json(file):
        raise AsrDeployError(
            f"--json {shown(file)}: the file exists and is not JSON, so it stays. Give a new name, or - for standard output."
        )
    return file


def _is_json(file: Path) -> bool:
    """Return whether a file is empty or one JSON value, so that a result may replace it. Recordings and JSON lines may not be replaced."""
    try:
        content = file.read_bytes()
        return not content.strip() or json.loads(content) is not None
    except (OSError, ValueError, RecursionError):
        return False


def give_output_back() -> None:
    """Restore standard output."""
    global _output
    if _output is not None:
        _output, sys.stdout = None, _output


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_figures_alone,
        help="Also write the result as JSON to this file. `-` writes it to standard output and everything else to standard error.",
        rich_help_panel=OUTPUT,
    ),
]


def write_figures(file: Path | None, figures: Any) -> None:
    """Write a command's result as JSON if ``--json`` was given. NaN and infinity become null.

    Args:
        file: Value of ``--json``.
        figures: Pydantic models, dataclasses, and plain values of them.
    """
    if file is None:
        return
    from pydantic_core import to_jsonable_python

    from device_runner.files import json_of, write_text

    plain = to_jsonable_python(figures, inf_nan_mode="null", fallback=str)
    text = json_of(plain) + "\n"
    if file == STANDARD_OUTPUT:
        give_output_back()
        if not (sys.stdout.encoding or "").lower().startswith("utf"):
            text = json_of(plain, ascii_only=True) + "\n"
        typer.echo(text, nl=False)
    else:
        write_text(file, text)
        console.print(f"JSON written to {file}.")


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Return the shell completion for an option that takes one of these names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    from toolchain.models.test_cases import BUILT_IN

    return one_of(*BUILT_IN)(incomplete)


def schemes_like(incomplete: str) -> list[str]:
    """Return the schemes and variants that start with the typed text."""
    from exporters.schemes import SCHEMES, VARIANTS

    return one_of(*SCHEMES, *(f"{name}+{variant}" for name in SCHEMES for variant in VARIANTS))(incomplete)


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "--testcase",
        help="Test case, TorchAudio model, or a custom model: a Hugging Face folder, `ORGANISATION/NAME` on the Hub, `FILE.toml`, or "
        "`package.module:factory`. See docs/custom-models.md.",
        autocompletion=_models,
        rich_help_panel=INPUT,
    ),
]
CodeOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "--testcase",
        help="Custom model of the bitstream. Needed if a Python factory makes the model, or for `--base own`.",
        rich_help_panel=INPUT,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", help="`random`, or a .safetensors, .pt or .pth file (default: the model's trained weights).", rich_help_panel=INPUT
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed for `--weights random`.", rich_help_panel=INPUT)]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Weights that the receiver already has: a file, or `own` for the model's trained weights. The bitstream is an update of them.",
        rich_help_panel=CODING,
    ),
]
DecoderOption = Annotated[
    str | None,
    typer.Option(
        "--decoder", help="Decoder command for bitstreams of an external codec, with {input} and {output}.", rich_help_panel=CODING
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="`digits` (bundled), `librispeech`, or a table, manifest or folder of recordings. See docs/data.md.",
        rich_help_panel=INPUT,
    ),
]
SplitsOption = Annotated[
    str,
    typer.Option("--data", help="`digits` (bundled), `librispeech`, or a folder with dev-clean and test-clean.", rich_help_panel=INPUT),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Split, for example test-clean or dev (default: test-clean or test).", rich_help_panel=INPUT)
]
ChannelOption = Annotated[
    int | None,
    typer.Option(
        "--channel", help="Channel of recordings with several, counted from 1 (default: they are refused).", rich_help_panel=INPUT
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", help="Use only the first N utterances of each split, by id, for a quick test.", rich_help_panel=INPUT),
]
CalibrateSplitOption = Annotated[
    str, typer.Option("--calibrate-split", help="Split of the calibration data. Test splits are refused.", rich_help_panel=CODING)
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Number of runtime threads.", rich_help_panel=RUNNING)]
NormalizerOption = Annotated[
    str,
    typer.Option(
        "--normalizer",
        help="Text normaliser of a second score: `none` (the scenario's rule), `punctuation` or `whisper` (English).",
        autocompletion=one_of("none", "punctuation", "whisper"),
        rich_help_panel=INPUT,
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="CODE",
        help="Language of the references, for example `tr`: decides upper case and the main figure (default: from labels and script).",
        rich_help_panel=INPUT,
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave out recordings that cannot be transcribed. The result lists them.", rich_help_panel=INPUT),
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Delete the result of another input in the output folder.", rich_help_panel=OUTPUT),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Number of parallel workers (default: one per core).", rich_help_panel=RUNNING)
]
WindowOption = Annotated[
    float | None,
    typer.Option(
        "--window",
        metavar="SECONDS",
        help="Divide longer recordings into overlapping windows of this length. See docs/evaluation.md.",
        rich_help_panel=RUNNING,
    ),
]
OverlapOption = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        metavar="SECONDS",
        help="Overlap of the windows (default: 1, at most a quarter of the window).",
        rich_help_panel=RUNNING,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Where to run: `local`, or `ray` for a Ray cluster (requires the extra `ray`).",
        autocompletion=one_of("local", "ray"),
        rich_help_panel=RUNNING,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Address of the Ray cluster, HOST:PORT (default: RAY_ADDRESS, else a new cluster on this machine).",
        rich_help_panel=RUNNING,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Device: `local`, `qemu-arm64`, or the serial number of an adb device. `asrdeploy devices` lists them.",
        rich_help_panel=DEVICES,
    ),
]
ViaOption = Annotated[
    str | None,
    typer.Option(
        "--via",
        help="How to run on a phone: `app` or `shell` (default: the app if it is installed, else the shell).",
        autocompletion=one_of("app", "shell"),
        rich_help_panel=DEVICES,
    ),
]
AdbOption = Annotated[
    Path | None,
    typer.Option(
        "--adb", help="The adb program (default: the one on the PATH, else the one of the package adbutils).", rich_help_panel=DEVICES
    ),
]
ApkOption = Annotated[
    Path | None,
    typer.Option("--apk", help="APK to install if the device has no app or an older one.", rich_help_panel=DEVICES),
]
CoolDownOption = Annotated[
    float, typer.Option("--cool-down", min=0.0, help="Pause between latency jobs on a phone, in seconds.", rich_help_panel=DEVICES)
]
ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider",
        help="ONNX Runtime execution provider: `cpu`, `xnnpack` or `nnapi`.",
        autocompletion=one_of("cpu", "xnnpack", "nnapi"),
        rich_help_panel=DEVICES,
    ),
]


def complain(sentence: str) -> None:
    """Print one sentence to standard error."""
    PlainConsole(stderr=True).print(f"asrdeploy: {sentence}")


def check_via(via: str | None) -> None:
    """Raise AsrDeployError for an unknown way to run on a phone."""
    if via not in (None, "app", "shell"):
        raise AsrDeployError(f"--via {via} is unknown. Use app or shell.")


def check_workers(engine: str, address: str | None, worker_count: int | None, threads: int) -> None:
    """Raise AsrDeployError if the options for workers contradict each other."""
    from device_runner.engines import check_threads
    from device_runner.suggestions import nearest
    from toolchain.accuracy.workers import LocalWorkers

    check_threads(threads)
    if engine not in ("local", "ray"):
        raise nearest(engine, ("local", "ray"), "engine")
    if engine == "local" and address is not None:
        raise AsrDeployError("--address requires --engine ray.")
    if engine == "ray" and worker_count is not None:
        raise AsrDeployError("--workers applies to --engine local. A Ray cluster uses as many workers as it has CPUs.")
    if worker_count is not None:
        LocalWorkers(worker_count)  # refuses numbers below 1


@contextmanager
def open_workers(engine: str, address: str | None, worker_count: int | None, threads: int) -> "Iterator[Workers]":
    """Yield the workers that the options describe, each with an engine of ``threads`` threads; see ``toolchain.accuracy.workers``."""
    check_workers(engine, address, worker_count, threads)
    if engine == "ray":
        from toolchain.accuracy.ray_workers import open_cluster

        with open_cluster(address, threads) as workers:
            yield workers
        return
    from device_runner.facts import usable_cpus
    from toolchain.accuracy.workers import LocalWorkers

    yield LocalWorkers(max(1, usable_cpus() // threads) if worker_count is None else worker_count)


def open_chosen(
    name: str,
    via: str | None,
    adb: Path | None,
    apk: Path | None,
    say: "Callable[[str], None]" = lambda sentence: None,
    cool_down: float = 60.0,
) -> "Device":
    """Return the device that the options describe; see ``device_choice.open_device``."""
    from device_runner.device_choice import Choice, open_device
    from device_runner.phone.device import Patience

    check_via(via)
    return open_device(Choice(name, via, adb, apk, Patience(cool_down=cool_down)), say)  # type: ignore[arg-type]  # checked above


def settings_of(texts: list[str] | None) -> dict[str, str]:
    """Return the codec parameters of ``--set NAME=VALUE``.

    Raises:
        AsrDeployError: A text is not of this form.
    """
    found = {}
    for text in texts or []:
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise AsrDeployError(f"--set {text}: write NAME=VALUE, for example bits=3.")
        found[name] = value
    return found
