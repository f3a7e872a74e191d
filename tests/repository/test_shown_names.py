"""Every place that shows texts with rich or matplotlib does so through the modules that interpret nothing in names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

PACKAGES = ("asrdeploy", "device_runner", "exporters", "toolchain")
TERMINAL, DRAWING = Path("device_runner/terminal.py"), Path("device_runner/drawing.py")
# Of rich, what interprets markup by itself; a Table or a Padding leaves that to the console.
INTERPRETING = {"Console", "Status", "TextColumn", "Prompt", "Confirm", "Panel", "Markdown", "Rule", "Tree", "Columns", "print", "inspect"}
SOURCES = sorted(path.relative_to(REPOSITORY) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def offences(source: str) -> Iterator[str]:
    """Yield what interprets names in a module: imports of rich, calls that read markup, figures written past ``drawing``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name == "rich" or each.name.startswith(("rich.", "matplotlib.pyplot")))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            yield from (each.name for each in node.names if each.name in INTERPRETING or node.module in ("rich.markup", "rich.emoji"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func.attr
            if called in ("from_markup", "render_markup", "savefig") or any(
                each.arg in ("markup", "emoji") and not _is_false(each.value) for each in node.keywords
            ):
                yield called


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_module_shows_names_by_itself(path: Path) -> None:
    if path not in (TERMINAL, DRAWING):
        assert not list(offences((REPOSITORY / path).read_text(encoding="utf-8"))), "use device_runner.terminal or device_runner.drawing"


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "from rich import print",
        "import rich.console",
        "from rich.progress import BarColumn, TextColumn",
        "text = Text.from_markup(name)",
        "console.print(name, markup=True)",
        "figure.savefig(path)",
    ],
)
def test_what_would_interpret_names_is_found(source: str) -> None:
    assert list(offences(source))
