"""Measure the start-up time of the command line, with `python -c pass` as the baseline.

    python -m benchmarks.startup [--json FILE] [--rounds 9]

The target is half a second for commands that do not import PyTorch. The first round is discarded: it reads the files from the disk and,
for `devices`, starts an adb server on a free port, which is stopped at the end.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

from benchmarks.common import REPOSITORY, Figures, arguments_of, in_turn, report, run, timed, timing_rows
from device_runner.errors import AsrDeployError
from device_runner.phone.adb import SERVER_VARIABLE, Adb, find_adb

BASELINE = "python -c pass"
WAYS: dict[str, tuple[str, ...]] = {
    BASELINE: ("-c", "pass"),
    "python -c 'import device_runner.engines'": ("-c", "import device_runner.engines"),
    **{f"asrdeploy {command}": ("-m", "asrdeploy", command) for command in ("--help", "testcases", "schemes", "codecs", "devices")},
    "asrdeploy evaluate --help": ("-m", "asrdeploy", "evaluate", "--help"),
}


def process(words: tuple[str, ...], environment: Mapping[str, str]) -> Callable[[], None]:
    """Return a function that runs Python with arguments and waits until it exits."""

    def start() -> None:
        done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise AsrDeployError(
                f"`python {' '.join(words)}` failed with exit code {done.returncode}: {done.stderr.strip()[-300:] or 'no error message'}"
            )

    return start


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = arguments_of(__doc__, rounds=9)
    options = parser.parse_args()
    server = f"tcp:localhost:{free_port()}"
    environment = os.environ | {SERVER_VARIABLE: server}
    try:
        seconds = in_turn({name: timed(process(words, environment)) for name, words in WAYS.items()}, options.rounds, discarded=1)
    finally:
        end_server(server)
    rows = timing_rows("new processes", "total time", seconds, BASELINE)
    report(Figures(benchmark="startup", baseline=BASELINE, rows=tuple(rows)), options.json)


def end_server(server: str) -> None:
    """Stop the adb server of the benchmark, if adb is installed."""
    try:
        adb = Adb(find_adb().program, server=server)
    except AsrDeployError:
        return
    adb.run("kill-server", seconds=10)


if __name__ == "__main__":
    run(main)
