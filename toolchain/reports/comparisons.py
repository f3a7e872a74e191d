"""Two runs side by side for people: the table, the sentence on chance, the alignments, the plot; and the table of scores."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path
from toolchain.accuracy.comparison import Differing, RunComparison, alignment
from toolchain.accuracy.scoring import Score, ScoredRun
from toolchain.data.normalisers import NONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBSTITUTED, DELETED, INSERTED = "yellow", "red", "cyan"
BAD_IN_PLOTS, BINS = "tab:red", 60


def summary(found: RunComparison) -> Table:
    """Draw both rates, their difference and the counts of utterances."""
    title = f"{found.utterances} utterances, {found.words} words, normaliser {found.normalizer}; wer and differences in %"
    caption = f"of {found.utterances} utterances, B has fewer errors in {found.better}, as many in {found.equal}, more in {found.worse}"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE, padding=(0, 1))
    table.add_column("")
    table.add_column("run", overflow="fold", min_width=25)  # the title in one line
    for column in ("wer", "95 % interval", "p", "errors"):
        table.add_column(column, justify="right", no_wrap=True)
    runs = (found.a, found.b)
    errors = [run.score.substitutions + run.score.deletions + run.score.insertions for run in runs]
    for side, label, run, wrong in zip("AB", _labels(found), runs, errors, strict=True):
        table.add_row(side, Text(label), _percent(run.score.wer), _interval(run.score.wer_interval), "", str(wrong))
    table.rows[-1].end_section = True
    change = (_signed(found.difference), _interval(found.interval, signed=True), f"{found.p:.3f}", f"{errors[1] - errors[0]:+d}")
    table.add_row("", "B less A", *change)
    return table


def verdict(found: RunComparison) -> str:
    """Return a sentence on whether chance explains the difference."""
    if found.better == found.worse == 0:
        same = "heard the same" if not found.differing else "made as many errors"
        return f"A and B {same} in every utterance: there is no difference."
    chance = f"95 % interval {_interval(found.interval, signed=True)}, p {found.p:.3f}"
    size = f"B is {'worse' if found.difference > 0 else 'better'} by {abs(100 * found.difference):.2f} points of word error rate"
    if found.difference == 0:
        return f"Both word error rates are the same, by different errors ({chance})."
    if found.by_chance:
        return f"{size}, which chance explains: other utterances of this kind may say the opposite ({chance})."
    return f"{size}, more than chance explains ({chance})."


def utterances(found: RunComparison, *, show: int, better: bool) -> Iterable[RenderableType]:
    """Yield the utterances that got worse, and with ``better`` those that got better, with the alignments of both runs.

    Args:
        show: how many of each.
        better: show those that got better too.
    """
    groups = [("B has more errors than A", found.worsened)] + [("B has fewer errors than A", found.bettered)] * better
    if show and any(group for _, group in groups):
        yield _legend()
    for title, group in groups:
        if not (group and show):
            continue
        count = f"{len(group)} utterances" if len(group) > 1 else "1 utterance"
        yield Text(f"\n{title}: {count}" + f", the {show} with the largest difference" * (len(group) > show), style="bold")
        for each in group[:show]:
            yield Text(_plain(f"{each.id}: {each.errors_a} in A, {each.errors_b} in B"))
            yield Padding(_three_lines(each), (0, 0, 0, 2))


def aligned(reference: str, hypothesis: str) -> Text:
    """Return what was heard with every error marked, by a colour and by a sign."""
    marked = Text()
    for tag, said, heard in alignment(_plain(reference), _plain(hypothesis)):
        if tag == "equal":
            parts = [(said, "")]
        elif tag == "delete":
            parts = [(f"[-{word}]", DELETED) for word in said.split()]
        elif tag == "insert":
            parts = [(f"[+{word}]", INSERTED) for word in heard.split()]
        else:  # as many words on both sides
            parts = [(f"[{word}→{other}]", SUBSTITUTED) for word, other in zip(said.split(), heard.split(), strict=True)]
        for text, style in parts:
            marked.append(" " * bool(marked)).append(text, style)
    return marked if marked else Text("(nothing)", style="dim")


def scores(runs: Iterable[ScoredRun]) -> Table:
    """Draw the scores of evaluations, below each the one after a normaliser, where it was asked for."""
    table = Table(title="Word error rates in %, counted anew", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    table.add_column("run", overflow="fold")
    for column in ("words", "wer", "95 % interval", "sub", "del", "ins"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        rows: list[tuple[str, Score]] = [(str(run.folder), run.result.score)]
        if run.result.normalised is not None:
            rows.append((f"  after {run.result.normalised.normalizer}", run.result.normalised))
        for name, each in rows:
            errors = (each.substitutions, each.deletions, each.insertions)
            figures = (str(each.words), _percent(each.wer), _interval(each.wer_interval), *map(str, errors))
            table.add_row(Text(_plain(name)), *figures)
    return table


def check_plot(path: Path) -> None:
    """Raise AsrDeployError for a file that no plot can be written to, before anything is counted."""
    _figure(path)


def plot(found: RunComparison, drawn: npt.NDArray[np.float64], path: Path) -> None:
    """Draw the resampled differences with their interval and the line of no difference. The suffix of ``path`` decides the format.

    Raises:
        AsrDeployError: a suffix that matplotlib does not know, or ``path`` cannot be written.
    """
    figure = _figure(path)
    axes = figure.add_subplot()
    low, high = (100 * each for each in found.interval)
    axes.hist(100 * drawn, bins=BINS, color="tab:blue", alpha=0.7, label=f"{len(drawn)} resamplings of the utterances")
    axes.axvspan(low, high, color="tab:blue", alpha=0.12, label=f"95 % interval: {low:+.2f} to {high:+.2f}")
    axes.axvline(100 * found.difference, color="black", label=f"measured: {_signed(found.difference)}, p {found.p:.3f}")
    axes.axvline(0, color=BAD_IN_PLOTS, linestyle="--", label="no difference")
    axes.set(xlabel="word error rate of B less that of A, in points", ylabel="resamplings", yticks=[])
    names = [fill(label.replace("$", r"\$"), 90) for label in _labels(found)]
    normaliser = "" if found.normalizer == NONE else f", normaliser {found.normalizer}"
    axes.set_title(f"A: {names[0]}\nB: {names[1]}\n{found.utterances} utterances{normaliser}", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)


def _figure(path: Path) -> "Figure":
    from matplotlib.figure import Figure  # without pyplot there is no window and no global state; a PNG is drawn by Agg

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise AsrDeployError(f"Cannot draw {path}: end its name with .png or one of {', '.join(sorted(known))}.")
    return figure


def _labels(found: RunComparison) -> list[str]:
    """Return names that tell the two runs apart."""
    runs = (found.a, found.b)
    labels = [run.configuration if run.device == "local" else f"{run.configuration} on {run.device}" for run in runs]
    return [_plain(each) for each in (labels if labels[0] != labels[1] else (str(run.folder) for run in runs))]


def _three_lines(each: Differing) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("said", Text(_plain(each.reference)) if each.reference.strip() else Text("(nothing)", style="dim"))
    for side, heard in (("A", each.hypothesis_a), ("B", each.hypothesis_b)):
        grid.add_row(side, aligned(each.reference, heard))
    return grid


def _legend() -> Text:
    return Text.assemble(
        "\n", ("[said→heard]", SUBSTITUTED), " substituted  ", ("[-said]", DELETED), " left out  ", ("[+heard]", INSERTED), " put in"
    )


def _plain(text: str) -> str:
    """Return text in which nothing commands a terminal."""
    return "".join(each if each.isprintable() or each == " " else "\ufffd" for each in text)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def _signed(rate: float) -> str:
    # Nothing is written as -0.00.
    return f"{round(100 * rate, 2) + 0.0:+.2f}"


def _interval(interval: Sequence[float], *, signed: bool = False) -> str:
    return " .. ".join(map(_signed if signed else _percent, interval))
