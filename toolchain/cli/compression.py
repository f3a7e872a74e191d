"""Commands for compression: codecs, compress, decompress."""

import json
from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli.options import (
    CODING,
    OUTPUT,
    BaseOption,
    CalibrateSplitOption,
    CodeOption,
    DecoderOption,
    JsonOption,
    ModelOption,
    SeedOption,
    WeightsOption,
    complain,
    console,
    settings_of,
    write_figures,
)


def codecs(json_file: JsonOption = None) -> None:
    """List the codecs and their parameters. Example: asrdeploy codecs"""
    from toolchain import compression
    from toolchain.reports import tables

    plugins, broken = compression.codec_plugins()
    known = compression.CODECS | plugins
    console.print(tables.codecs(known))
    for name, reason in broken.items():
        complain(f"The codec plug-in {name} cannot be used: {reason}.")
    write_figures(json_file, {name: compression.defaults(made) for name, made in known.items()})


def compress(
    codec: Annotated[str, typer.Option(help="Codec. `asrdeploy codecs` lists them.", rich_help_panel=CODING)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bitstream to write (.asrb).", rich_help_panel=OUTPUT)],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Codec parameter, NAME=VALUE. Repeat for several.", rich_help_panel=CODING)
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="Calibration data: `digits`, `librispeech`, or a folder (default: no calibration).", rich_help_panel=CODING),
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

    parameters = settings_of(settings)
    make_codec(codec, **parameters)  # reports a wrong parameter before weights are loaded or downloaded
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
    with console.status(f"compressing {loaded.case.name} with {codec}"):
        header = compress_model(loaded, codec, parameters, output, calibration=calibration, base=known)
    console.print(tables.bitstream(header, output.stat().st_size, depth=0))
    console.print(f"The bitstream is in {output}.")
    size = output.stat().st_size
    write_figures(json_file, {"bytes": size, "c_size": 8 * size / loaded.case.anchor.size_bits, "header": header})


def decompress(
    bitstream: Annotated[Path, typer.Argument(help="Bitstream (.asrb).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Weights to write (.safetensors, float32).", rich_help_panel=OUTPUT)],
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
        raise AsrDeployError(f"-o {output}: weights are written as .safetensors. Use a name that ends in .safetensors.")
    header = read_header(bitstream)
    known = base_for(header, str(bitstream), base, None if model is None else load_model(model))
    with console.status("decoding"):
        _, state = read_weights(bitstream, base=known, decoder=decoder)
    with atomic_path(output) as temporary:
        save_file(state, temporary, {TUNED_ON: json.dumps(header.tuned_on)})
    console.print(f"{len(state)} tensors are in {output}.")
    write_figures(json_file, {"tensors": len(state), "weights": sum(each.numel() for each in state.values()), "header": header})


COMMANDS = (codecs, compress, decompress)
