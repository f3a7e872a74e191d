"""Commands about finished evaluations, without a model: compare, score; see ``cli`` for the rules."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import JsonOption, NormalizerOption, complain, console, write_figures


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation: the one to start from.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another on the same utterances; differences are B less A.")],
    normalizer: NormalizerOption = "none",
    show: Annotated[int, typer.Option(min=0, help="Utterances shown, those with the largest difference first.")] = 10,
    better: Annotated[bool, typer.Option("--better", help="Show the utterances that got better too.")] = False,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="File (.png, .svg) for the distribution of the difference.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Say where two evaluations differ and whether chance explains it. Example: asrdeploy compare results/fp32 results/int8"""
    from toolchain.accuracy.comparison import compare_with_differences
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports import comparisons

    check_normalizer(normalizer)
    if plot_file is not None:
        comparisons.check_plot(plot_file)
    found, drawn = compare_with_differences(a, b, normalizer)
    console.print(comparisons.summary(found))
    console.print(comparisons.verdict(found), highlight=False, markup=False)
    for each in comparisons.utterances(found, show=show, better=better):
        console.print(each)
    if plot_file is not None:
        comparisons.plot(found, drawn, plot_file)
        console.print(f"The plot is in {plot_file}.", highlight=False, markup=False, soft_wrap=True)
    write_figures(json_file, found)


def score(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of finished evaluations.")],
    normalizer: NormalizerOption = "none",
    json_file: JsonOption = None,
) -> None:
    """Count the errors of evaluations anew, without inference. Example: asrdeploy score results/fp32 --normalizer whisper"""
    from toolchain.accuracy.scoring import ScoredRun, ScoredRuns, read_evaluation, rescore
    from toolchain.data.normalisers import check_normalizer
    from toolchain.reports.comparisons import scores

    check_normalizer(normalizer)
    before = [read_evaluation(folder)[0] for folder in folders]  # all of them, before one is written
    runs = [ScoredRun(folder=folder, result=rescore(folder, normalizer)) for folder in folders]
    console.print(scores(runs))
    for run, earlier in zip(runs, before, strict=True):
        if run.result.score != earlier.score:
            complain(f"{run.folder} had another score, {earlier.wer:.2%}, than its transcripts give, {run.result.wer:.2%}.")
    write_figures(json_file, ScoredRuns(runs=tuple(runs)))


COMMANDS = (compare, score)
