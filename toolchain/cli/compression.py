"""Commands of the scenario's compression: codecs, bitstreams, sweeps and reports; see ``cli`` for the rules."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli.options import (
    AddressOption,
    BaseOption,
    CalibrateSplitOption,
    CodeOption,
    DecoderOption,
    EngineOption,
    JsonOption,
    LimitOption,
    ModelOption,
    SeedOption,
    ThreadsOption,
    WeightsOption,
    WorkersOption,
    complain,
    console,
    open_pool,
    write_figures,
)

if TYPE_CHECKING:
    from toolchain.accuracy.workers import Pool
    from toolchain.scenario.sweep import Sweep
    from toolchain.scenario.sweep_file import SweepFile


def codecs(json_file: JsonOption = None) -> None:
    """List the codecs that `compress --codec` names, with their parameters. Example: asrdeploy codecs"""
    from toolchain import compression
    from toolchain.reports import tables

    theirs, broken = compression.third_party()
    known = compression.CODECS | theirs
    console.print(tables.codecs(known))
    for name, reason in broken.items():
        complain(f"The codec {name} of another package cannot be used: {reason}.")
    write_figures(json_file, {name: compression.defaults(made) for name, made in known.items()})


def compress(
    codec: Annotated[str, typer.Option(help="`asrdeploy codecs` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bitstream (.asrb).")],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the codec, NAME=VALUE; may be given again.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Data whose inputs the codec may know: `digits`, `librispeech`, or a folder; default: none.")
    ] = None,
    calibrate_split: CalibrateSplitOption = "dev-clean",
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    base: BaseOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compress a model's weights to a bitstream. Example: asrdeploy compress --codec ectcq --set bits=2 --calibrate digits -o tiny.asrb"""
    from toolchain.compression import make_codec
    from toolchain.reports import tables

    parameters = dict(_setting(each) for each in settings or [])
    # What can be wrong is found before weights are loaded or downloaded.
    make_codec(codec, **parameters)
    from toolchain.accuracy.progress import share_progress
    from toolchain.compression.bitstreams import calibration_of
    from toolchain.compression.bitstreams import compress as compress_model
    from toolchain.data.datasets import cache_folder
    from toolchain.data.speech import calibration_speech
    from toolchain.models.loading import load_model

    if calibrate is not None:
        calibration_speech(calibrate, calibrate_split)
    loaded = load_model(model, weights, seed)
    known = None if base is None else load_model(model, None if base == "own" else base)
    calibration = None
    if calibrate is not None:
        with share_progress() as progress:
            calibration = calibration_of(loaded, calibrate, calibrate_split, cache=cache_folder(), progress=progress)
    with console.status(f"coding {loaded.case.name} by {codec}"):
        header = compress_model(loaded, codec, parameters, output, calibration=calibration, base=known)
    console.print(tables.bitstream(header, output.stat().st_size, depth=0))
    console.print(f"The bitstream is in {output}.")
    size = output.stat().st_size
    write_figures(json_file, {"bytes": size, "c_size": 8 * size / loaded.case.anchor.size_bits, "header": header})


