"""Commands of the scenario's compression: codecs, bitstreams, sweeps and reports; see ``cli`` for the rules."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli_options import BaseOption, DecoderOption, ModelOption, SeedOption, ThreadsOption, WeightsOption, complain, console

if TYPE_CHECKING:
    from toolchain.sweep import Sweep


def codecs() -> None:
    """List the codecs that `compress --codec` names, with their parameters. Example: asrdeploy codecs"""
    from toolchain import compression, tables

    theirs, broken = compression.third_party()
    console.print(tables.codecs(compression.CODECS | theirs))
    for name, reason in broken.items():
        complain(f"The codec {name} of another package cannot be used: {reason}.")


def compress(
    codec: Annotated[str, typer.Option(help="`asrdeploy codecs` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bitstream (.asrb).")],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the codec, NAME=VALUE; may be given again.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Data whose inputs the codec may know: `digits`, `librispeech`, or a folder; default: none.")
    ] = None,
    calibrate_split: Annotated[str, typer.Option(help="Its split; never a test split.")] = "dev-clean",
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    base: BaseOption = None,
) -> None:
    """Compress a model's weights to a bitstream. Example: asrdeploy compress --codec ectcq --set bits=2 --calibrate digits -o tiny.asrb"""
    from toolchain import tables
    from toolchain.compression import make_codec

    parameters = dict(_setting(each) for each in settings or [])
    # What can be wrong is found before weights are loaded or downloaded.
    make_codec(codec, **parameters)
    from toolchain.bitstreams import calibration_of
    from toolchain.bitstreams import compress as compress_model
    from toolchain.datasets import cache_folder
    from toolchain.exporting import calibration_speech
    from toolchain.models import load_model
    from toolchain.progress import share_progress

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


def decompress(
    bitstream: Annotated[Path, typer.Argument(help="A bitstream (.asrb).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The weights (.safetensors, float32).")],
    base: BaseOption = None,
    decoder: DecoderOption = None,
) -> None:
    """Reconstruct the weights of a bitstream. Example: asrdeploy decompress tiny.asrb -o tiny.safetensors"""
    from safetensors.torch import save_file

    from device_runner.bitstream import read_header
    from device_runner.files import atomic_path
    from toolchain.bitstreams import read_weights
    from toolchain.models import load_model

    if output.suffix != ".safetensors":
        raise AsrDeployError(f"-o {output}: weights are written as .safetensors.")
    header = read_header(bitstream)
    known = None if base is None else load_model(header.model, None if base == "own" else base)
    with console.status("decoding"):
        _, state = read_weights(bitstream, base=known, decoder=decoder)
    with atomic_path(output) as temporary:
        save_file(state, temporary)
    console.print(f"{len(state)} tensors are in {output}.")


CodecOption = Annotated[str, typer.Option(help="ectcq, uniform, palette or lowrank: its rate is searched.")]
ResultsOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the results; a stopped run goes on there.")]
FixedOption = Annotated[list[str] | None, typer.Option("--set", help="A fixed parameter of the codec, NAME=VALUE.")]
KnowOption = Annotated[bool, typer.Option("--calibrate", help="The codec may know the inputs of dev-clean.")]
SplitsOption = Annotated[str, typer.Option(help="`digits` (bundled), `librispeech`, or a folder with dev-clean and test-clean.")]
LimitOption = Annotated[int | None, typer.Option(help="Only the first N utterances of each split, to try out.")]


def sweep(
    codec: CodecOption,
    output: ResultsOption,
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: FixedOption = None,
    calibrate: KnowOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Search a codec's rates until five points lie in the range. Example: asrdeploy sweep --codec ectcq --calibrate -o results/ectcq"""
    from toolchain import tables
    from toolchain.report import incomplete

    with _sweep(codec, output, model, settings, calibrate, data, limit, weights, threads) as prepared:
        curve = prepared.run()
    console.print(tables.curve(curve))
    for sentence in incomplete(curve):
        complain(sentence)
    console.print(f"points.csv, points.json and curve.png are in {output}; `asrdeploy report` compares such folders.")


def smallest(
    codec: CodecOption,
    output: ResultsOption,
    wer_budget: Annotated[float, typer.Option(help="Points of word error rate above the anchor's, at the upper end of the interval.")],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: FixedOption = None,
    calibrate: KnowOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Find the smallest bitstream within a budget. Example: asrdeploy smallest --wer-budget 1.5 --codec ectcq -o results/small"""
    from toolchain import tables

    if not 0 <= wer_budget <= 100:
        raise AsrDeployError("--wer-budget takes 0 to 100 points.")
    with _sweep(codec, output, model, settings, calibrate, data, limit, weights, threads) as prepared:
        found = prepared.smallest(wer_budget / 100)
    console.print(tables.smallest(found))
    console.print(f"The bitstream is {found.folder / 'model.asrb'}.")


@contextmanager
def _sweep(
    codec: str,
    output: Path,
    model: str,
    settings: list[str] | None,
    calibrate: bool,
    data: str,
    limit: int | None,
    weights: str | None,
    threads: int,
) -> Iterator["Sweep"]:
    from toolchain.datasets import open_data
    from toolchain.models import load_model
    from toolchain.progress import ConfigurationBars
    from toolchain.sweep import BISECTIONS, FINALISTS, Sweep

    splits = [open_data(data, split) for split in ("dev-clean", "test-clean")]
    dev, test = [each if limit is None else each.limited(limit) for each in splits]
    fixed = dict(_setting(each) for each in settings or [])
    with ConfigurationBars(BISECTIONS + FINALISTS + 1) as watcher:
        yield Sweep(load_model(model, weights), codec, fixed, data if calibrate else None, dev, test, output, threads, watcher)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of sweeps and demos of one test case.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("results/report"),
) -> None:
    """Draw several curves and say which method sends fewer bits. Example: asrdeploy report results/ectcq results/uniform"""
    from dataclasses import asdict

    from device_runner.files import write_json
    from toolchain import tables
    from toolchain.plots import plot_curve
    from toolchain.points import write_curve
    from toolchain.report import incomplete, merged, read_curve, savings

    curve = merged([read_curve(folder) for folder in folders])
    found = savings(curve)
    write_curve(curve, output)
    write_json(output / "savings.json", [asdict(each) for each in found])
    for ending in ("png", "svg"):
        plot_curve(curve, output / f"curve.{ending}")
    console.print(tables.curve(curve))
    console.print(tables.savings(found))
    for sentence in incomplete(curve):
        complain(sentence)
    console.print(f"points.csv, points.json, savings.json, curve.png and curve.svg are in {output}.")


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (separator and name and value):
        raise AsrDeployError(f"--set takes NAME=VALUE, such as bits=3; not “{text}”.")
    return name, value


COMMANDS = (codecs, compress, decompress, sweep, smallest, report)
