"""Names in figures are drawn as they are."""

import warnings
from pathlib import Path

import matplotlib
import pytest

from device_runner import drawing

NAMES = {
    "$x_y$": "$x_y$",
    "$": "$",
    r"$\frac": r"$\frac",
    "_hidden": "_hidden",
    "a[b]:smile:": "a[b]:smile:",
    "caf\udce9": r"caf\xe9",
    "a\x1b[2Jb": r"a\x1b[2Jb",
    "\U0010ffff": r"\U0010ffff",  # no font has it
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # texts instead of outlines
    file = tmp_path / "plot.svg"
    figure = drawing.new_figure(file, (4, 3))
    axes = figure.subplots()
    axes.plot([1, 10], [1, 2], label=drawing.label(name))
    axes.set(title=f"{name}\nsecond line", ylabel=name, xscale="log")
    axes.annotate(name, (1, 1))
    figure.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing.save(figure, file, 100)
    assert file.read_text(encoding="utf-8").count(f">{NAMES[name]}</text>") == 4
    drawing.save(figure, tmp_path / "plot.png", 100)
