"""Makes docs/performance.md and its plots from the stored results; the same results give the same bytes."""

import hashlib
import string
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib

matplotlib.use("Agg")  # files only: works without a display

from matplotlib import pyplot as plt  # the backend is chosen before

from benchmarks.catalogue import BENCHMARKS, SETTINGS, Benchmark
from benchmarks.common import REPOSITORY, Group, Row, groups, number
from benchmarks.results import Machine, Stored, read_folder
from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path, write_text

PAGE = REPOSITORY / "docs" / "performance.md"
TEMPLATE = Path(__file__).with_name("performance.md.jinja")
QUIET = 0.1  # of the cores: less than that is what any system does
HEIGHT, WIDTH = 0.28, 8.0  # inches of a bar and of a plot
Section = tuple[Benchmark, Stored, str, list[Group]]


def newest(results: Path) -> list[tuple[Benchmark, Stored]]:
    """Return each benchmark that has a result, with the newer one of both settings; of the same moment, that of the full one.

    Raises:
        AsrDeployError: there is none at all, or a file is no result.
    """
    quick, full = (read_folder(results, setting) for setting in SETTINGS)
    both = {each: [results[each.name] for results in (full, quick) if each.name in results] for each in BENCHMARKS}
    found = [(each, max(stored, key=lambda one: one.date)) for each, stored in both.items() if stored]
    if not found:
        raise AsrDeployError(f"{results} holds no results; make them with `make bench`.")
    return found


def text(results: Path) -> str:
    """Return the page of a folder of results."""
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
    """Tell whether hardly anything else ran meanwhile, as far as the system tells."""
    return stored.other_work is None or stored.other_work <= QUIET * stored.machine.usable_cpus


def beside(stored: Stored) -> str:
    """Say what else the machine did meanwhile."""
    if stored.other_work is None:
        return ""
    cores = f"{number(stored.other_work)} of the {stored.machine.usable_cpus} cores on average"
    if is_quiet(stored):
        return f"Other work took {cores}."
    return (
        f"**Other work ran beside it** and took {cores}: do not quote times, nor ratios between ways that use different numbers of threads "
        "(no plot is drawn); `make bench` on a quiet machine replaces them."
    )


def write(results: Path, page: Path = PAGE) -> None:
    """Write the page, and the plots into the folder beside it that has its name; plots of results that are gone are removed."""
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
    """Tell whether a result is drawn: figures that are not to be quoted are not."""
    return benchmark.plot is not None and is_quiet(stored)


def digest(stored: Stored) -> str:
    """Return the SHA-256 of a result's figures; a plot has it in its description."""
    return hashlib.sha256(stored.figures.model_dump_json().encode()).hexdigest()


def drawn_rows(benchmark: Benchmark, stored: Stored) -> dict[str, list[Row]]:
    """Return the rows that a benchmark's plot shows, by group.

    Raises:
        AsrDeployError: the result has none, being of an older version of the benchmark.
    """
    measure, part = benchmark.plot or ("", "")
    rows = [row for row in stored.figures.rows if row.measure == measure and part in row.group]
    if not rows:
        raise AsrDeployError(f"The stored result of {benchmark.name} has no “{measure}” to draw; run `make bench` again.")
    return {group: [row for row in rows if row.group == group] for group in dict.fromkeys(row.group for row in rows)}


def draw(benchmark: Benchmark, stored: Stored, path: Path) -> None:
    """Draw the values of one measure as bars, a panel for each group, the ratio behind each value."""
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
