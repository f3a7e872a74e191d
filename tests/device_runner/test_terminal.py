"""The console interprets nothing in names, breaks no sentence, cuts no name, and outlives its reader."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from device_runner.terminal import PlainConsole, check_current_folder, escape_output, plain_column
from tests.helpers import REPOSITORY

NAME = "a[b]/[/red]:smile:$x_y$ [bold]c[/bold] http://x"


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> PlainConsole:
    monkeypatch.setenv("COLUMNS", "80")
    return PlainConsole()


def test_names_are_printed_as_they_are(console: PlainConsole, capsys: pytest.CaptureFixture[str]) -> None:
    console.print(NAME)
    table = Table(NAME, title=NAME, caption=NAME)
    table.add_row(NAME)
    console.print(table)
    assert capsys.readouterr().out.count(NAME) == 5


def test_names_in_progress_displays_are_shown_as_they_are() -> None:
    shown = io.StringIO()
    console = PlainConsole()
    console.file, console._force_terminal = shown, True
    with console.status(f"1 {NAME}") as status:
        assert str(status.renderable.text) == f"1 {NAME}"
        status.update(f"2 {NAME}")
        assert str(status.renderable.text) == f"2 {NAME}"
    with Progress(plain_column("{task.description}"), console=console) as bars:
        bars.add_task(f"3 {NAME}", total=1)
    assert f"3 {NAME}" in shown.getvalue()


def test_a_long_path_stays_on_its_line_and_is_not_cut_in_a_table(console: PlainConsole, capsys: pytest.CaptureFixture[str]) -> None:
    path = "folder of results/" * 20
    console.print(f"The result is in {path}.")
    assert capsys.readouterr().out == f"The result is in {path}.\n"
    table = Table("name", "value")
    table.add_row("x" * 200, "y" * 200)
    console.print(table)
    shown = capsys.readouterr().out
    assert shown.count("x") == shown.count("y") == 200 and max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [("utf-8", "caf\udce9 é", b"caf\\xe9 \xc3\xa9"), ("ascii", "caf\udce9 é 模", rb"caf\xe9 \xe9 \u6a21")],
)
def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, written: bytes) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    escape_output()
    PlainConsole().print(text)
    sys.stdout.flush()
    assert content.getvalue() == written + b"\n"


def test_the_console_goes_on_after_its_reader_has_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from device_runner.terminal import PlainConsole, flush_output\n"
        "sys.stdin.read(); PlainConsole().print('x' * 100000); flush_output(); open(sys.argv[1], 'w').write('finished')"
    )
    reading, writing = os.pipe()
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    running = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    assert running.communicate(timeout=60)[1] == b"" and running.returncode == 0
    assert (tmp_path / "file").read_text() == "finished"


def test_a_deleted_current_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(Exception, match="The current folder was deleted"):
        check_current_folder()
