"""A local server in place of the hosts of the anchors' weights and corpus, and helpers for processes that are stopped midway."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch

from tests.helpers import TERMINAL_VARIABLES, Completed
from tests.http_files import FileServer, serving
from toolchain.data import download as download_module
from toolchain.data.datasets import open_data

ARCHIVE = "/resources/12/test-clean.tar.gz"
WHOLE = 1 << 60  # larger than any body, so a cut here cuts nothing

Cli = Callable[..., Completed]
Files = dict[str, bytes]


@cache
def snippets() -> tuple[tuple[bytes, str], ...]:
    """Return 0.15 s of several bundled recordings as FLAC, with the first word of their references."""
    found = []
    for utterance in open_data("digits", "test-clean").utterances[::35]:
        samples, rate = soundfile.read(utterance.path, stop=2_400)
        content = io.BytesIO()
        soundfile.write(content, samples, rate, format="FLAC")
        found.append((content.getvalue(), utterance.reference.split()[0]))
    return tuple(found)


def corpus(split: str, utterances: int, speakers: int = 1) -> Files:
    """Return the files of a split in LibriSpeech's layout, and the text files that its archives contain."""
    files = {f"LibriSpeech/{name}.TXT": name.encode() * 50 for name in ("BOOKS", "CHAPTERS", "LICENSE", "README", "SPEAKERS")}
    for speaker in range(speakers):
        for chapter in (1, 2):
            folder, lines = f"LibriSpeech/{split}/{61 + speaker}/{70 + chapter}", ""
            for number in range(utterances // speakers // 2):
                flac, word = snippets()[(number + speaker) % len(snippets())]
                name = f"{61 + speaker}-{70 + chapter}-{number:04}"
                files[f"{folder}/{name}.flac"] = flac
                lines += f"{name} {word}\n"
            files[f"{folder}/{61 + speaker}-{70 + chapter}.trans.txt"] = lines.encode()
    return files


def packed(files: Files, link: str | None = None) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo("LibriSpeech/test-clean/link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    return content.getvalue()


def tree(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def surroundings(folder: Path, server: FileServer, archive: bytes | None = None, weights: str | None = None) -> dict[str, str]:
    """Return an environment that can only reach the server and writes nothing outside ``folder``."""
    nowhere = "http://127.0.0.1:9"
    found = {
        "HOME": str(folder / "home"),
        "TORCH_HOME": str(folder / "torch"),
        "ASRDEPLOY_CACHE": str(folder / "cache"),
        "ASRDEPLOY_WEIGHTS_URL": server.url + "/torchaudio/models",
        "ASRDEPLOY_LIBRISPEECH_URL": server.url + "/resources/12",
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "no_proxy": "127.0.0.1,localhost",
    }
    if archive is not None:
        found["ASRDEPLOY_LIBRISPEECH_SHA256"] = hashlib.sha256(archive).hexdigest()
    if weights is not None:
        found["ASRDEPLOY_WEIGHTS_SHA256"] = weights
    return found


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until ``true`` holds while the process keeps running."""
    while not true():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def killed(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def started(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES} | env
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


@contextmanager
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Point the environment to a server with a small test-clean; the cache at tmp_path/cache already contains dev-clean."""
    archive = packed(corpus("test-clean", 8))
    monkeypatch.setattr(download_module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(urllib.request, "_opener", None)  # the opener caches the proxies of its first use
    for name, content in corpus("dev-clean", 4).items():
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with serving({ARCHIVE: archive}) as server:
        monkeypatch.delenv("ASRDEPLOY_WEIGHTS_SHA256", raising=False)
        for name, value in surroundings(tmp_path, server, archive).items():
            monkeypatch.setenv(name, value)
        yield server


def evaluated(cli: Cli) -> Completed:
    return cli("evaluate", "DIGITS_ASR_TINY", "--data", "librispeech", "--threads", "1", "-o", "result")


def heard_all(cli: Cli, tmp_path: Path) -> bool:
    done = evaluated(cli)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "cache").rglob(".unpacking-*")) and not list((tmp_path / "cache").rglob("*.part"))
    return bool(json.loads((tmp_path / "result" / "result.json").read_text())["utterances"] == 8)
