"""Commands that transcribe, on this machine or on a device: transcribe, evaluate."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import file_name_of
from toolchain.cli.options import (
    OUTPUT,
    RUNNING,
    AdbOption,
    AddressOption,
    ApkOption,
    ChannelOption,
    DataOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    LanguageOption,
    LimitOption,
    NormalizerOption,
    OverlapOption,
    ProviderOption,
    ReplaceOption,
    SkipBadOption,
    SplitOption,
    ThreadsOption,
    ViaOption,
    WeightsOption,
    WindowOption,
    WorkersOption,
    check_workers,
    complain,
    console,
    one_of,
    open_chosen,
    open_workers,
    write_figures,
)

if TYPE_CHECKING:
    from device_runner.artifact import Artifact
    from device_runner.devices import Device
    from toolchain.accuracy.scoring import Evaluation
    from toolchain.data.recordings import Checked

NameArgument = Annotated[
    str, typer.Argument(metavar="ARTIFACT|MODEL", help="Folder of an artifact, or a model to run in PyTorch as the reference.")
]


def transcribe(
    name: NameArgument,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER…", help="Audio files, folders of them, quoted patterns, or `-` for standard input (mono)."),
    ],
    channel: ChannelOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    window: WindowOption = None,
    overlap: OverlapOption = None,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="`text`, or with the times of words: `json` (one line per file), `srt`, `vtt` or `tsv`.",
            autocompletion=one_of("text", "json", "srt", "vtt", "tsv"),
            rich_help_panel=OUTPUT,
        ),
    ] = "text",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE|FOLDER",
            help="Output file, or for several recordings a folder (default: standard output).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite existing output files.", rich_help_panel=OUTPUT)] = False,
    json_file: JsonOption = None,
) -> None:
    """Transcribe audio files. Files that cannot be transcribed are named, and the exit code is 2.

    Example: asrdeploy transcribe DIGITS_ASR_TINY recording.wav --format srt -o recording.srt
    """
    from toolchain.accuracy.transcriber import open_transcriber
    from toolchain.cli.inputs import open_sources, several
    from toolchain.cli.transcription import Destination, Stopped, Transcription

    destination = Destination(format_name, output, several=several(files), replace=replace)
    _check_windows(device, window, overlap)
    if device != "local" and format_name != "text":
        raise AsrDeployError(f"--format {format_name} needs the times of words, and {device} returns text only. Use --format text.")
    transcription = None
    try:
        with open_sources(files) as sources:
            transcription = Transcription(sources, destination, channel)
            if device != "local":
                artifact = _artifact_for(name, device, weights)
                transcription.run_on(open_chosen(device, via, adb, apk, complain), artifact, threads)
            else:
                transcription.run_here(open_transcriber(name, weights=weights, threads=threads), window, overlap)
    except KeyboardInterrupt as ending:
        raise Stopped("Interrupted. Nothing was transcribed." if transcription is None else transcription.ended) from ending
    finally:  # also after Ctrl-C or when a device failed: what was transcribed is not lost
        if transcription is not None and transcription.begun:
            write_figures(json_file, transcription.figures())
    if transcription.failed:
        sys.exit(2)


def _check_windows(device: str, window: float | None, overlap: float | None) -> None:
    if device != "local" and (window is not None or overlap is not None):
        raise AsrDeployError(f"--window and --overlap apply to this machine, and {device} transcribes whole recordings. Leave them out.")
    if window is None and overlap is not None:
        raise AsrDeployError(f"--overlap {overlap:g} applies to windows. Add --window, or leave --overlap out.")


def _artifact_for(name: str, device: str, weights: str | None) -> "Artifact":
    from device_runner.artifact import open_artifact

    if weights is not None:
        raise AsrDeployError(f"--weights applies to PyTorch models on this machine, and {device} runs artifacts. Export the model first.")
    if not Path(name).exists():
        raise AsrDeployError(f"{name} is not an artifact, and {device} runs artifacts only. Make one with `asrdeploy export`.")
    return open_artifact(Path(name))


def evaluate(
    name: NameArgument,
    data: DataOption = "digits",
    split: SplitOption = None,
    channel: ChannelOption = None,
    limit: LimitOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output folder (default: `results/NAME-DATA-SPLIT`).", rich_help_panel=OUTPUT),
    ] = None,
    weights: WeightsOption = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of every worker (default: measured on large test sets, else 1).", rich_help_panel=RUNNING),
    ] = None,
    worker_count: WorkersOption = None,
    normalizer: NormalizerOption = "none",
    language: LanguageOption = None,
    skip_bad: SkipBadOption = False,
    replace: ReplaceOption = False,
    torch_device: Annotated[
        str, typer.Option(help="PyTorch device of a model: `cpu`, `cuda` or `cuda:N`.", rich_help_panel=RUNNING)
    ] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="Run a PyTorch model in half precision.", rich_help_panel=RUNNING)] = False,
    window: WindowOption = None,
    overlap: OverlapOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    provider: ProviderOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Measure word and character error rate on a test set. Example: asrdeploy evaluate DIGITS_ASR_TINY --limit 20 -o results/fp32"""
    from toolchain.accuracy.evaluation import (
        check_trained,
        checked_for,
        default_folder,
        earlier_threads,
        finished_on_device,
        run_settings,
        use_cores,
    )
    from toolchain.accuracy.evaluation import evaluate as run_evaluation
    from toolchain.accuracy.long_recordings import windowed_if_long
    from toolchain.accuracy.progress import checking_progress, evaluation_progress
    from toolchain.accuracy.transcriber import artifact_transcriber, open_transcriber
    from toolchain.data.casing import check_language
    from toolchain.data.datasets import open_data
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports import tables

    if limit is not None and limit < 1:
        raise AsrDeployError(f"--limit {limit} leaves nothing to evaluate. Use 1 or more.")
    check_normalizer(normalizer)  # before anything is transcribed
    check_language(language)
    if device == "local" and provider != "cpu":
        raise AsrDeployError(f"--provider {provider} applies to phones. Name the phone with --device.")
    if device != "local" and (engine != "local" or worker_count is not None or half or torch_device != "cpu"):
        raise AsrDeployError("--engine, --workers, --torch-device and --half apply to this machine. Leave them out, or leave --device out.")
    _check_windows(device, window, overlap)
    check_workers(engine, address, worker_count, 1 if threads is None else threads)
    if engine == "ray" and torch_device != "cpu":
        raise AsrDeployError("--engine ray runs on the CPUs of the nodes. Leave --torch-device out.")
    artifact = None if device == "local" else _artifact_for(name, device, weights)
    if artifact is None:
        transcriber = open_transcriber(name, weights=weights, threads=threads or 1, torch_device=torch_device, half=half)
        if window is not None:
            transcriber = windowed_if_long(transcriber, window, overlap)
    else:
        transcriber = artifact_transcriber(artifact)
    check_trained(transcriber)
    chosen = open_data(data, split, channel=channel)
    if limit is not None:
        chosen = chosen.limited(limit)
    with checking_progress(len(chosen.utterances)) as progressed:
        checked = checked_for(transcriber, chosen, skip_bad=skip_bad, checked=progressed)
    chosen = checked.data
    placed: dict[str, Any] = {} if artifact is None else {"threads": threads or 1, "device": device, "provider": provider, "via": via}
    folder = output
    if folder is None:
        ending = ("" if limit is None else f"-{limit}") + ("" if artifact is None else f"-{file_name_of(device)}")
        plain = Path("results") / f"{transcriber.configuration}-{chosen.name}-{chosen.split}{ending}"
        folder = default_folder(plain, run_settings(transcriber, chosen, language, **placed), checked)
    if artifact is not None:
        asked: dict[str, Any] = {"threads": threads or 1, "provider": provider, "via": via, "normalizer": normalizer, "language": language}
        earlier = finished_on_device(artifact, checked, folder, device, **asked)
        asked["replace"] = replace
        result = earlier or _evaluated_on(artifact, checked, folder, open_chosen(device, via, adb, apk, complain), asked)
    else:
        begun = earlier_threads(transcriber, chosen, folder, language) if threads is None else threads
        transcriber = transcriber.with_threads(begun or 1)  # a run resumes with the threads it began with
        with open_workers(engine, address, worker_count, transcriber.threads) as workers:
            if engine == "local" and begun is None and worker_count is None and torch_device == "cpu":
                with console.status("measuring workers and threads"):
                    transcriber, workers, splits = use_cores(transcriber, chosen)
                for each in splits:
                    rate = f"{each.audio_seconds_per_second:.1f} s of audio per second"
                    console.print(f"{each.workers} worker(s) of {each.threads} thread(s): {rate}", highlight=False)
            with evaluation_progress(chosen) as progress:
                result = run_evaluation(
                    transcriber,
                    checked,
                    folder,
                    workers=workers,
                    normalizer=normalizer,
                    language=language,
                    replace=replace,
                    progress=progress,
                )
    console.print(tables.evaluation(result))
    console.print(f"Transcripts and result are in {folder}.", markup=False, highlight=False, soft_wrap=True)
    write_figures(json_file, result)


def _evaluated_on(artifact: "Artifact", data: "Checked", folder: Path, device: "Device", asked: dict[str, Any]) -> "Evaluation":
    from device_runner.latency import FUNCTION_ONLY
    from toolchain.accuracy.evaluation import evaluate_on_device
    from toolchain.accuracy.progress import evaluation_progress

    with evaluation_progress(data.data, timed=device.kind not in FUNCTION_ONLY) as progress:
        return evaluate_on_device(artifact, data, folder, device, **asked, progress=progress)


COMMANDS = (transcribe, evaluate)
