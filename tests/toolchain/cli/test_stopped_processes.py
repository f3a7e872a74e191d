"""Processes that download and unpack a corpus: killed midway, two at once, and with a full disk."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import ARCHIVE, Cli, corpus, heard_all, hosts, killed, packed, tree, until
from tests.http_files import FileServer


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with hosts(tmp_path, monkeypatch) as server:
        yield server


# Opens the corpus. At the n-th audit event of a kind with a matching path it is killed, or prints a line and then waits or continues.
OPENED = """
import os, signal, sys
what, kind, number, part = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
def watch(name, arguments):
    global number
    if name == kind and part in f"{arguments[0]}$":
        number -= 1
        if number == 0 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 0:
            print("there", flush=True)
        if number == 0 and what == "wait":
            sys.stdin.readline()
from toolchain.data.datasets import open_data
sys.addaudithook(watch)
print(len(open_data("librispeech", "test-clean").utterances))
"""
UNPACKING = ("open", "5", ".unpacking-")


def opening(tmp_path: Path, what: str, *event: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPENED, what, *event]
    return subprocess.Popen(command, cwd=tmp_path, stdin=-1, stdout=-1, stderr=-1, text=True)


def elsewhere(tmp_path: Path) -> str:
    """A folder on another file system than ``tmp_path``."""
    return next(place for place in ("/dev/shm", "/tmp", "/var/tmp") if os.stat(place).st_dev != tmp_path.stat().st_dev)  # noqa: PTH116


@pytest.mark.parametrize(
    ("event", "linked"),
    [(UNPACKING, False), (("os.rename", "1", ".unpacking-"), False), (("os.rename", "6", ""), False), (("shutil.copyfile", "8", ""), True)],
    ids=["unpacking", "before the first move", "before the split", "copying into another file system"],
)
def test_a_process_killed_while_it_unpacks(event: tuple[str, ...], linked: bool, mirror: FileServer, cli: Cli, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=elsewhere(tmp_path)) as other:
        cache_folder = tmp_path / "cache"
        if linked:
            (cache_folder / "LibriSpeech").rename(tmp_path / "moved")
            (cache_folder / "LibriSpeech").symlink_to(other)
        process = opening(tmp_path, "kill", *event)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert list(cache_folder.glob(".unpacking-*")) and not (cache_folder / "LibriSpeech" / "test-clean").exists()
        assert heard_all(cli, tmp_path)
        assert not list(Path(other).glob(".unpacking-*"))
    assert len(mirror.asked) == 1


@pytest.mark.parametrize("first_is_killed", [False, True])
def test_two_processes_that_download_the_same(first_is_killed: bool, mirror: FileServer, tmp_path: Path) -> None:
    mirror.holds = [1000]
    first = opening(tmp_path, "say", "", "0", "")
    until(mirror.held.is_set, first)
    second = opening(tmp_path, "say", "", "0", "")
    assert second.stderr and "Waiting for another process that is downloading test-clean.tar.gz." in second.stderr.readline()
    assert len(mirror.asked) == 1
    if first_is_killed:
        killed(first)
    mirror.released.set()
    if not first_is_killed:
        assert first.communicate()[0] == "8\n"
    assert second.communicate()[0] == "8\n"
    assert len(mirror.asked) == 2
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["LibriSpeech", "test-clean.tar.gz"]


@pytest.mark.parametrize("thrown_away", [False, True])
def test_a_download_stays_held_when_its_part_is_made_anew(thrown_away: bool, mirror: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "cache" / "test-clean.tar.gz.part"
    part.write_bytes(mirror.files[ARCHIVE] + b"more")  # cannot be resumed
    mirror.holds = [1000]
    with part.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = opening(tmp_path, "say", "", "0", "")
        assert process.stderr and "Waiting" in process.stderr.readline()
        if thrown_away:
            part.unlink()
    until(mirror.held.is_set, process)
    with part.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mirror.released.set()
    assert process.communicate()[0] == "8\n"


def test_two_processes_that_unpack_the_same(mirror: FileServer, tmp_path: Path) -> None:
    first = opening(tmp_path, "wait", *UNPACKING)
    assert first.stdout and first.stdout.readline() == "there\n"
    folder = os.open(tmp_path / "cache", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    second = opening(tmp_path, "say", "open", "1", "/cache$")  # it then waits for the lock on this folder
    assert second.stdout and second.stdout.readline() == "there\n"
    (tmp_path / "cache" / "test-clean.tar.gz").unlink()  # the first process has it open; the second must not need it
    assert first.communicate("\n")[0] == "8\n"
    assert second.communicate()[0] == "8\n"
    assert len(mirror.asked) == 1


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from toolchain.data.datasets import open_data
open_data("librispeech", "test-clean")
"""


@pytest.mark.parametrize("limit", [2_000, 1_000_000], ids=["downloading", "unpacking"])
def test_a_disk_that_takes_no_more(limit: int, mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(corpus("test-clean", 8) | {"LibriSpeech/zeros": bytes(3_000_000)})
    mirror.files[ARCHIVE] = archive
    monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_SHA256", hashlib.sha256(archive).hexdigest())
    before = tree(tmp_path)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit)], cwd=tmp_path, capture_output=True, text=True)
    expected = f"device_runner.errors.AsrDeployError: Cannot write {tmp_path / 'cache'}"
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith(expected))  # coverage's own file exceeds the limit later
    assert os.strerror(errno.EFBIG) in sentence
    left = {"cache/test-clean.tar.gz": archive} if limit > len(archive) else {"cache/test-clean.tar.gz.part": archive[:limit]}
    assert tree(tmp_path) == before | left and not list(tmp_path.rglob(".unpacking-*"))
