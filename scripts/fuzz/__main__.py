"""Command line of the fuzzer."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from device_runner.suggestions import nearest
from scripts.fuzz.running import READERS, again, run

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_readers() -> None:
    """List the readers."""
    for each in READERS.values():
        print(f"{each.name:14}{each.what}")


@app.command("run")
def run_readers(
    readers: Annotated[list[str] | None, typer.Argument(help="Readers (default: all).")] = None,
    minutes: Annotated[float, typer.Option(help="Minutes for each reader, at most.")] = 1.0,
    cases: Annotated[int, typer.Option(help="Number of cases for each reader, at most.")] = 10**9,
    seed: Annotated[int, typer.Option(help="Seed of the cases.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the cases that fail.")] = Path("results/fuzz"),
) -> None:
    """Run changed files through readers, and keep those that fail. The exit code is 1 if there is one."""
    chosen = readers or list(READERS)
    for name in chosen:
        if name not in READERS:
            raise nearest(name, READERS, "reader")
    failed = False
    for name in chosen:
        summary = run(READERS[name], seed=seed, cases=cases, seconds=60 * minutes, kept=output, say=partial(print, flush=True))
        print(summary, flush=True)
        for kind, count in summary.failures.most_common():
            print(f"  {kind} (kept: {count})", flush=True)
        failed |= bool(summary.failures)
    raise typer.Exit(int(failed))


@app.command("again")
def read_again(
    reader: Annotated[str, typer.Argument(help="Reader.")],
    case: Annotated[int, typer.Option(help="Number of the case.")],
    seed: Annotated[int, typer.Option(help="Seed of the cases.")] = 0,
) -> None:
    """Run a single case in this process, with its traceback."""
    print(again(READERS[reader], seed, case))


if __name__ == "__main__":
    app()
