"""Figures of matplotlib in which names are drawn as they are, whatever characters they contain."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from device_runner.errors import AsrDeployError, printable
from device_runner.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from matplotlib.text import Text

VISIBLE = "\u2060"  # before a label that begins with _, which legends would leave out


def new_figure(path: Path, inches: tuple[float, float]) -> "Figure":
    """Return an empty figure for a file; ``save`` writes it.

    Raises:
        AsrDeployError: If matplotlib does not support the suffix of ``path``.
    """
    from matplotlib.figure import Figure  # pyplot would keep global state and open windows

    figure = Figure(figsize=inches, layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise AsrDeployError(f"Cannot write a plot to {path}. Use a suffix such as .png; supported are {', '.join(sorted(known))}.")
    return figure


def label(name: str) -> str:
    """Return a name as the label of a line."""
    return f"{VISIBLE}{name}" if name.startswith("_") else name


def save(figure: "Figure", path: Path, dpi: float) -> None:
    """Write a figure. Nothing in its titles, labels, legends and annotations is interpreted, such as ``$x_y$`` as mathematics.

    Characters that the font lacks are drawn with another installed font, or escaped if none has them.

    Args:
        figure: Figure to write.
        path: File; its suffix selects the format.
        dpi: Dots per inch.

    Raises:
        AsrDeployError: ``path`` cannot be written.
    """
    for each in _texts(figure):
        each.set_parse_math(False)
        lines = [printable(line) for line in each.get_text().replace(VISIBLE, "").split("\n")]
        families, lacking = _fonts_of("".join(sorted({character for character in "".join(lines) if not character.isascii()})))
        each.set_fontfamily([*each.get_fontfamily(), *families])
        each.set_text("\n".join("".join(_escaped(one) if one in lacking else one for one in line) for line in lines))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def _texts(figure: "Figure") -> "Iterator[Text]":
    """Yield all texts but the labels of ticks, which are powers of ten on logarithmic axes."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    of_ticks = {text for tick in figure.findobj(Tick) for text in tick.findobj(Text)}
    yield from (each for each in figure.findobj(Text) if each not in of_ticks and isinstance(each, Text) and each.get_text())


@cache
def _fonts_of(characters: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the families that draw the characters which the default font lacks, and the characters that no font has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    default = get_font(findfont(FontProperties()))
    lacking = {each for each in characters if not default.get_char_index(ord(each))}
    families = []
    for entry in fontManager.ttflist:
        if not lacking:
            break
        if entry.name.startswith("Last Resort"):  # has a box with a question mark for every character
            continue
        font = get_font(entry.fname)
        if found := {each for each in lacking if font.get_char_index(ord(each))}:
            families.append(entry.name)
            lacking -= found
    return tuple(families), frozenset(lacking)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
