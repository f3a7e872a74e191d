"""Run benchmarks one after the other in separate processes and store their results."""

import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.catalogue import Benchmark, Setting
from benchmarks.common import REPOSITORY, Figures
from benchmarks.results import CHANGED, OtherWork, Stored
from device_runner.errors import AsrDeployError


def run_all(benchmarks: Sequence[Benchmark], setting: Setting, folder: Path, *, resume: bool, console: Console) -> None:
    """Run benchmarks and write a result file for each. After an interruption, the files of finished benchmarks remain.

    Args:
        benchmarks: Benchmarks in the order to run.
        setting: ``quick`` or ``full``.
        folder: Folder of the results.
        resume: Whether to keep existing results of the same commit, command and machine.
        console: Console for progress messages.

    Raises:
        AsrDeployError: If a benchmark fails or a file cannot be written.
    """
    commit = results.commit()
    for number, benchmark in enumerate(benchmarks, 1):
        path, command = results.path_of(folder, benchmark.name, setting), benchmark.command(setting)
        console.rule(f"{number} of {len(benchmarks)}: {command}", align="left")
        if resume and is_done(path, command, commit):
            console.print(f"Kept {path.name}, which is of this commit and machine.")
            continue
        stored = run_one(benchmark, setting, commit)
        results.write(path, stored)
        console.print(f"Wrote {path.name} after {stored.seconds:.0f} s.", highlight=False)
    console.print(f"The results are in {folder}.")


def is_done(path: Path, command: str, commit: str | None) -> bool:
    """Tell whether a result file exists that has the same commit, command and machine."""
    if commit is None or commit.endswith(CHANGED) or not path.is_file():
        return False
    stored = results.read(path)
    return (stored.commit, stored.command, stored.machine) == (commit, command, results.machine())


def run_one(benchmark: Benchmark, setting: Setting, commit: str | None = None) -> Stored:
    """Run a benchmark in a separate process, which prints its progress.

    Raises:
        AsrDeployError: If it fails or writes no valid figures.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-bench-") as folder:
        figures = Path(folder) / "figures.json"
        words = [sys.executable, "-m", f"benchmarks.{benchmark.name}", *benchmark.arguments(setting), "--json", str(figures)]
        others, started = OtherWork(), time.monotonic()
        code = subprocess.run(words, cwd=REPOSITORY).returncode
        seconds, other_work = time.monotonic() - started, others.cores()
        again = f"Check `{benchmark.command(setting)}`, then run the benchmarks again with --resume"
        if code:
            raise AsrDeployError(f"The benchmark {benchmark.name} failed with exit code {code}. {again}.")
        return Stored(
            setting=setting,
            command=benchmark.command(setting),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            commit=commit,
            machine=results.machine(),
            seconds=round(seconds, 1),
            other_work=None if other_work is None else round(other_work, 2),
            figures=results.parsed(Figures, figures, again),
        )
