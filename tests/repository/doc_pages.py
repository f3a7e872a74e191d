"""The pages of the documentation as the tests see them: fenced blocks with what stands before them, and inline code."""

import re
from dataclasses import dataclass

from tests.helpers import REPOSITORY

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\s*$")
# Directly before a block: why it is not run, or the name of the file that it is.
NOTE = re.compile(r"^<!-- (?P<what>not run|file): (?P<text>.+) -->$")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PAGES = tuple(
    sorted(
        str(path.relative_to(REPOSITORY))
        for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/*/README.md")
        for path in REPOSITORY.glob(pattern)
    )
)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, why it is not run (or None), the file that it is (or None)."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    file: str | None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


def read_page(page: str) -> str:
    """Return the text of a page."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    return blocks_of(page, read_page(page))


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the fenced blocks of a page's text in their order."""
    found: list[Block] = []
    lines = text.splitlines()
    notes: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if fence := FENCE.match(line):
            end = next(number for number in range(at + 1, len(lines)) if lines[number].strip() == "```")
            inside = "\n".join(each.removeprefix(fence["indent"]) for each in lines[at + 1 : end])
            found.append(Block(page, at + 1, fence["language"], inside + "\n", notes.get("not run"), notes.get("file")))
            notes, at = {}, end
        elif note := NOTE.match(line.strip()):
            notes[note["what"]] = note["text"]
        elif line.strip():
            notes = {}
        at += 1
    return found


def spans(page: str) -> list[str]:
    """Return the inline code of a page, also where it is wrapped; a pipe in a table's cell is a pipe."""
    lines, inside = [], False
    for line in read_page(page).splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    # Blank lines end a paragraph, and what is opened in one is not closed in the next.
    return [" ".join(each.split()).replace("\\|", "|") for part in "\n".join(lines).split("\n\n") for each in SPAN.findall(part)]
