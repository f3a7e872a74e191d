"""The command about data sets: data."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import (
    INPUT,
    OUTPUT,
    ChannelOption,
    JsonOption,
    SplitOption,
    complain,
    console,
    write_figures,
)


def data(
    name: Annotated[str, typer.Argument(metavar="DATA", help="`digits`, `librispeech`, or a table, manifest or folder of recordings.")],
    split: SplitOption = None,
    channel: ChannelOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "--testcase", help="Model or artifact whose labels are compared with the references.", rich_help_panel=INPUT
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for a plot of the durations, such as durations.png or .svg.", rich_help_panel=OUTPUT),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Show what a data set contains: layout, durations, formats, characters, duplicates, recordings that cannot be used.

    Example: asrdeploy data digits
    """
    from toolchain.accuracy.progress import checking_progress
    from toolchain.data.datasets import open_data
    from toolchain.data.description import describe_data
    from toolchain.reports.descriptions import plot_durations, table

    labels = None
    if model is not None:
        from toolchain.accuracy.transcriber import open_transcriber

        labels = tuple(open_transcriber(model).labels)
    chosen = open_data(name, split, channel=channel)
    with checking_progress(len(chosen.utterances)) as progressed:
        found = describe_data(chosen, labels, checked=progressed)
    console.print(table(found))
    for each in found.bad:
        complain(each.reason)
    for utterance, remark in found.remarks.items():
        complain(f"{utterance} {remark}")
    for group in found.duplicates:
        if not group.same_text:
            complain(f"The same audio has different references: {', '.join(group.ids[:5])}.")
    if output is not None:
        plot_durations(found, output)
        console.print(f"Plot written to {output}.", markup=False, highlight=False, soft_wrap=True)
    write_figures(json_file, found)


COMMANDS = (data,)
