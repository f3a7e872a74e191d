"""What the commands of `asrdeploy` share: options, the console, how a complaint looks."""

from typing import Annotated

import typer
from rich.console import Console

console = Console()

ModelOption = Annotated[
    str, typer.Option("--model", "--testcase", help="Test case number or anchor name; `asrdeploy testcases` lists them.")
]
WeightsOption = Annotated[str | None, typer.Option("--weights", help="`random`, or a .safetensors/.pt file; default: the model's own.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of `--weights random`.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Weights that an update was made against (a file); `own`: the model's.")]
DecoderOption = Annotated[
    str | None, typer.Option("--decoder", help="Command of an external codec's decoder, with {input} and {output} in it.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Threads of the runtime.")]


def complain(sentence: str) -> None:
    """Print one sentence on the error stream."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"asrdeploy: {sentence}", markup=False)
