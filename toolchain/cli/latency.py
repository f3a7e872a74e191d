"""The command `asrdeploy bench`: latency of artifacts on a device."""

from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import file_name_of
from toolchain.cli.options import (
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
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT…", help="Artifacts' folders; several are measured in turn.")],
    seconds: Annotated[str, typer.Option(help="Lengths of audio.")] = "2,5,10,15",
    threads: ThreadsOption = 1,
    protocol: Annotated[
        str,
        typer.Option(
            help="standard, strict (1024 runs, 60 s) or quick (to try out; never valid).",
            autocompletion=one_of("standard", "strict", "quick"),
        ),
    ] = "standard",
    rounds: Annotated[int | None, typer.Option(help="Rounds, each a fresh process for every artifact; default: the protocol's.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Result file (JSON), or of several artifacts their folder; default: results/bench-NAME.json."),
    ] = None,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    provider: ProviderOption = "cpu",
    cool_down: CoolDownOption = 60.0,
    json_file: JsonOption = None,
) -> None:
    """Measure latency: cold load, first inference, steady state.

    Example: asrdeploy bench artifacts/DIGITS_ASR_TINY-onnx-int8 --seconds 2 --protocol quick
    """
    from device_runner import latency, latency_views
    from device_runner.artifact import open_artifact
    from device_runner.files import write_record
    from device_runner.suggestions import nearest
    from toolchain.accuracy.progress import share_progress
    from toolchain.data.speech import bundled_speech

    presets = {each.name: each for each in (latency.STANDARD, latency.STRICT, latency.QUICK)}
    if protocol not in presets:
        raise nearest(protocol, presets, "protocol")
    if rounds is not None and rounds < 1:
        raise AsrDeployError(f"--rounds {rounds} measures nothing; give 1 or more.")
    conditions = presets[protocol] if rounds is None else presets[protocol].model_copy(update={"rounds": rounds})
    files, plot = _bench_files(artifacts, output, device)
    opened = [open_artifact(each) for each in artifacts]
    rates = {each.manifest.sample_rate for each in opened}
    if len(rates) > 1:
        raise AsrDeployError("These artifacts take audio of different sample rates; measure them one by one.")
    waveforms = bundled_speech(_lengths(seconds), rates.pop())
    runs_on = open_chosen(device, via, adb, apk, complain, cool_down)
    with share_progress() as progress:
        results = latency.measure(
            opened, waveforms, device=runs_on, threads=threads, provider=provider, conditions=conditions, progress=progress
        )
    for result, file in zip(results, files, strict=True):
        write_record(file, result)
        console.print(latency_views.summary_table(result))
        for reason in result.reasons:
            complain(f"Not valid as a measurement: {reason}")
    latency_views.plot(results, plot)
    console.print(f"All samples are in {', '.join(map(str, files))}, the plot in {plot}.")
    write_figures(json_file, results)


def _bench_files(artifacts: list[Path], output: Path | None, device: str) -> tuple[list[Path], Path]:
    """Return where the results of artifacts go, and the plot."""
    ending = "" if device == "local" else f"-{file_name_of(device)}"
    if len(artifacts) == 1:
        file = output or Path("results") / f"bench-{artifacts[0].resolve().name}{ending}.json"
        if file.suffix == ".png":
            raise AsrDeployError(f"-o {file} names the result, which is JSON; the plot is put beside it.")
        return [file], file.with_suffix(".png")
    names = [each.resolve().name for each in artifacts]
    if len(set(names)) < len(names):
        raise AsrDeployError("Two of these artifacts have the same name, and so would their results; give each folder a name of its own.")
    folder = output or Path("results")
    if folder.is_file():
        raise AsrDeployError(f"-o {folder} is a file; the results of several artifacts go into a folder.")
    return [folder / f"bench-{name}{ending}.json" for name in names], folder / f"bench{ending}.png"


def _lengths(text: str) -> list[float]:
    try:
        lengths = [float(part) for part in text.split(",")]
    except ValueError:
        raise AsrDeployError(f"--seconds takes numbers with commas between, such as 2,5,10; not “{text}”.") from None
    if not all(0 < length <= 60 for length in lengths):
        raise AsrDeployError("--seconds takes lengths above 0 and up to 60 seconds.")
    return lengths


COMMANDS = (bench,)
