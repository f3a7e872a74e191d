"""An accuracy run that is stopped repeatedly at random moments ends with the same transcripts as an uninterrupted run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_runner.artifact import Artifact
from tests.helpers import hears_ctrl_c
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.run_folder import SETTINGS
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.accuracy.workers import LocalWorkers
from toolchain.data.datasets import DataSet

STOPS = 24
RUN = """
import sys
from pathlib import Path
from toolchain.data.datasets import open_data
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.workers import LocalWorkers
from toolchain.accuracy.transcriber import open_transcriber
evaluate(open_transcriber(sys.argv[1]), open_data("digits", "test-clean"), Path(sys.argv[2]), workers=LocalWorkers(2))
"""


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_stopped_at_random_moments(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    transcriber = open_transcriber(str(tiny_int8.folder))
    evaluate(transcriber, test_clean, tmp_path / "whole")
    chance = random.Random(os.getpid())  # different moments in every test run
    folder, stopped, done = tmp_path / "stopped", 0, 0
    while stopped < STOPS:
        command = [sys.executable, "-c", RUN, tiny_int8.folder, folder]
        with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c) as run:
            # Few lines each time, so that the test set lasts for all stops. At first there may be only the settings.
            wanted = done + chance.randrange(5) if stopped else 0
            file = folder / (TRANSCRIPTS if stopped else SETTINGS)
            while run.poll() is None and (not file.exists() or lines(file) < wanted):
                time.sleep(0.001)
            time.sleep(chance.random() * 0.01)
            run.send_signal(chance.choice([signal.SIGKILL, signal.SIGINT]))
            run.communicate()
        if run.returncode == 0:  # a fast machine may finish before the stop: remove most lines again
            kept = (folder / TRANSCRIPTS).read_bytes().splitlines(keepends=True)[:20]
            (folder / TRANSCRIPTS).write_bytes(b"".join(kept))
            (folder / RESULT).unlink()
            done = len(kept)
            continue
        assert not (folder / RESULT).exists() and lines(folder / TRANSCRIPTS) >= done
        stopped, done = stopped + 1, lines(folder / TRANSCRIPTS)
    assert 0 < done < len(test_clean.utterances)
    evaluate(transcriber, test_clean, folder, workers=LocalWorkers(2))
    assert (folder / TRANSCRIPTS).read_bytes() == (tmp_path / "whole" / TRANSCRIPTS).read_bytes()
    assert lines(folder / TIMES) == len(test_clean.utterances)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
import onnxruntime, torch, torcheval.metrics  # once: a copy of this process is killed at each step
from toolchain.data.datasets import open_data
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.transcriber import open_transcriber
def watch(event, arguments):  # called before every opening, renaming and removal of a file
    global left
    if event in ("open", "os.rename", "os.remove") and any(str(sys.argv[2]) in str(each) for each in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    left = int(line)
    child = os.fork()
    if child == 0:
        transcriber, data = open_transcriber(sys.argv[1]), open_data("digits", "test-clean").limited(2)
        sys.addaudithook(watch)
        evaluate(transcriber, data, Path(sys.argv[2]))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_every_step_with_a_file(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    """Each run is killed before another step. Odd runs start from the beginning, the others resume the killed run."""
    few, transcriber = test_clean.limited(2), open_transcriber(str(tiny_int8.folder))
    evaluate(transcriber, few, tmp_path / "whole")
    expected, step, folder = (tmp_path / "whole" / TRANSCRIPTS).read_bytes(), 1, tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_AT, tiny_int8.folder, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout

        def run(step: int) -> int:
            print(step, file=process.stdin, flush=True)
            return int(process.stdout.readline())  # type: ignore[union-attr]

        while code := run(step):
            assert code == -signal.SIGKILL
            if step % 2:
                evaluate(transcriber, few, folder)
                assert (folder / TRANSCRIPTS).read_bytes() == expected
                shutil.rmtree(folder)
            step += 1
    assert step > 10 and (folder / TRANSCRIPTS).read_bytes() == expected
    assert sorted(each.name for each in folder.iterdir()) == sorted([RESULT, SETTINGS, TIMES, TRANSCRIPTS])


def test_a_disk_that_becomes_full_loses_nothing(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    few, transcriber = test_clean.limited(12), open_transcriber(str(tiny_int8.folder))
    evaluate(transcriber, few, tmp_path / "whole")
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from toolchain.accuracy.evaluation import evaluate; from toolchain.accuracy.transcriber import open_transcriber\n"
        "from toolchain.data.datasets import open_data\n"
        "transcriber, data = open_transcriber(sys.argv[1]), open_data('digits', 'test-clean').limited(12)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "evaluate(transcriber, data, Path(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tiny_int8.folder, tmp_path / "full"], capture_output=True, text=True)
    assert done.returncode and ("the disk is full" in done.stderr or "File too large" in done.stderr), done.stderr
    evaluate(transcriber, few, tmp_path / "full")
    assert (tmp_path / "full" / TRANSCRIPTS).read_bytes() == (tmp_path / "whole" / TRANSCRIPTS).read_bytes()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_how_to_go_on(ending: signal.Signals, tiny_int8: Artifact, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asrdeploy", "evaluate", tiny_int8.folder, "-o", tmp_path / "out", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c) as run:
        while run.poll() is None and lines(tmp_path / "out" / TRANSCRIPTS) < 3:
            time.sleep(0.002)
        run.send_signal(ending)
        _, complaint = run.communicate(timeout=60)
    assert "Traceback" not in complaint
    if ending is signal.SIGINT:
        assert run.returncode == 130 and "Interrupted. Finished work is saved; repeat the command to resume." in complaint
    assert lines(tmp_path / "out" / TRANSCRIPTS) >= 3 and not (tmp_path / "out" / RESULT).exists()
