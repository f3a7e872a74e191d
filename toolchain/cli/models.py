"""Commands for models and export: testcases, schemes, export, inspect."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli.options import (
    CODING,
    INPUT,
    OUTPUT,
    BaseOption,
    CalibrateSplitOption,
    DecoderOption,
    JsonOption,
    ModelOption,
    ReplaceOption,
    SeedOption,
    WeightsOption,
    complain,
    console,
    one_of,
    schemes_like,
    write_figures,
)


def testcases(
    model: Annotated[
        str | None, typer.Option("--model", "--testcase", help="Load and check this model, and show its row only.", rich_help_panel=INPUT)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List the other CTC models of TorchAudio too, after the test cases.", rich_help_panel=INPUT)
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """List the test cases and their anchors. With --model, check a custom model. Example: asrdeploy testcases"""
    from toolchain.models.test_cases import BUNDLES, TEST_CASES, find_test_case, names_custom_model
    from toolchain.reports import tables

    if model is None:
        bundles = tuple(find_test_case(name) for name in BUNDLES) if every else ()
        console.print(tables.test_cases(TEST_CASES))
        if every:
            console.print(tables.bundles(bundles))
        else:
            console.print(f"{len(BUNDLES)} other models of TorchAudio: asrdeploy testcases --all")
        write_figures(json_file, (*TEST_CASES, *bundles))
        return
    if every:
        raise AsrDeployError("--all lists models, and --model shows one. Give one of the two.")
    if not names_custom_model(model):
        find_test_case(model)  # an unknown name is answered before torch is imported
    from toolchain.models.loading import load_model

    loaded = load_model(model)
    console.print(tables.test_cases([loaded.case]))
    console.print(tables.custom_labels(loaded.case, loaded.weights))
    write_figures(json_file, [loaded.case])


def schemes(json_file: JsonOption = None) -> None:
    """List the quantisation schemes for `export --quant`. Example: asrdeploy schemes"""
    from exporters.schemes import SCHEMES, VARIANTS, scheme_plugins
    from toolchain.reports import tables

    plugins, broken = scheme_plugins()
    console.print(tables.schemes([*SCHEMES.values(), *plugins.values()]))
    for name, (_, summary) in VARIANTS.items():
        console.print(f"NAME+{name}: {summary}")
    for name, reason in broken.items():
        complain(f"The scheme plug-in {name} cannot be used: {reason}.")
    write_figures(json_file, [*SCHEMES.values(), *plugins.values()])


def export(
    model: ModelOption = "DIGITS_ASR_TINY",
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="Artifact format: `onnx` or `executorch`.",
            autocompletion=one_of("onnx", "executorch"),
            rich_help_panel=OUTPUT,
        ),
    ] = "onnx",
    quant: Annotated[
        str,
        typer.Option(
            "--quant",
            help="Quantisation scheme. `asrdeploy schemes` lists them.",
            autocompletion=schemes_like,
            rich_help_panel=CODING,
        ),
    ] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the artifact (default: `artifacts/MODEL-FORMAT-QUANT`, with the layout if it is not asrdeploy).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    source: Annotated[Path | None, typer.Option("--from", help="Bitstream (.asrb) whose model is exported.", rich_help_panel=INPUT)] = None,
    base: BaseOption = None,
    decoder: DecoderOption = None,
    max_seconds: Annotated[
        float,
        typer.Option(
            help="Longest audio that the artifact accepts, in seconds. ExecuTorch reserves memory for it.", rich_help_panel=OUTPUT
        ),
    ] = 35.0,
    calibrate: Annotated[
        str,
        typer.Option(help="Calibration data for calibrated schemes: `digits`, `librispeech`, or a folder.", rich_help_panel=CODING),
    ] = "digits",
    calibrate_split: CalibrateSplitOption = "dev-clean",
    layout: Annotated[
        str,
        typer.Option(
            help="Files beside an ONNX model: `asrdeploy`, or those that another runtime loads: `onnx-asr`, `sherpa-onnx` or "
            "`transformers`. Separate several with commas.",
            autocompletion=one_of("asrdeploy", "onnx-asr", "sherpa-onnx", "transformers"),
            rich_help_panel=OUTPUT,
        ),
    ] = "asrdeploy",
    replace_other: ReplaceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Export a model to an artifact and compare it with PyTorch. Example: asrdeploy export --quant int8"""
    from exporters.export import check_choice
    from exporters.layouts import find_layout
    from toolchain.reports import tables

    scheme = check_choice(format_name, quant)  # before weights are loaded or downloaded
    find_layout(layout, format_name)
    from toolchain.data.speech import calibration_speech
    from toolchain.models.loading import load_model
    from toolchain.scenario.exporting import default_folder, export_model

    speech = calibration_speech(calibrate, calibrate_split) if scheme.calibrated else None
    if source is None:
        loaded = load_model(model, weights, seed)
    else:
        from device_runner.bitstream.format import read_header
        from toolchain.compression.bitstreams import base_for, decompress
        from toolchain.models.test_cases import names_custom_model

        custom = load_model(model) if names_custom_model(model) else None
        known = base_for(read_header(source), str(source), base, custom)
        loaded = decompress(source, base=known, decoder=decoder, model=custom)
    name = loaded.case.name if source is None else source.stem
    folder = output or default_folder(loaded, name, format_name, quant, layout)
    with console.status("") as status:
        artifact, seconds = export_model(
            loaded,
            folder,
            format=format_name,
            quant=quant,
            max_seconds=max_seconds,
            calibration=None if speech is None else replace(speech, sample_rate=loaded.case.sample_rate),
            layout=layout,
            replace=replace_other,
            progress=status.update,
        )
    console.print(tables.artifact(artifact, loaded.case, seconds))
    console.print(f"The artifact is in {folder}.")
    figures = {"folder": folder, "bytes": artifact.size_bytes, "c_size": 8 * artifact.size_bytes / loaded.case.anchor.size_bits}
    write_figures(json_file, figures | {"seconds": seconds, "manifest": artifact.manifest})


def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT|BITSTREAM", help="Folder of an artifact, or a bitstream (.asrb).")],
    depth: Annotated[int, typer.Option(help="Depth of the module tree.", rich_help_panel=OUTPUT)] = 3,
    json_file: JsonOption = None,
) -> None:
    """Show what an artifact or a bitstream contains. Example: asrdeploy inspect artifacts/DIGITS_ASR_TINY-onnx-int8"""
    from toolchain.reports import tables

    if artifact.is_file():
        from device_runner.bitstream.format import check_bitstream

        header = check_bitstream(artifact)
        console.print(tables.bitstream(header, artifact.stat().st_size, depth))
        write_figures(json_file, {"bytes": artifact.stat().st_size, "header": header})
        return
    from exporters.inspection import inspect_artifact

    found = inspect_artifact(artifact)
    for table in tables.inspection(found, depth):
        console.print(table)
    write_figures(json_file, found.figures(depth))


COMMANDS = (testcases, schemes, export, inspect)
