"""Ctrl-C in long commands: files are complete, no partial files are left, and repeating the command resumes it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runner.artifact import MANIFEST, Artifact, open_artifact
from device_runner.bitstream.format import BitstreamReader, open_bitstream
from tests.helpers import TERMINAL_VARIABLES, hears_ctrl_c, run_command

Begun = Callable[[Path], bool]


def has(pattern: str) -> Begun:
    return lambda folder: any(folder.glob(pattern))


def stopped(folder: Path, begun: Begun, *arguments: object) -> str:
    """Start a command, press Ctrl-C once it has begun, and return the last line of standard error."""
    command = [sys.executable, "-m", "asrdeploy", *map(str, arguments)]
    surroundings = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES}
    surroundings["ASRDEPLOY_CACHE"] = str(folder / "cache")
    with subprocess.Popen(
        command, cwd=folder, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
    ) as process:
        try:
            limit = time.monotonic() + 120
            while not begun(folder):
                assert process.poll() is None and time.monotonic() < limit, "it did not begin"
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in said, (process.returncode, said)
    return said.splitlines()[-1]


def check_whole(folder: Path) -> None:
    """Check that all files can be read completely and that no temporary files are left."""
    for path in folder.rglob("*"):
        assert not path.name.startswith(".") or path.name.endswith(".lock"), path
        if path.name == MANIFEST:
            open_artifact(path.parent)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".asrb":
            with open_bitstream(path) as stream:
                assert list(BitstreamReader(stream).records())


COMMANDS: dict[str, tuple[Begun, tuple[str, ...]]] = {
    "export": (has(".artifact.*"), ("export", "--quant", "int8", "-o", "artifact")),
    "sweep": (has("out/**/transcripts.jsonl"), ("sweep", "--codec", "uniform", "--limit", "5", "-o", "out")),
    "demo": (has("out/anchor/evaluation/transcripts.jsonl"), ("demo", "--limit", "3", "-o", "out")),
    "bench": (has("cache/jobs/*/job.json"), ("bench", "int8", "--seconds", "1", "--protocol", "quick", "-o", "out.json")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_leaves_whole_files_and_goes_on(name: str, tiny_int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "int8").symlink_to(tiny_int8.folder)
    begun, arguments = COMMANDS[name]
    last = stopped(tmp_path, begun, *arguments)
    assert last == "asrdeploy: Interrupted. Finished work is saved; repeat the command to resume."
    check_whole(tmp_path)
    assert not (tmp_path / "artifact").exists() and not (tmp_path / "out.json").exists()
    if name != "demo":  # another test runs it to its end
        done = run_command(*arguments, cwd=tmp_path, env={"ASRDEPLOY_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        check_whole(tmp_path)
