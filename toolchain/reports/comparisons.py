"""Output of `compare` and `score`: the tables, the significance of a difference, alignments and the plot."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from device_runner import drawing
from device_runner.errors import printable
from toolchain.accuracy.comparison import Differing, RunComparison, alignment
from toolchain.accuracy.scoring import Score, ScoredRun
from toolchain.data.normalisers import NONE

SUBSTITUTED, DELETED, INSERTED = "yellow", "red", "cyan"
BAD_IN_PLOTS, BINS, INCHES = "tab:red", 60, (8, 4.6)


def summary(found: RunComparison) -> Table:
    """Create the table of both WERs (or CERs), their difference and the counts of utterances."""
    rate, units = _units(found)
    title = f"{found.utterances} utterances, {found.words} {units}, normaliser {found.normalizer}; {rate} and differences in %"
    counts = f"{found.better} of {found.utterances} utterances, as many in {found.equal}, more in {found.worse}"
    caption = f"B has fewer errors than A in {counts}"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE, padding=(0, 1))
    table.add_column("")
    table.add_column("run", overflow="fold", min_width=25)  # keeps the title on one line
    for column in (rate, "95 % interval", "p", "errors"):
        table.add_column(column, justify="right", no_wrap=True)
    scores = [run.score for run in (found.a, found.b)]
    if found.main == "cer":
        errors, rates, intervals = ([getattr(each, name) for each in scores] for name in ("character_errors", "cer", "cer_interval"))
    else:
        errors = [each.substitutions + each.deletions + each.insertions for each in scores]
        rates, intervals = [each.wer for each in scores], [each.wer_interval for each in scores]
    for side, label, measured, interval, wrong in zip("AB", _labels(found), rates, intervals, errors, strict=True):
        table.add_row(side, Text(label), _percent(measured), _interval(interval), "", str(wrong))
    table.rows[-1].end_section = True
    change = (_signed(found.difference), _interval(found.interval, signed=True), f"{found.p:.3f}", f"{errors[1] - errors[0]:+d}")
    table.add_row("", "B minus A", *change)
    return table


def _units(found: RunComparison) -> tuple[str, str]:
    """Return the name of the rate that is compared, and of what it counts."""
    return ("CER", "characters") if found.main == "cer" else ("WER", "words")


def verdict(found: RunComparison) -> str:
    """Say whether the difference between two runs is significant."""
    if found.better == found.worse == 0:
        same = "transcribed every utterance identically" if not found.differing else "made equally many errors in every utterance"
        return f"A and B {same}. There is no difference."
    chance = f"95 % interval {_interval(found.interval, signed=True)}, p {found.p:.3f}"
    size = f"B is {'worse' if found.difference > 0 else 'better'} by {abs(100 * found.difference):.2f} {_units(found)[0]} points"
    if found.difference == 0:
        return f"A and B have the same {_units(found)[0]} with different errors ({chance})."
    if found.by_chance:
        return f"{size}. The difference is not significant: other utterances of this kind may give the opposite result ({chance})."
    return f"{size}. The difference is significant ({chance})."


def utterances(found: RunComparison, *, show: int, better: bool) -> Iterable[RenderableType]:
    """Yield the utterances that got worse, with the alignments of both runs.

    Args:
        found: Comparison of two runs.
        show: Maximum number of utterances in each group.
        better: Whether to add the utterances that got better.
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
            yield Text(printable(f"{each.id}: {each.errors_a} in A, {each.errors_b} in B"))
            yield Padding(_three_lines(each), (0, 0, 0, 2))


def aligned(reference: str, hypothesis: str) -> Text:
    """Return the hypothesis with every error marked by a colour and a sign."""
    marked = Text()
    for tag, said, heard in alignment(printable(reference), printable(hypothesis)):
        if tag == "equal":
            parts = [(said, "")]
        elif tag == "delete":
            parts = [(f"[-{word}]", DELETED) for word in said.split()]
        elif tag == "insert":
            parts = [(f"[+{word}]", INSERTED) for word in heard.split()]
        else:  # both sides have the same number of words
            parts = [(f"[{word}→{other}]", SUBSTITUTED) for word, other in zip(said.split(), heard.split(), strict=True)]
        for text, style in parts:
            marked.append(" " * bool(marked)).append(text, style)
    return marked if marked else Text("(nothing)", style="dim")


