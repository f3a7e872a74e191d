"""Commands for finished evaluations, which run no model: compare, score."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli.options import INPUT, OUTPUT, JsonOption, NormalizerOption, complain, console, one_of, write_figures


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of the first evaluation.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of the second, on the same utterances. Differences are B minus A.")],
    normalizer: NormalizerOption = "none",
    show: Annotated[
        int,
        typer.Option(min=0, help="Number of utterances to show, largest difference first.", rich_help_panel=OUTPUT),
    ] = 10,
    better: Annotated[bool, typer.Option("--better", help="Also show the utterances that improved.", rich_help_panel=OUTPUT)] = False,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot of the distribution of the difference to write (.png, .svg).", rich_help_panel=OUTPUT),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare two evaluations and test whether the difference is significant. Example: asrdeploy compare results/fp32 results/int8"""
    from toolchain.accuracy.comparison import compare_with_differences
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports import comparisons

    check_normalizer(normalizer)
    if plot_file is not None:
        comparisons.check_plot(plot_file)
    found, drawn = compare_with_differences(a, b, normalizer)
    console.print(comparisons.summary(found))
    console.print(comparisons.verdict(found), soft_wrap=False)  # prose without names
    for each in comparisons.utterances(found, show=show, better=better):
        console.print(each)
    if plot_file is not None:
        comparisons.plot(found, drawn, plot_file)
        console.print(f"The plot is {plot_file}.")
    write_figures(json_file, found)


def score(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of evaluations.")],
    normalizer: Annotated[
        str | None,
        typer.Option(
            "--normalizer",
            help="Text normaliser of the second score: `punctuation`, `whisper` (English), or `none` to remove it (default: the result's).",
            autocompletion=one_of("none", "punctuation", "whisper"),
            rich_help_panel=INPUT,
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Recompute WER from saved transcripts, without running the model. Example: asrdeploy score results/fp32 --normalizer whisper"""
    from toolchain.accuracy.scoring import ScoredRun, ScoredRuns, read_evaluation, rescore
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports.comparisons import scores

    if normalizer is not None:
        check_normalizer(normalizer)
    runs, before, bad = [], [], []
    for folder in folders:
        try:
            earlier = read_evaluation(folder)[0]
            runs.append(ScoredRun(folder=folder, result=rescore(folder, normalizer)))
            before.append(earlier)
        except AsrDeployError as error:  # the others can still be scored
            bad.append(error)
            complain(str(error))
    if runs:
        console.print(scores(runs))
    for run, earlier in zip(runs, before, strict=True):
        if run.result.score != earlier.score:
            complain(
                f"{run.folder}: the stored WER was {earlier.wer:.2%}, but the transcripts give {run.result.wer:.2%}. "
                "The result was updated."
            )
    if runs:
        write_figures(json_file, ScoredRuns(runs=tuple(runs)))
    if bad:
        sys.exit(2)


COMMANDS = (compare, score)
