"""Hook of MkDocs that generates the reference of the command line from the commands whenever the site is built."""

from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from toolchain.cli.main import app

PAGE = "reference/commands.md"
EXAMPLE = "Example: "  # precedes a command's example at the end of its help


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to the pages in docs/."""
    files.append(File.generated(config, PAGE, content=commands_page(app)))
    return files


def commands_page(application: typer.Typer) -> str:
    """Return the reference of a command line in Markdown: every command with its arguments, options and example."""
    group: Any = typer.main.get_command(application)
    head = [
        "# Command line",
        "",
        f"{group.help} This page is generated from the commands; `asrdeploy COMMAND --help` shows the same text.",
        "",
    ]
    return "\n".join(head + [line for name in sorted(group.commands) for line in _command(name, group.commands[name])])


def _command(name: str, command: Any) -> list[str]:
    summary = " ".join((command.help or "").split())
    example = " ".join((command.epilog or "").split()).removeprefix(EXAMPLE)
    shown = [each for each in command.params if not getattr(each, "hidden", False) and "--help" not in each.opts]
    arguments = [each for each in shown if not _is_option(each)]
    options = [each for each in shown if _is_option(each)]
    needed = [f"{each.opts[0]} {each.name.upper()}" for each in options if each.required]
    more = ["[OPTIONS]"] if len(options) > len(needed) else []
    usage = " ".join(["asrdeploy", name, *(_metavar(each) for each in arguments), *needed, *more])
    lines = [f"## {name}", "", _text(summary.strip()), "", "```text", usage, "```", ""]
    if shown:
        lines += ["| | | default |", "| --- | --- | --- |"]
        lines += [_row(f"`{_cell(_metavar(each))}`", each) for each in arguments]
        lines += [_row(", ".join(f"`{option}`" for option in [*each.opts, *each.secondary_opts]), each) for each in options]
        lines += [""]
    if example:
        lines += ["Example:", "", "```sh", example.strip(" `"), "```", ""]
    return lines


def _row(names: str, parameter: Any) -> str:
    required = parameter.required and _is_option(parameter)
    default = "required" if required else _default(parameter)
    again = " Repeat for several." if parameter.multiple and "Repeat" not in (parameter.help or "") else ""
    return f"| {names} | {_cell(_text((parameter.help or '') + again))} | {default} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or callable(value) or value in ((), [], "") or isinstance(value, bool):
        return ""
    return f"`{_cell(str(value))}`"


def _is_option(parameter: Any) -> bool:
    return any(each.startswith("-") for each in parameter.opts)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _text(words: str) -> str:
    """Escape angle brackets and asterisks, so that they are not read as markup."""
    return words.replace("<", "&lt;").replace("*", "\\*")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
