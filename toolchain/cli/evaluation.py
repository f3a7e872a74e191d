"""The commands of `asrdeploy` that run a recogniser, here or on a device: transcribe, evaluate, bench."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import file_name_of
from toolchain.cli.options import (
    AdbOption,
    AddressOption,
    ApkOption,
    DataOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    LimitOption,
    NormalizerOption,
    ProviderOption,
    ThreadsOption,
    ViaOption,
    WeightsOption,
    WorkersOption,
    check_workers,
    complain,
    console,
    open_chosen,
    open_workers,
    write_figures,
)

if TYPE_CHECKING:
    from device_runner.artifact import Artifact
    from device_runner.devices import Device
    from toolchain.accuracy.scoring import Evaluation
    from toolchain.data.datasets import DataSet

Made = TypeVar("Made")


def transcribe(
    transcriber: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help="An artifact's folder, or a model for the torch reference.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Recordings (FLAC, WAV; mono).")],
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    json_file: JsonOption = None,
) -> None:
    """Print what a recogniser hears. Example: asrdeploy transcribe DIGITS_ASR_TINY recording.wav"""
    from device_runner.audio import read_audio
    from toolchain.accuracy.transcriber import open_transcriber

    heard: Iterable[str]
    if device != "local":
        heard = _heard_on(_artifact_for(transcriber, device, weights), files, threads, open_chosen(device, via, adb, apk, complain))
    else:
        opened = open_transcriber(transcriber, weights=weights, threads=threads)
        heard = (_named(file, lambda path: opened.transcribe(read_audio(path, opened.sample_rate))) for file in files)
    texts = []
    for file, text in zip(files, heard, strict=True):
        typer.echo(f"{file}: {text}" if len(files) > 1 else text)
        texts.append({"file": file, "text": text})
    write_figures(json_file, texts)


def _heard_on(artifact: "Artifact", files: list[Path], threads: int, device: "Device") -> list[str]:
    from device_runner.audio import read_audio
    from device_runner.jobs import make_task

    rate = artifact.manifest.sample_rate
    # A number before the name: the same file may be given twice, and two folders may hold files of one name.
    recordings = [(f"{number} {file.name}"[:200], _named(file, lambda path: read_audio(path, rate))) for number, file in enumerate(files)]
    return [each.hypothesis for each in device.run(make_task(artifact, recordings, mode="accuracy", threads=threads)).transcripts]


def _named(file: Path, step: Callable[[Path], Made]) -> Made:
    """Do a step of a file; its complaint names the file."""
    try:
        return step(file)
    except AsrDeployError as error:
        raise AsrDeployError(str(error) if str(file) in str(error) else f"{file}: {error}") from error


def _artifact_for(transcriber: str, device: str, weights: str | None) -> "Artifact":
    from device_runner.artifact import open_artifact

    if weights is not None:
        raise AsrDeployError("--weights is for models in torch on this machine; a device runs an artifact: export it first.")
    if not Path(transcriber).exists():
        raise AsrDeployError(f"{transcriber} is no artifact's folder; {device} runs artifacts: make one with `asrdeploy export`.")
    return open_artifact(Path(transcriber))


def evaluate(
    transcriber: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help="An artifact's folder, or a model for the torch reference.")],
    data: DataOption = "digits",
    split: Annotated[str, typer.Option(help="For example test-clean or dev-clean.")] = "test-clean",
    limit: LimitOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of transcripts and result; default: results/NAME-DATA-SPLIT.")
    ] = None,
    weights: WeightsOption = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of every worker; default: 1, or what is measured at the start."),
    ] = None,
    worker_count: WorkersOption = None,
    normalizer: NormalizerOption = "none",
    torch_device: Annotated[str, typer.Option(help="What a model in torch runs on: cpu, cuda or cuda:NUMBER.")] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="A model in torch computes in half precision.")] = False,
    engine: EngineOption = "local",
    address: AddressOption = None,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    provider: ProviderOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Measure the word error rate on a set. Example: asrdeploy evaluate DIGITS_ASR_TINY --limit 20 -o results/fp32"""
    from toolchain.accuracy.evaluation import check_trained, earlier_threads, finished_on_device, use_cores
    from toolchain.accuracy.evaluation import evaluate as transcribe_and_score
    from toolchain.accuracy.progress import evaluation_progress
    from toolchain.accuracy.transcriber import describe, inexact, open_transcriber
    from toolchain.data.datasets import open_data
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports import tables

    if limit is not None and limit < 1:
        raise AsrDeployError(f"--limit {limit} leaves nothing to evaluate; give 1 or more.")
    check_normalizer(normalizer)  # a wrong name is answered before anything is heard
    if device == "local" and provider != "cpu":
        raise AsrDeployError("--provider chooses what a phone computes with; name the phone with --device.")
    if device != "local" and (engine != "local" or worker_count is not None or half or torch_device != "cpu"):
        raise AsrDeployError("--engine, --workers, --torch-device and --half are of this machine; leave them or --device out.")
    check_workers(engine, address, worker_count, 1 if threads is None else threads)
    if engine == "ray" and torch_device != "cpu":
        raise AsrDeployError("--engine ray runs on the nodes' CPUs; leave --torch-device out.")
    artifact = None if device == "local" else _artifact_for(transcriber, device, weights)
    if artifact is None:
        opened = open_transcriber(transcriber, weights=weights, threads=threads or 1, torch_device=torch_device, half=half)
    else:
        opened = describe(artifact)
    check_trained(opened)
    chosen = open_data(data, split)
    if limit is not None:
        chosen = chosen.limited(limit)
    ending = ("" if limit is None else f"-{limit}") + ("" if artifact is None else f"-{file_name_of(device)}")
    folder = output or Path("results") / f"{opened.configuration}-{chosen.name}-{split}{ending}"
    if artifact is not None:
        asked: dict[str, Any] = {"threads": threads or 1, "provider": provider, "via": via, "normalizer": normalizer}
        earlier = finished_on_device(artifact, chosen, folder, device, **asked)
        result = earlier or _evaluated_on(artifact, chosen, folder, open_chosen(device, via, adb, apk, complain), asked)
    else:
        begun = earlier_threads(opened, chosen, folder) if threads is None else threads
        opened = opened.with_threads(begun or 1)  # a run goes on with the threads that it began with, on whatever it goes on
        with open_workers(engine, address, worker_count, opened.threads) as workers:
            if engine == "local" and begun is None and worker_count is None and torch_device == "cpu":
                with console.status("measuring workers and threads"):
                    opened, workers, splits = use_cores(opened, chosen)
                for each in splits:
                    rate = f"{each.audio_seconds_per_second:.1f} s of audio in a second"
                    console.print(f"{each.workers} worker(s) of {each.threads} thread(s): {rate}", highlight=False)
            with evaluation_progress(chosen) as progress:
                result = transcribe_and_score(opened, chosen, folder, workers=workers, normalizer=normalizer, progress=progress)
    console.print(tables.evaluation(result))
    warning = opened.warning if artifact is None else inexact(artifact, exact=result.machine.get("int8_exact"))
    if warning:
        complain(warning)
    console.print(f"Transcripts and result are in {folder}.")
    write_figures(json_file, result)


def _evaluated_on(artifact: "Artifact", data: "DataSet", folder: Path, device: "Device", asked: dict[str, Any]) -> "Evaluation":
    from device_runner.latency import FUNCTION_ONLY
    from toolchain.accuracy.evaluation import evaluate_on_device
    from toolchain.accuracy.progress import evaluation_progress

    with evaluation_progress(data, timed=device.kind not in FUNCTION_ONLY) as progress:
        return evaluate_on_device(artifact, data, folder, device, **asked, progress=progress)


COMMANDS = (transcribe, evaluate)
