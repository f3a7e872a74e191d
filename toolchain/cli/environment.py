"""Commands for the environment: doctor and setup."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from toolchain.cli.options import JsonOption, complain, console, write_figures

if TYPE_CHECKING:
    from rich.table import Table

    from toolchain.doctor.checks import Row

STYLES = {"ok": "green", "missing": "yellow", "note": "cyan"}


def doctor(json_file: JsonOption = None) -> None:
    """Check what this machine can do, and print the command that installs what is missing. Example: asrdeploy doctor"""
    from toolchain.doctor.checks import examine

    with console.status("") as status:
        report = examine(say=status.update)
    console.print(_table(report.rows))
    commands: dict[str, list[str]] = {}
    for row in report.rows:
        if row.command is not None:
            commands.setdefault(row.command, []).append(row.name)
    if commands:
        console.print("To install what is missing:")
    for command, names in commands.items():
        console.print(f"  {', '.join(names)}")
        console.print(f"    {command}")
    write_figures(json_file, report)
    for sentence in report.broken:
        complain(sentence)
    if report.broken:
        sys.exit(1)


def setup(
    what: Annotated[str, typer.Argument(metavar="arm64", help="`arm64`: the bundle that runs in the shell of a phone and under qemu.")],
    json_file: JsonOption = None,
) -> None:
    """Build what devices need from Debian and PyPI packages. Example: asrdeploy setup arm64"""
    from device_runner.phone.arm_bundle import build_bundle, layers
    from device_runner.suggestions import nearest

    if what != "arm64":
        raise nearest(what, ["arm64"], "setup target")
    with console.status("") as status:
        bundle = build_bundle(progress=status.update)
    sizes = {str(layer): sum(path.stat().st_size for path in layer.rglob("*") if path.is_file()) for layer in layers(bundle)}
    for layer, size in sizes.items():
        console.print(f"{layer}: {size / 1e6:.0f} MB")
    console.print(f"The Arm bundle is {bundle}; `--device qemu-arm64` and `--via shell` use it.")
    write_figures(json_file, {"bundle": bundle, "layer_bytes": sizes})


def _table(rows: "tuple[Row, ...]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="This machine", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold", no_wrap=column != "found")
    for row in rows:
        needed = f" For {', '.join(row.needed_by)}." if row.needed_by and row.state != "ok" else ""
        table.add_row(Text(row.state, style=STYLES[row.state]), row.name, Text(f"{row.found}{'.' if needed else ''}{needed}"))
    return table


COMMANDS = (doctor, setup)
