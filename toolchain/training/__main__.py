"""Commands of the training: `python -m toolchain.training run` trains DIGITS_ASR_TINY, `speech` makes the bundled test sets.

`score` computes the WER of trained weights.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from device_runner.files import write_json
from device_runner.home import finds_home
from device_runner.suggestions import nearest
from toolchain.cli.main import run as run_application
from toolchain.models.loading import load_model
from toolchain.training.batches import read_fsdd
from toolchain.training.curve import plot_log
from toolchain.training.score import bundled_sets, connected_digits, count, synthetic_digits
from toolchain.training.speech_sets import synthesise_sets
from toolchain.training.synthesis import synthesise_corpus
from toolchain.training.train import Phase, Recipe, mix, train
from toolchain.training.voices import DEV_SPEAKERS

app = typer.Typer(add_completion=False)


@app.command()
@finds_home
def run(
    output: Annotated[Path, typer.Option("-o", help="Output folder. An interrupted run resumes there.")],
    fsdd: Annotated[Path | None, typer.Option(help="Folder of Free Spoken Digit Dataset recordings.")] = None,
    leave_out: Annotated[str, typer.Option(help="Recorded speaker that only the second phase uses.")] = "nicolas",
    steps: Annotated[int, typer.Option(help="Number of steps in the first phase.")] = 5000,
    more_steps: Annotated[int, typer.Option(help="Number of steps in the second phase.")] = 1600,
    mixed: Annotated[float, typer.Option(help="Share of the first phase's weights in the result, 0 to 1.")] = 0.35,
    seed: int = 1,
) -> None:
    """Train DIGITS_ASR_TINY."""
    corpus = synthesise_corpus(output / "corpus", seed)
    recordings = read_fsdd(fsdd, held_out=False) if fsdd else {}
    phases = (
        Phase("without-one-speaker", steps, 1.5e-3, 300, singles=500, without=(leave_out,), formants_from=2504),
        Phase("all-speakers", more_steps, 8e-4, 100, quietest=-34.0),
    )
    recipe = Recipe(seed, phases)
    write_json(output / "recipe.json", asdict(recipe) | {"mixed": mixed})
    sets = [synthetic_digits("dev_voices", [voice for voice, *_ in DEV_SPEAKERS], 10, seed)]
    if fsdd:
        held_out = read_fsdd(fsdd, held_out=True)
        if leave_out not in held_out:
            raise nearest(leave_out, held_out, "speaker")
        unheard = {leave_out: held_out.pop(leave_out)}
        sets += [connected_digits("heard_speakers", held_out, 15, seed), connected_digits("left_out", unheard, 30, seed)]
    train(recipe, corpus, recordings, sets, output)
    first, last = (output / f"{phase.name}.safetensors" for phase in phases)
    mix(first, last, mixed, output / "model.safetensors")
    plot_log(output / "log.csv", output / "log.png")
    typer.echo(f"Wrote weights, log and plot to {output}.")


@app.command()
@finds_home
def speech(
    output: Annotated[Path, typer.Option("-o", help="Output folder for dev-clean and test-clean.")],
    seed: int = 7,
) -> None:
    """Synthesise the bundled test sets."""
    synthesise_sets(output, seed)
    typer.echo(f"Wrote dev-clean and test-clean to {output}.")


@app.command()
@finds_home
def score(
    weights: Annotated[Path, typer.Argument(help="Weights to score (.safetensors).")],
    fsdd: Annotated[Path | None, typer.Option(help="Folder of Free Spoken Digit Dataset recordings.")] = None,
    seed: int = 11,
) -> None:
    """Print the WER values of the model card: bundled test sets per voice, held-out recordings per speaker."""
    network = load_model("0", str(weights)).network
    sets = bundled_sets()
    if fsdd:
        sets += [
            connected_digits(f"recordings of {name}", {name: speech}, 50, seed) for name, speech in read_fsdd(fsdd, held_out=True).items()
        ]
    for scored in sets:
        errors, words = count(network, scored)
        typer.echo(f"{scored.name:45} {errors:4d} / {words:4d} = {errors / words:.2%}")


if __name__ == "__main__":
    run_application(app)
