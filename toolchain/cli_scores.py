"""Commands about finished evaluations, without a model: compare, score; see ``cli`` for the rules."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli_options import NormalizerOption, complain, console


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation: the one to start from.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another on the same utterances; differences are B less A.")],
    normalizer: NormalizerOption = "none",
    show: Annotated[int, typer.Option(min=0, help="Utterances shown, those with the largest difference first.")] = 10,
    better: Annotated[bool, typer.Option("--better", help="Show the utterances that got better too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures and all utterances that differ.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="File (.png, .svg) for the distribution of the difference.")] = None,
) -> None:
    """Say where two evaluations differ and whether chance explains it. Example: asrdeploy compare results/A results/B"""
    from device_runner.files import write_text
    from toolchain import comparison_views
    from toolchain.comparison import compare_with_differences
    from toolchain.normalisers import check_normalizer

    check_normalizer(normalizer)
    if plot_file is not None:
        comparison_views.check_plot(plot_file)
    found, drawn = compare_with_differences(a, b, normalizer)
    console.print(comparison_views.summary(found))
    console.print(comparison_views.verdict(found), highlight=False, markup=False)
    for each in comparison_views.utterances(found, show=show, better=better):
        console.print(each)
    if json_file is not None:
        write_text(json_file, found.model_dump_json(indent=2) + "\n")
    if plot_file is not None:
        comparison_views.plot(found, drawn, plot_file)
    if written := [str(each) for each in (json_file, plot_file) if each is not None]:
        console.print(f"\nWritten: {', '.join(written)}.", highlight=False, markup=False)


def score(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of finished evaluations.")],
    normalizer: NormalizerOption = "none",
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the results of all of them.")] = None,
) -> None:
    """Count the errors of evaluations anew, without inference. Example: asrdeploy score results/A --normalizer whisper"""
    from device_runner.files import write_text
    from toolchain.comparison_views import scores
    from toolchain.normalisers import check_normalizer
    from toolchain.scoring import ScoredRun, ScoredRuns, read_evaluation, rescore

    check_normalizer(normalizer)
    before = [read_evaluation(folder)[0] for folder in folders]  # all of them, before one is written
    runs = [ScoredRun(folder=folder, result=rescore(folder, normalizer)) for folder in folders]
    console.print(scores(runs))
    for run, earlier in zip(runs, before, strict=True):
        if run.result.score != earlier.score:
            complain(f"{run.folder} had another score, {earlier.wer:.2%}, than its transcripts give, {run.result.wer:.2%}.")
    if json_file is not None:
        write_text(json_file, ScoredRuns(runs=tuple(runs)).model_dump_json(indent=2) + "\n")
        console.print(f"Written: {json_file}.", highlight=False, markup=False)


COMMANDS = (compare, score)
