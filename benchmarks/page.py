"""Generator of docs/performance.md and its plots. Equal results give byte-identical files."""

import hashlib
import string
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib

matplotlib.use("Agg")  # works without a display

from matplotlib import pyplot as plt  # must follow the choice of the backend

from benchmarks.catalogue import BENCHMARKS, SETTINGS, Benchmark
from benchmarks.common import REPOSITORY, Group, Row, groups, number
from benchmarks.results import Machine, Stored, read_folder
from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path, write_text

PAGE = REPOSITORY / "docs" / "performance.md"
TEMPLATE = Path(__file__).with_name("performance.md.jinja")
QUIET = 0.1  # share of the cores that other processes may use on an idle machine
HEIGHT, WIDTH = 0.28, 8.0  # height of a bar and width of a plot, in inches
Section = tuple[Benchmark, Stored, str, list[Group]]


def newest(results: Path) -> list[tuple[Benchmark, Stored]]:
    """Return each benchmark with its newest result. If both settings have the same date, the full setting is used.

    Raises:
        AsrDeployError: If there are no results, or a file is not a result.
    """
    quick, full = (read_folder(results, setting) for setting in SETTINGS)
    both = {each: [results[each.name] for results in (full, quick) if each.name in results] for each in BENCHMARKS}
    found = [(each, max(stored, key=lambda one: one.date)) for each, stored in both.items() if stored]
    if not found:
        raise AsrDeployError(f"{results} contains no results. Run `make bench`.")
    return found


def text(results: Path) -> str:
    """Return the text of the page for a folder of results."""
    found = newest(results)
    machines: list[Machine] = []
    for _, stored in found:
        if stored.machine not in machines:
            machines.append(stored.machine)
    letters = string.ascii_uppercase
    sections: list[Section] = [
        (benchmark, stored, letters[machines.index(stored.machine)], groups(stored.figures)) for benchmark, stored in found
    ]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return (
        template.render(machines=dict(zip(letters, machines, strict=False)), sections=sections, beside=beside, has_plot=has_plot).rstrip()
        + "\n"
    )


def is_quiet(stored: Stored) -> bool:
    """Tell whether other processes used few cores during a run, as far as the system reports it."""
    return stored.other_work is None or stored.other_work <= QUIET * stored.machine.usable_cpus


def beside(stored: Stored) -> str:
    """Return a sentence on the load by other processes during a run, or an empty string if it is unknown."""
    if stored.other_work is None:
        return ""
    cores = f"{number(stored.other_work)} of the {stored.machine.usable_cpus} cores on average"
    if is_quiet(stored):
        return f"Other processes used {cores}."
    return (
        f"**Other processes used {cores}.** Do not quote these times, nor ratios between variants with different numbers of threads. "
        "There is no plot. Run `make bench` on an idle machine to replace them."
    )


def write(results: Path, page: Path = PAGE) -> None:
    """Write the page, and its plots to the folder next to it that has its name. Outdated plots are deleted.

    Args:
        results: Folder of the results.
        page: Markdown file to write.
    """
    content = text(results)
    plots = {
        page.with_suffix("") / f"{benchmark.name}.svg": (benchmark, stored)
        for benchmark, stored in newest(results)
        if has_plot(benchmark, stored)
    }
    for path, (benchmark, stored) in plots.items():
        draw(benchmark, stored, path)
    for path in page.with_suffix("").glob("*.svg"):
        if path not in plots:
            path.unlink()
    write_text(page, content)


def has_plot(benchmark: Benchmark, stored: Stored) -> bool:
    """Tell whether a result has a plot. Results from a busy machine have none."""
    return benchmark.plot is not None and is_quiet(stored)


def digest(stored: Stored) -> str:
    """Return the SHA-256 of a result's figures, which a plot stores in its description."""
    return hashlib.sha256(stored.figures.model_dump_json().encode()).hexdigest()


def drawn_rows(benchmark: Benchmark, stored: Stored) -> dict[str, list[Row]]:
    """Return the rows of a benchmark's plot by group.

    Raises:
        AsrDeployError: If the result has no such rows because an older version of the benchmark wrote it.
    """
    measure, part = benchmark.plot or ("", "")
    rows = [row for row in stored.figures.rows if row.measure == measure and part in row.group]
    if not rows:
        raise AsrDeployError(f"The stored result of {benchmark.name} has no measure “{measure}” to plot. Run `make bench` again.")
    return {group: [row for row in rows if row.group == group] for group in dict.fromkeys(row.group for row in rows)}


def draw(benchmark: Benchmark, stored: Stored, path: Path) -> None:
    """Plot the values of a measure as bars with their ratios, one panel per group, to an SVG file."""
    panels = drawn_rows(benchmark, stored)
    heights = [len(rows) + 2 for rows in panels.values()]
    with plt.rc_context({"svg.hashsalt": "asrdeploy", "svg.fonttype": "none", "font.size": 8}):
        figure, grid = plt.subplots(
            len(panels), squeeze=False, figsize=(WIDTH, HEIGHT * sum(heights)), height_ratios=heights, layout="constrained"
        )
        for axes, (group, rows) in zip(grid[:, 0], panels.items(), strict=True):
            colours = ["0.6" if row.what == stored.figures.baseline else "tab:blue" for row in rows]
            bars = axes.barh([row.what for row in rows], [row.value for row in rows], color=colours, height=0.7)
            axes.bar_label(bars, labels=_labels(rows), padding=3)
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{group}: {rows[0].measure}, {rows[0].unit} ({rows[0].better} is better)", loc="left")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None, "Description": digest(stored)})
        plt.close(figure)


def _labels(rows: Sequence[Row]) -> list[str]:
    return [number(row.value) + ("" if row.ratio is None else f"  ({number(row.ratio)} x)") for row in rows]
