"""Fixtures for the tests of `asrdeploy doctor`: a machine without programs and without an adb server."""

import socket
from pathlib import Path

import pytest

from toolchain.doctor import probes
from toolchain.doctor.checks import Report, Row
from toolchain.doctor.probes import Said, run_bounded


@pytest.fixture
def no_adb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore an adb server of the user, and allow for a busy machine."""
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", f"tcp:localhost:{free_port()}")
    monkeypatch.setattr(probes, "LIMIT", 120.0)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, empty."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path / "bin"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def script(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


def rows(report: Report) -> dict[str, Row]:
    return {row.name: row for row in report.rows}


def ask(*words: object) -> Said:
    return run_bounded(tuple(map(str, words)))
