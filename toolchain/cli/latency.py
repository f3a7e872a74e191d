"""The command `asrdeploy bench`: latency of artifacts on a device."""

from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import file_name_of
from toolchain.cli.options import (
    OUTPUT,
    RUNNING,
    AdbOption,
    ApkOption,
    CoolDownOption,
    DeviceOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    ViaOption,
    complain,
    console,
    one_of,
    open_chosen,
    write_figures,
)


def bench(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT…", help="Folders of artifacts. Several are measured alternately.")],
    seconds: Annotated[str, typer.Option(help="Lengths of audio in seconds, separated by commas.", rich_help_panel=RUNNING)] = "2,5,10,15",
    threads: ThreadsOption = 1,
    protocol: Annotated[
        str,
        typer.Option(
            help="Measurement protocol: `standard`, `strict` (1024 runs, 60 s) or `quick` (for trials; never valid).",
            autocompletion=one_of("standard", "strict", "quick"),
            rich_help_panel=RUNNING,
        ),
    ] = "standard",
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Number of rounds, each with a fresh process for every artifact (default: the protocol's).", rich_help_panel=RUNNING
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Result file (JSON), or output folder for several artifacts (default: `results/bench-NAME.json`).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    provider: ProviderOption = "cpu",
    cool_down: CoolDownOption = 60.0,
    json_file: JsonOption = None,
) -> None:
    """Measure latency: cold load, first inference and steady state.

    Example: asrdeploy bench artifacts/DIGITS_ASR_TINY-onnx-int8 --seconds 2 --protocol quick
    """
    from device_runner import latency_views
    from device_runner.files import write_record
    from toolchain.accuracy.progress import share_progress
    from toolchain.scenario.latency import benchmark

    lengths = _lengths(seconds)
    files, plot = _result_files(artifacts, output, device)
    runs_on = open_chosen(device, via, adb, apk, complain, cool_down)
    with share_progress() as progress:
        results = benchmark(
            artifacts,
            lengths,
            protocol=protocol,
            rounds=rounds,
            device=runs_on,
            threads=threads,
            provider=provider,
            progress=progress,
        )
    for result, file in zip(results, files, strict=True):
        write_record(file, result)
        console.print(latency_views.summary_table(result))
        for reason in result.reasons:
            complain(f"Not a valid measurement: {reason}")
    latency_views.plot(results, plot)
    console.print(f"All samples are in {', '.join(map(str, files))}. The plot is {plot}.")
    write_figures(json_file, results)


def _result_files(artifacts: list[Path], output: Path | None, device: str) -> tuple[list[Path], Path]:
    """Return the result file of every artifact, and the file of the plot."""
    ending = "" if device == "local" else f"-{file_name_of(device)}"
    if len(artifacts) == 1:
        file = output or Path("results") / f"bench-{artifacts[0].resolve().name}{ending}.json"
        if file.suffix == ".png":
            raise AsrDeployError(f"-o {file}: the result is JSON, and the plot is written next to it. Use a name that ends in .json.")
        return [file], file.with_suffix(".png")
    names = [each.resolve().name for each in artifacts]
    if len(set(names)) < len(names):
        raise AsrDeployError("Two of these artifacts have the same folder name, so their results would too. Rename one folder.")
    folder = output or Path("results")
    if folder.is_file():
        raise AsrDeployError(f"-o {folder} is a file. The results of several artifacts need a folder.")
    return [folder / f"bench-{name}{ending}.json" for name in names], folder / f"bench{ending}.png"


def _lengths(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise AsrDeployError(f"--seconds {text}: write numbers separated by commas, for example 2,5,10.") from None


COMMANDS = (bench,)
