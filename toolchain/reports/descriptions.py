"""Table and plot of what a data set contains."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from device_runner import drawing
from device_runner.errors import AsrDeployError, printable
from toolchain.data.description import Description

SHOWN = 60  # characters of references in the table; --json has them all
BARS = 40


def table(found: Description) -> Table:
    """Return a table of what a data set contains."""
    made = Table(title=f"{found.name} {found.split}", show_header=False, title_justify="left")
    made.add_column()
    made.add_column(overflow="fold")
    rows = {"layout": found.layout, "utterances": f"{found.utterances}, {found.words} words", "duration": f"{found.hours:.3f} h"}
    for name, each in (("shortest", found.shortest), ("longest", found.longest)):
        if each is not None:
            rows[name] = f"{each.seconds:.2f} s: {printable(each.id)}"
    rows["sample rates"] = _counts({f"{rate} Hz": number for rate, number in found.sample_rates.items()})
    rows["channels"] = _counts({str(number): files for number, files in found.channels.items()})
    rows["formats"] = _counts(found.formats)
    rows["characters"] = _characters(found.characters)
    if found.outside is not None:
        rows["outside the labels"] = _characters(found.outside) or "none"
    same = sum(each.same_text for each in found.duplicates)
    rows["same audio"] = f"{len(found.duplicates)} groups, {len(found.duplicates) - same} of them with different references"
    rows["peculiar"] = f"{len(found.remarks)} recordings"
    rows["not usable"] = f"{len(found.bad)} recordings"
    from rich.text import Text

    for name, value in rows.items():
        made.add_row(name, Text(value))
    return made


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in found.items())


def _characters(found: Mapping[str, int]) -> str:
    named = [f"{'space' if each == ' ' else printable(each)} {number}" for each, number in list(found.items())[:SHOWN]]
    return ", ".join(named) + (f" and {len(found) - SHOWN} others" if len(found) > SHOWN else "")


def plot_durations(found: Description, path: Path) -> None:
    """Draw a histogram of the durations of the utterances.

    Args:
        found: What the data set contains.
        path: File to write; its suffix selects the format.

    Raises:
        AsrDeployError: There are no utterances, or the suffix is not supported.
    """
    figure = drawing.new_figure(path, (7.5, 4.2))
    if not found.lengths:
        raise AsrDeployError(f"{found.name} {found.split} has no usable recording to draw.")
    axes = figure.subplots()
    axes.hist([each.seconds for each in found.lengths], bins=min(BARS, max(1, len(found.lengths))), color="tab:blue")
    axes.set_xlabel("duration in seconds")
    axes.set_ylabel("utterances")
    axes.set_title(f"{found.name} {found.split}: {found.utterances} utterances, {found.hours:.2f} h")
    axes.grid(alpha=0.3)
    drawing.save(figure, path, 130)