def decompress(
    bitstream: Annotated[Path, typer.Argument(help="A bitstream (.asrb).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The weights (.safetensors, float32).")],
    base: BaseOption = None,
    decoder: DecoderOption = None,
    model: CodeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Reconstruct the weights of a bitstream. Example: asrdeploy decompress tiny.asrb -o tiny.safetensors"""
    from safetensors.torch import save_file

    from device_runner.bitstream.format import read_header
    from device_runner.files import atomic_path
    from toolchain.compression.bitstreams import base_for, read_weights
    from toolchain.models.loading import load_model
    from toolchain.models.weight_files import TUNED_ON

    if output.suffix != ".safetensors":
        raise AsrDeployError(f"-o {output}: weights are written as .safetensors.")
    header = read_header(bitstream)
    known = base_for(header, str(bitstream), base, None if model is None else load_model(model))
    with console.status("decoding"):
        _, state = read_weights(bitstream, base=known, decoder=decoder)
    with atomic_path(output) as temporary:
        save_file(state, temporary, {TUNED_ON: json.dumps(header.tuned_on)})
    console.print(f"{len(state)} tensors are in {output}.")
    write_figures(json_file, {"tensors": len(state), "weights": sum(each.numel() for each in state.values()), "header": header})


CodecOption = Annotated[str, typer.Option(help="ectcq, uniform, palette, lowrank or prune: its rate is searched.")]
CodecsOption = Annotated[
    list[str] | None, typer.Option("--codec", help="ectcq, uniform, palette, lowrank or prune: its rate is searched; may be given again.")
]
ResultsOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the results; a stopped run goes on there.")]
FixedOption = Annotated[list[str] | None, typer.Option("--set", help="A fixed parameter of the codec, NAME=VALUE.")]
CalibratedOption = Annotated[bool, typer.Option("--calibrated", help="The codec may know the inputs of dev-clean.")]
SplitsOption = Annotated[str, typer.Option(help="`digits` (bundled), `librispeech`, or a folder with dev-clean and test-clean.")]


def sweep(
    output: ResultsOption,
    codec: CodecsOption = None,
    model: ModelOption = "DIGITS_ASR_TINY",
    config: Annotated[Path | None, typer.Option(help="A TOML file of sweeps, instead of the other options; see docs/codecs.md.")] = None,
    settings: FixedOption = None,
    calibrated: CalibratedOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    json_file: JsonOption = None,
) -> None:
    """Search codecs' rates until five points lie in the range.

    Example: asrdeploy sweep --codec uniform --limit 20 -o results/uniform
    """
    from toolchain.reports import tables
    from toolchain.reports.savings import incomplete
    from toolchain.scenario.sweep import run_all
    from toolchain.scenario.sweep_file import read_sweep_file

    if (config is None) == (not codec):
        raise AsrDeployError("Give either --codec, once or several times, or --config with a file of sweeps.")
    if config is not None:
        described = read_sweep_file(config)
    else:
        described = _described(codec or [], settings, calibrated, testcase=model, weights=weights, data=data, limit=limit, threads=threads)
    with open_pool(engine, address, workers, described.threads) as pool, _sweeps(described, output, pool) as prepared:
        curve = run_all(prepared)
    console.print(tables.curve(curve))
    for sentence in incomplete(curve):
        complain(sentence)
    console.print(f"points.csv, points.json and curve.png are in {output}; `asrdeploy report` compares such folders.")
    write_figures(json_file, curve)


def smallest(
    codec: CodecOption,
    output: ResultsOption,
    wer_budget: Annotated[float, typer.Option(help="Points of word error rate above the anchor's, at the upper end of the interval.")],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: FixedOption = None,
    calibrated: CalibratedOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    json_file: JsonOption = None,
) -> None:
    """Find the smallest bitstream within a budget.

    Example: asrdeploy smallest --wer-budget 1.5 --codec uniform --limit 20 -o results/small
    """
    from toolchain.reports import tables

    if not 0 <= wer_budget <= 100:
        raise AsrDeployError("--wer-budget takes 0 to 100 points.")
    described = _described([codec], settings, calibrated, testcase=model, weights=weights, data=data, limit=limit, threads=threads)
    with open_pool(engine, address, workers, threads) as pool, _sweeps(described, output, pool) as (prepared,):
        found = prepared.smallest(wer_budget / 100)
    console.print(tables.smallest(found))
    console.print(f"The bitstream is {found.folder / 'model.asrb'}.")
    write_figures(json_file, found)


def _described(codecs: list[str], settings: list[str] | None, calibrated: bool, **more: object) -> "SweepFile":
    from toolchain.scenario.sweep_file import describe

    fixed = dict(_setting(each) for each in settings or [])
    return describe("The command line", more | {"method": [{"codec": each, "calibrate": calibrated, "set": fixed} for each in codecs]})


@contextmanager
def _sweeps(described: "SweepFile", output: Path, pool: "Pool") -> Iterator[list["Sweep"]]:
    """Yield the sweeps of a description, with their progress shown."""
    from toolchain.accuracy.progress import ConfigurationBars
    from toolchain.data.datasets import open_data
    from toolchain.models.loading import load_model
    from toolchain.scenario.sweep import BISECTIONS, FINALISTS, Sweep
    from toolchain.scenario.sweep_file import moved

    rates = [moved(method) for method in described.method]
    splits = [open_data(described.data, split) for split in ("dev-clean", "test-clean")]
    dev, test = [each if described.limit is None else each.limited(described.limit) for each in splits]
    anchor = load_model(str(described.testcase), described.weights)
    steps = sum(len(method.rates) or BISECTIONS + FINALISTS for method in described.method) + 1
    with ConfigurationBars(steps) as watcher:
        yield [
            Sweep(
                anchor=anchor,
                codec=method.codec,
                fixed=method.fixed,
                calibrate=described.data if method.calibrate else None,
                dev=dev,
                test=test,
                folder=output,
                threads=described.threads,
                watcher=watcher,
                values=method.rates,
                moved=rate,
                decoder=method.decoder,
                name=method.name or "",
                pool=pool,
            )
            for method, rate in zip(described.method, rates, strict=True)
        ]


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of sweeps and demos of one test case.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("results/report"),
    data: Annotated[
        str | None,
        typer.Option(help="Where the recordings are, for the page: `digits`, `librispeech`, or a folder; default: the curves' own."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Draw several curves and say which method sends fewer bits. Example: asrdeploy report results/uniform"""
    from toolchain.reports import tables
    from toolchain.reports.page import write_report
    from toolchain.reports.savings import incomplete, merged
    from toolchain.scenario.points import read_curve

    curve = merged([read_curve(folder) for folder in folders])
    with console.status("comparing"):
        written = write_report(curve, output, data)
    console.print(tables.curve(curve))
    console.print(tables.savings(written.savings))
    console.print(tables.distances(written.comparisons))
    for sentence in [*incomplete(curve), *written.missing]:
        complain(sentence)
    names = ", ".join(sorted(path.name for path in written.files))
    console.print(f"{names} are in {output}; report.html shows all of it.")
    write_figures(json_file, {"curve": curve, "savings": written.savings, "comparisons": written.comparisons})


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (separator and name and value):
        raise AsrDeployError(f"--set takes NAME=VALUE, such as bits=3; not “{text}”.")
    return name, value


COMMANDS = (codecs, compress, decompress, sweep, smallest, report)
