"""Runs benchmarks one after the other, each in a process of its own, and keeps what they found."""

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
    """Run benchmarks and write a file each; one that is stopped leaves the files of those that ended, and none of its own.

    Args:
        benchmarks: what to run, in this order.
        setting: quick or full.
        folder: of the results.
        resume: keep results of the same commit, command and machine instead of running again.
        console: is told what runs.

    Raises:
        AsrDeployError: a benchmark failed, or a file cannot be written.
    """
    commit = results.commit()
    for number, benchmark in enumerate(benchmarks, 1):
        path, command = results.path_of(folder, benchmark.name, setting), benchmark.command(setting)
        console.rule(f"{number} of {len(benchmarks)}: {command}", align="left")
        if resume and is_done(path, command, commit):
            console.print(f"{path.name} is of this commit and machine, and stays.")
            continue
        stored = run_one(benchmark, setting, commit)
        results.write(path, stored)
        console.print(f"{stored.seconds:.0f} s; {path.name} is written.", highlight=False)
    console.print(f"The results lie in {folder}.")


def is_done(path: Path, command: str, commit: str | None) -> bool:
    """Tell whether a result is there that the same sources made by the same command on such a machine."""
    if commit is None or commit.endswith(CHANGED) or not path.is_file():
        return False
    stored = results.read(path)
    return (stored.commit, stored.command, stored.machine) == (commit, command, results.machine())


def run_one(benchmark: Benchmark, setting: Setting, commit: str | None = None) -> Stored:
    """Run a benchmark in a process of its own, which prints as it goes.

    Raises:
        AsrDeployError: it failed or left no figures.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-bench-") as folder:
        figures = Path(folder) / "figures.json"
        words = [sys.executable, "-m", f"benchmarks.{benchmark.name}", *benchmark.arguments(setting), "--json", str(figures)]
        others, started = OtherWork(), time.monotonic()
        code = subprocess.run(words, cwd=REPOSITORY).returncode
        seconds, other_work = time.monotonic() - started, others.cores()
        again = f"mend that, then run the benchmarks again with --resume: “{benchmark.command(setting)}”"
        if code:
            raise AsrDeployError(f"The benchmark {benchmark.name} ended with code {code}; {again}.")
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
