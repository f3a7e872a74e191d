"""The page about custom models: its files are taken as they stand there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, Completed
from tests.toolchain.models.custom.hugging_face_folders import write_example
from toolchain.models.loading import load_model

PAGE = REPOSITORY / "docs" / "custom-models.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_example_folder_is_what_the_page_describes(tmp_path: Path) -> None:
    write_example(tmp_path)
    case = load_model(str(tmp_path / "my-model")).case
    assert case.name == "my-model" and case.labels[1:4] == ("|", "A", "B")
    by_name, table = blocks("toml")
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == by_name
    first = load_model(str(tmp_path / "mine.toml"))
    plain = "\n".join(line for line in by_name.splitlines() if not line.startswith("architecture"))
    (tmp_path / "mine.toml").write_text(f"{plain}\n{table}", encoding="utf-8")
    assert load_model(str(tmp_path / "mine.toml")).weights == first.weights


def sections() -> list[list[str]]:
    """Return the command lines of each section of the page that has any."""
    commands = []
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        section = re.sub(r"^<!-- not run: .*?^```\w+\n.*?^```", "", section, flags=re.MULTILINE | re.DOTALL)
        shells = re.findall(r"^```(sh|console)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        lines = [line for language, text in shells for line in command_lines(language, text)]
        commands.append([line for line in lines if line.startswith("asrdeploy ")])
    return [each for each in commands if each]


def command_lines(language: str, text: str) -> list[str]:
    if language == "console":
        return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return text.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("number", range(3))
def test_the_pages_commands_do_what_it_says(number: int, tmp_path: Path, asrdeploy: Callable[..., Completed]) -> None:
    write_example(tmp_path / "cwd")
    assert len(sections()) == 3
    commands = sections()[number]
    assert len(commands) >= 2
    for command in commands:
        done = asrdeploy(*command.split()[1:])
        assert done.returncode == 0, (command, done.stderr)
