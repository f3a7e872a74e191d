"""Generate the reference of the command line, docs/reference/commands.md, from the commands' own help.

Usage: `python scripts/commands_page.py` writes the page; a test checks that it is current.
"""

import sys
from pathlib import Path
from typing import Any

import typer

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from toolchain.cli.main import GROUPS, app

PAGE = REPOSITORY / "docs" / "reference" / "commands.md"
EXAMPLE = "Example: "  # precedes a command's example at the end of its help
INTRODUCTION = """# Command line

Look up what a command does, its options and their defaults. This page is generated from the commands:
`asrdeploy COMMAND --help` shows the same text.

Common to all commands:

- `--json FILE` also writes the result as JSON. With `--json -`, standard output has nothing but the JSON.
- A model is a test case (its number or name) or a [custom model](../custom-models.md): a Hugging Face folder, `FILE.toml`, or
  `package.module:factory`.
- Interrupted runs resume when you repeat the command.
- A path may begin with `~/` or `~user/`, in options such as `--output=~/results` and in TOML files.
- Names of files and models are printed as they are. A byte that is not UTF-8 is printed as an escape, for example `\\xe9`. In JSON it
  is `\\udce9`, from which Python's `os.fsencode` makes the byte again.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | `asrdeploy test`: a limit is exceeded; `asrdeploy doctor`: no command works |
| 2 | an error that you can fix; one sentence says how |
| 3 | the device failed |
| 130 | interrupted |
"""


def commands_page(application: typer.Typer) -> str:
    """Return the reference of a command line in Markdown: a table of the commands by group, then each with its options and example."""
    known: Any = typer.main.get_command(application)
    named = {each.callback.__name__: name for name, each in known.commands.items()}
    lines = [INTRODUCTION]
    for group, commands in GROUPS.items():
        names = [named[each.__name__] for each in commands]
        lines += [f"## {group}", "", "| command | |", "| --- | --- |"]
        lines += [f"| [{name}](#{name}) | {_cell(_summary(known.commands[name]))} |" for name in names]
        lines += [""]
        for name in names:
            lines += _command(name, known.commands[name])
    return "\n".join(lines).rstrip("\n") + "\n"


def _summary(command: Any) -> str:
    return _text(" ".join((command.help or "").split()))


def _command(name: str, command: Any) -> list[str]:
    example = " ".join((command.epilog or "").split()).removeprefix(EXAMPLE).strip(" `")
    shown = [each for each in command.params if not getattr(each, "hidden", False) and "--help" not in each.opts]
    arguments = [each for each in shown if not _is_option(each)]
    options = [each for each in shown if _is_option(each)]
    needed = [f"{each.opts[0]} {each.name.upper()}" for each in options if each.required]
    more = ["[OPTIONS]"] if len(options) > len(needed) else []
    usage = " ".join(["asrdeploy", name, *(_metavar(each) for each in arguments), *needed, *more])
    lines = [f"### {name}", "", _summary(command), "", f"`{usage}`", ""]
    if shown:
        lines += ["| | | default |", "| --- | --- | --- |"]
        lines += [_row(f"`{_cell(_metavar(each))}`", each) for each in arguments]
        lines += [_row(", ".join(f"`{option}`" for option in [*each.opts, *each.secondary_opts]), each) for each in options]
        lines += [""]
    if example:
        lines += [f"Example: `{example}`", ""]
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


if __name__ == "__main__":
    PAGE.write_text(commands_page(app), encoding="utf-8")
    print(f"{PAGE.relative_to(REPOSITORY)} is current.")
