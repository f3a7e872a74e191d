"""The command `asrdeploy bench`: latency of artifacts on a device."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import file_name_of, shown
from toolchain.cli.options import (
    OUTPUT,
    RUNNING,
    AdbOption,
    ApkOption,
    CoolDownOption,
    DeviceOption,
    JsonOption,
    ProviderOption,
    ReplaceOption,
    ThreadsOption,
    ViaOption,
    complain,
    console,
    one_of,
    open_chosen,
    write_figures,
)

if TYPE_CHECKING:
    from device_runner.artifact import Artifact

LONGEST_NAME = 150  # bytes of the artifacts' names in the name of a plot


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
    replace: ReplaceOption = False,
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
    bad: list[AsrDeployError] = []
    opened = _opened(artifacts, bad)
    files, plot = _result_files(opened, output, device, replace=replace)
    left_out: set[int] = set()

    def failed(number: int, error: AsrDeployError) -> None:
        left_out.add(number)
        bad.append(error)
        complain(f"{shown(opened[number].folder)} was left out: {error}")

    results = []
    if opened:
        runs_on = open_chosen(device, via, adb, apk, complain, cool_down)
        with share_progress() as progress:
            results = benchmark(
                opened,
                lengths,
                protocol=protocol,
                rounds=rounds,
                device=runs_on,
                threads=threads,
                provider=provider,
                failed=failed if len(opened) > 1 else None,
                progress=progress,
            )
    files = [file for number, file in enumerate(files) if number not in left_out]
    for result, file in zip(results, files, strict=True):
        write_record(file, result)
        console.print(latency_views.summary_table(result))
        for reason in result.reasons:
            complain(f"Not a valid measurement: {reason}")
    if results:
        latency_views.plot(results, plot)
        console.print(f"All samples are in {', '.join(map(str, files))}. The plot is {plot}.")
        write_figures(json_file, results)
    if bad:
        sys.exit(3 if any(isinstance(each, DeviceFailed) for each in bad) else 2)


def _opened(folders: list[Path], bad: list[AsrDeployError]) -> "list[Artifact]":
    """Open artifacts. One that cannot be opened is named, and the others are measured."""
    from device_runner.artifact import open_artifact

    opened = []
    for folder in folders:
        try:
            opened.append(open_artifact(folder))
        except AsrDeployError as error:
            if len(folders) == 1:
                raise
            bad.append(error)
            complain(str(error))
    return opened


def _result_files(artifacts: "list[Artifact]", output: Path | None, device: str, *, replace: bool) -> tuple[list[Path], Path]:
    """Return the result file of every artifact, and the file of the plot. No two artifacts share a file."""
    ending = "" if device == "local" else f"-{file_name_of(device)}"
    if len(artifacts) == 1 and output is not None:
        if output.suffix == ".png":
            raise AsrDeployError(f"-o {output}: the result is JSON, and the plot is written next to it. Use a name that ends in .json.")
        return [output], output.with_suffix(".png")
    folder = output or Path("results")
    if folder.is_file():
        raise AsrDeployError(f"-o {folder} is a file. The results of several artifacts need a folder.")
    files: list[Path] = []
    ours = {artifact.digest for artifact in artifacts}
    for artifact in artifacts:
        plain = folder / f"bench-{artifact.name}{ending}.json"
        other = plain.exists() and (holds := _artifact_in(plain)) != artifact.digest
        if other and output is not None and not replace and holds not in ours:
            raise AsrDeployError(
                f"{shown(plain)} holds the result of another artifact. Choose another folder with -o, or use --replace to overwrite it."
            )
        shared = plain in files or (other and (output is None or holds in ours))
        file = plain.with_name(f"{plain.stem}-{artifact.digest[:8]}.json") if shared else plain
        while file in files:  # the same artifact is given twice
            file = file.with_name(f"{file.stem}-again.json")
        files.append(file)
    if len(files) == 1:
        return files, files[0].with_suffix(".png")
    names = ",".join(file.stem.removeprefix("bench-").removesuffix(ending) for file in files)
    if len(names.encode(errors="replace")) > LONGEST_NAME:
        names = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]
    return files, folder / f"bench-{names}{ending}.png"


def _artifact_in(file: Path) -> str | None:
    """Return the sha256 of the artifact in a result file, of whatever version; None if it is not one."""
    try:
        return str(json.loads(file.read_bytes())["artifact"]["sha256"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _lengths(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise AsrDeployError(f"--seconds {text}: write numbers separated by commas, for example 2,5,10.") from None


COMMANDS = (bench,)