def scores(runs: Iterable[ScoredRun]) -> Table:
    """Create the table of recomputed scores, each followed by its score after a normaliser if one was used."""
    table = Table(
        title="WER and CER in %, recomputed from saved transcripts", title_justify="left", box=box.SIMPLE, padding=(0, 1), pad_edge=False
    )
    table.add_column("run", overflow="fold")
    for column in ("words", "WER", "95 % interval", "sub", "del", "ins", "CER"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        rows: list[tuple[str, Score]] = [(str(run.folder), run.result.score)]
        if run.result.normalised is not None:
            rows.append((f"  after {run.result.normalised.normalizer}", run.result.normalised))
        for name, each in rows:
            errors = (each.substitutions, each.deletions, each.insertions)
            figures = (str(each.words), _percent(each.wer), _interval(each.wer_interval), *map(str, errors), _percent(each.cer))
            table.add_row(Text(printable(name)), *figures)
    return table


def check_plot(path: Path) -> None:
    """Raise AsrDeployError if matplotlib does not support the suffix of ``path``."""
    drawing.new_figure(path, INCHES)


def plot(found: RunComparison, drawn: npt.NDArray[np.float64], path: Path) -> None:
    """Plot the distribution of the resampled differences with their interval.

    Args:
        found: Comparison of two runs.
        drawn: Resampled differences of WER as fractions, ``[resamplings]``.
        path: File to write; its suffix selects the format.

    Raises:
        AsrDeployError: matplotlib does not support the suffix, or ``path`` cannot be written.
    """
    figure = drawing.new_figure(path, INCHES)
    axes = figure.add_subplot()
    low, high = (100 * each for each in found.interval)
    axes.hist(100 * drawn, bins=BINS, color="tab:blue", alpha=0.7, label=f"{len(drawn)} bootstrap resamplings")
    axes.axvspan(low, high, color="tab:blue", alpha=0.12, label=f"95 % interval: {low:+.2f} to {high:+.2f}")
    axes.axvline(100 * found.difference, color="black", label=f"measured: {_signed(found.difference)}, p {found.p:.3f}")
    axes.axvline(0, color=BAD_IN_PLOTS, linestyle="--", label="no difference")
    axes.set(xlabel="{0} of B minus {0} of A, in points".format(_units(found)[0]), ylabel="number of resamplings", yticks=[])
    names = [fill(label, 90) for label in _labels(found)]
    normaliser = "" if found.normalizer == NONE else f", normaliser {found.normalizer}"
    axes.set_title(f"A: {names[0]}\nB: {names[1]}\n{found.utterances} utterances{normaliser}", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    drawing.save(figure, path, 130)


def _labels(found: RunComparison) -> list[str]:
    """Return names that tell the two runs apart."""
    runs = (found.a, found.b)
    labels = [run.configuration if run.device == "local" else f"{run.configuration} on {run.device}" for run in runs]
    return [printable(each) for each in (labels if labels[0] != labels[1] else (str(run.folder) for run in runs))]


def _three_lines(each: Differing) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("reference", Text(printable(each.reference)) if each.reference.strip() else Text("(nothing)", style="dim"))
    for side, heard in (("A", each.hypothesis_a), ("B", each.hypothesis_b)):
        grid.add_row(side, aligned(each.reference, heard))
    return grid


def _legend() -> Text:
    return Text.assemble(
        *("\n", ("[reference→hypothesis]", SUBSTITUTED), " substituted  "),
        *(("[-reference]", DELETED), " deleted  ", ("[+hypothesis]", INSERTED), " inserted"),
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def _signed(rate: float) -> str:
    # Adding 0.0 avoids -0.00.
    return f"{round(100 * rate, 2) + 0.0:+.2f}"


def _interval(interval: Sequence[float], *, signed: bool = False) -> str:
    return " .. ".join(map(_signed if signed else _percent, interval))
