"""The command `asrdeploy doctor`: what this machine can do, and how what is missing is added."""

import sys
from typing import TYPE_CHECKING

from toolchain.cli.options import JsonOption, complain, console, write_figures

if TYPE_CHECKING:
    from rich.table import Table

    from toolchain.doctor.checks import Row

STYLES = {"ok": "green", "missing": "yellow", "note": "cyan"}


def doctor(json_file: JsonOption = None) -> None:
    """Show what this machine can do, and the command that adds what is missing. Example: asrdeploy doctor"""
    from rich.text import Text

    from toolchain.doctor.checks import examine

    with console.status("") as status:
        report = examine(say=status.update)
    console.print(_table(report.rows))
    commands: dict[str, list[str]] = {}
    for row in report.rows:
        if row.command is not None:
            commands.setdefault(row.command, []).append(row.name)
    if commands:
        console.print("What is missing, and what adds it:")
    for command, names in commands.items():
        console.print(Text(f"  {', '.join(names)}"))
        console.print(Text(f"    {command}"), soft_wrap=True)  # whole, however long it is: to be copied
    write_figures(json_file, report)
    for sentence in report.broken:
        complain(sentence)
    if report.broken:
        sys.exit(1)


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


COMMANDS = (doctor,)
