"""Comparison of new results with stored results, row by row."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.catalogue import Setting
from benchmarks.common import Better, Record, Row
from benchmarks.results import Machine, Stored, read_folder
from device_runner.errors import AsrDeployError
from device_runner.files import write_json

SMALLEST = 0.05  # smaller changes are never reported


class Change(Record):
    """Change of a row between the stored and the new result."""

    benchmark: str
    group: str
    what: str
    measure: str
    better: Better
    stored_ratio: float | None
    new_ratio: float | None
    ratio_change: float | None  # new / stored; comparable across machines
    value_change: float | None  # new / stored; None if the machines differ
    spread: float  # larger spread of both

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if the ratio changed by more than its spread over the rounds, otherwise an empty string."""
        change = self.ratio_change
        if change is None or abs(math.log(change)) <= math.log1p(max(self.spread, SMALLEST)):
            return ""
        return "better" if (change < 1) == (self.better == "less") else "worse"


class Comparison(Record):
    """Comparison of the results of a setting."""

    setting: Setting
    machines: dict[str, tuple[str, ...]]  # benchmark -> facts that differ
    changes: tuple[Change, ...]
    missing: tuple[str, ...]  # sentences


def compare(against: Path, new: Path, setting: Setting, only: Sequence[str] | None = None) -> Comparison:
    """Compare the results in two folders.

    Args:
        against: Folder of the stored results.
        new: Folder of the new results.
        setting: Setting of the results.
        only: Names of the benchmarks to compare, or None for all.

    Raises:
        AsrDeployError: If a file is not a result, or a folder contains no results of the setting.
    """
    old, made = (_results(folder, setting, only) for folder in (against, new))
    missing = [f"{name} has no new result." for name in old if name not in made]
    missing += [f"{name} has no stored result." for name in made if name not in old]
    machines, changes = {}, []
    for name in (each for each in old if each in made):
        machines[name] = differing(old[name].machine, made[name].machine)
        rows, new_rows = (_by_place(each) for each in (old[name], made[name]))
        missing += [f"{name}: {_spelt(place)} is only in the stored result." for place in rows if place not in new_rows]
        missing += [f"{name}: {_spelt(place)} is only in the new result." for place in new_rows if place not in rows]
        changes += [_change(name, row, new_rows[place], same=not machines[name]) for place, row in rows.items() if place in new_rows]
    return Comparison(setting=setting, machines=machines, changes=tuple(changes), missing=tuple(missing))


def _results(folder: Path, setting: Setting, only: Sequence[str] | None) -> dict[str, Stored]:
    found = {name: stored for name, stored in read_folder(folder, setting).items() if not only or name in only}
    if not found:
        raise AsrDeployError(
            f"{folder} contains no results of the {setting} setting. Run `python -m benchmarks run --setting {setting} --results {folder}`."
        )
    return found


def _by_place(stored: Stored) -> dict[tuple[str, str, str], Row]:
    return {(row.group, row.what, row.measure): row for row in stored.figures.rows}


def _spelt(place: tuple[str, str, str]) -> str:
    return "“" + ", ".join(place) + "”"


def differing(one: Machine, other: Machine) -> tuple[str, ...]:
    """Return the names of the facts in which two machines differ."""
    return tuple(name for name in Machine.model_fields if getattr(one, name) != getattr(other, name))


def _change(benchmark: str, old: Row, new: Row, *, same: bool) -> Change:
    return Change(
        benchmark=benchmark,
        group=old.group,
        what=old.what,
        measure=old.measure,
        better=old.better,
        stored_ratio=old.ratio,
        new_ratio=new.ratio,
        ratio_change=_quotient(new.ratio, old.ratio),
        value_change=_quotient(new.value, old.value) if same else None,
        spread=max(old.spread or 0.0, new.spread or 0.0),
    )


def _quotient(new: float | None, old: float | None) -> float | None:
    return new / old if new and old and new / old > 0 else None


def show(found: Comparison, console: Console) -> None:
    """Print a table for each group, and the missing results."""
    for name, facts in found.machines.items():
        told = [each for each in found.changes if each.benchmark == name and (each.ratio_change or each.value_change)]
        for group in dict.fromkeys(each.group for each in told):
            console.print(_table(f"{name}, {found.setting}: {group}", [each for each in told if each.group == group]))
        if facts:
            console.print(f"{name}: the machines differ in {', '.join(facts)}, so only ratios are compared, not values.", highlight=False)
    for sentence in found.missing:
        console.print(sentence, highlight=False)
    console.print(
        "x: ratio to the baseline of the same run. value: new/stored, only if the machines are alike. better, worse: the ratio changed by "
        f"more than its spread over the rounds of either run and by more than {SMALLEST:.0%}. Changes do not affect the exit code.",
        highlight=False,
    )


def _table(title: str, changes: list[Change]) -> Table:
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for number, head in enumerate(("", "measure", "stored x", "new x", "new/ stored", "spread", "value", "")):
        drawn.add_column(head, justify="left" if number < 2 else "right", no_wrap=number == 1)
    for each in changes:
        spread = f"{each.spread:.0%}" if each.ratio_change is not None and each.spread else ""
        figures = (each.stored_ratio, each.new_ratio, each.ratio_change)
        drawn.add_row(each.what, each.measure, *map(_written, figures), spread, _written(each.value_change), each.verdict)
    return drawn


def _written(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"


def write(found: Comparison, path: Path) -> None:
    """Write a comparison to a JSON file."""
    write_json(path, found.model_dump(mode="json"))
