"""Commands for devices: devices, parity, test."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import file_name_of
from toolchain.cli.options import (
    DEVICES,
    OUTPUT,
    AdbOption,
    ApkOption,
    CoolDownOption,
    DeviceOption,
    JsonOption,
    ReplaceOption,
    ThreadsOption,
    ViaOption,
    complain,
    console,
    open_chosen,
    write_figures,
)
from toolchain.cli.outputs import digests_of_paths, output_folder, record_inputs


def devices(
    adb: AdbOption = None,
    clean: Annotated[
        str | None, typer.Option(help="Remove everything that jobs left on this device: files, bundles, results.", rich_help_panel=DEVICES)
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """List the devices that can run jobs: this machine, qemu, phones and emulators. Example: asrdeploy devices"""
    from device_runner import device_choice
    from device_runner.phone.adb import find_adb
    from toolchain.reports import devices

    if clean is not None:
        if json_file is not None:
            raise AsrDeployError("--clean lists nothing, so it has no result. Leave --json out.")
        device_choice.clean(find_adb(adb), clean)
        console.print(f"Removed all files of earlier jobs from {clean}.")
        return
    missing = None
    try:
        client = find_adb(adb)
    except AsrDeployError as error:
        if adb is not None:
            raise
        client, missing = None, str(error)
    listed = device_choice.list_devices(client)
    console.print(devices.devices(listed))
    for each in listed:
        if each.remedy:
            complain(each.remedy)
    if missing is not None:
        complain(missing)
    write_figures(json_file, listed)


def parity(
    artifact: Annotated[Path, typer.Argument(help="Folder of an artifact.")],
    names: Annotated[
        str,
        typer.Option("--devices", help="Devices, separated by commas. The others are compared with the first.", rich_help_panel=DEVICES),
    ],
    threads: ThreadsOption = 1,
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare logits, transcripts and WER of several devices on fixed utterances.

    Example: asrdeploy parity artifacts/DIGITS_ASR_TINY-onnx-int8 --devices local,qemu-arm64
    """
    from device_runner.artifact import open_artifact
    from toolchain.accuracy.parity import parity as compare
    from toolchain.reports import devices

    opened = open_artifact(artifact)
    chosen = [each.strip() for each in names.split(",") if each.strip()]
    with console.status("") as status:
        found = compare(opened, [open_chosen(each, via, adb, apk, complain) for each in chosen], threads=threads, say=status.update)
    console.print(devices.parity(found))
    write_figures(json_file, found)


def test(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS.toml", help="Job file; see docs/ci.md.")],
    device: DeviceOption = "local",
    via: ViaOption = None,
    adb: AdbOption = None,
    apk: ApkOption = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.", rich_help_panel=OUTPUT)] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output folder (default: `results/test-NAME`).", rich_help_panel=OUTPUT)
    ] = None,
    replace: ReplaceOption = False,
    cool_down: CoolDownOption = 60.0,
    json_file: JsonOption = None,
) -> None:
    """Run test jobs and check their limits. The exit code is 1 if a limit is exceeded. Example: asrdeploy test jobs.toml"""
    from toolchain.reports import devices
    from toolchain.scenario.job_limits import read_job_file, run_test_job, write_junit

    described = read_job_file(jobs)
    source = digests_of_paths([jobs])
    folder = output_folder(output, Path("results") / f"test-{jobs.stem}", source, replace=replace)
    chosen = open_chosen(device, via, adb, apk, complain, cool_down)
    record_inputs(folder, source)
    outcomes, took = [], {}
    with console.status("") as status:
        for job in described.job:
            started = time.monotonic()
            place = folder / file_name_of(job.name)
            outcomes.append(run_test_job(job, chosen, place, say=status.update))
            took[job.name] = time.monotonic() - started
    console.print(devices.outcomes(outcomes, chosen.name))
    if junit is not None:
        write_junit(outcomes, chosen.name, took, junit)
    for outcome in outcomes:
        if outcome.problem is not None:
            complain(f"{outcome.job} could not run: {outcome.problem}")
    console.print(f"Results are in {folder}{'' if junit is None else f', the JUnit report is {junit}'}.")
    write_figures(json_file, outcomes)
    if any(each.device_failed for each in outcomes):
        sys.exit(3)
    if any(each.problem is not None for each in outcomes):
        sys.exit(2)
    if any(each.broken for each in outcomes):
        sys.exit(1)


COMMANDS = (devices, parity, test)
