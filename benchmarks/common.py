"""Functions and records shared by the benchmarks: timing in rounds, figures, tables and result files."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from device_runner.errors import AsrDeployError
from device_runner.files import write_json

REPOSITORY = Path(__file__).resolve().parent.parent
INTERRUPTED = 130
Better = Literal["less", "more"]
Way = TypeVar("Way", bound=Hashable)


class Record(BaseModel):
    """Base of immutable records without extra fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(Record):
    """A figure. ``ratio`` is the value divided by the baseline's value in the same run."""

    group: str  # rows of a group form a table: a model, a source of weights, a length of audio
    what: str
    measure: str
    value: float
    unit: str
    better: Better
    ratio: float | None = None
    spread: float | None = None  # of the ratio over the rounds: (largest - smallest) / median
    interval: tuple[float, float] | None = None  # 95 % confidence interval, in the unit of the value


class Figures(Record):
    """Figures of a benchmark."""

    benchmark: str
    baseline: str  # `what` of the rows whose ratio is 1
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def run(main: Callable[[], None]) -> None:
    """Run a program. Print an AsrDeployError as a message with exit code 2; an interruption has exit code 130."""
    try:
        main()
    except AsrDeployError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted. Finished results are kept.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def arguments_of(text: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark.

    Args:
        text: Description for the help.
        rounds: Default of ``--rounds``, or None for a benchmark without rounds.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="number of rounds; each round runs every variant once")
    return parser


def timed(function: Callable[[], object], warm_up: int = 0) -> Callable[[], float]:
    """Return a function that times a call.

    Args:
        function: Function to call.
        warm_up: Number of calls before the timed call.

    Returns:
        A function that returns the duration of the call in seconds.
    """

    def seconds() -> float:
        for _ in range(warm_up):
            function()
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return seconds


def in_turn(ways: Mapping[Way, Callable[[], float]], rounds: int, discarded: int = 0) -> dict[Way, list[float]]:
    """Time all variants in turn in every round, so that a drift of the machine's speed affects all of them.

    Args:
        ways: Functions that return seconds, by variant.
        rounds: Number of rounds.
        discarded: Number of earlier rounds to discard.

    Returns:
        The seconds of each round, by variant.
    """
    for _ in range(discarded):
        for way in ways.values():
            way()
    found: dict[Way, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def ratio_of(own: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the median over the rounds of own/base, and its spread: (largest - smallest) / median."""
    ratios = [one / other for one, other in zip(own, base, strict=True)]
    middle = statistics.median(ratios)
    return middle, (max(ratios) - min(ratios)) / middle


def timing_rows(
    group: str, measure: str, seconds: Mapping[str, Sequence[float]], baseline: str, *, unit: str = "ms", scale: float = 1000.0
) -> Iterator[Row]:
    """Yield a row for each variant: its median time and the ratio to the baseline.

    Args:
        group: Group of the rows.
        measure: Measure of the rows.
        seconds: Seconds of each round, by variant.
        baseline: Variant that is the baseline.
        unit: Unit of the values.
        scale: Factor from seconds to the unit.
    """
    for what, own in seconds.items():
        ratio, spread = ratio_of(own, seconds[baseline])
        value = scale * statistics.median(own)
        yield Row(group=group, what=what, measure=measure, value=value, unit=unit, better="less", ratio=ratio, spread=spread)


def report(figures: Figures, path: Path | None) -> None:
    """Print tables and notes, and write the figures to ``path`` unless it is None."""
    console = Console()
    for group in groups(figures):
        drawn = Table(title=group.name, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for number, head in enumerate(group.heads):
            drawn.add_column(head, justify="right" if number else "left", no_wrap=not number, overflow="fold")
        for line in group.lines:
            drawn.add_row(*line)
        console.print(drawn)
    console.print(f"x: ratio to {figures.baseline} in the same run, median over the rounds", highlight=False)
    for note in figures.notes:
        console.print(note, highlight=False)
    if path is not None:
        write_json(path, figures.model_dump(mode="json"))


class Group(Record):
    """Table of a group: a line per variant, with values and ratios of each measure."""

    name: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def groups(figures: Figures) -> list[Group]:
    """Return a table for each group of figures."""
    found = []
    for name in dict.fromkeys(row.group for row in figures.rows):
        rows = {(row.what, row.measure): row for row in figures.rows if row.group == name}
        measures = {row.measure: row.unit for row in rows.values()}
        compared = {row.measure for row in rows.values() if row.ratio is not None}
        heads = [
            name_of
            for each, unit in measures.items()
            for name_of in ((f"{each}, {unit}", "x") if each in compared else (f"{each}, {unit}",))
        ]
        lines = []
        for what in dict.fromkeys(what for what, _ in rows):
            cells = [what]
            for measure in measures:
                row = rows.get((what, measure))
                cells.append("" if row is None else _with_interval(row))
                if measure in compared:
                    cells.append("" if row is None or row.ratio is None else number(row.ratio))
            lines.append(tuple(cells))
        found.append(Group(name=name, heads=("", *heads), lines=tuple(lines)))
    return found


def _with_interval(row: Row) -> str:
    if row.interval is None:
        return number(row.value)
    return f"{number(row.value)} ({row.interval[0]:.1f}..{row.interval[1]:.1f})"


def number(value: float) -> str:
    """Format a figure with about three significant digits."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not size else f"{value:.2g}"
