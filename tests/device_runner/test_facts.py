"""Facts about the machine: git runs only once per process."""

from pathlib import Path

import pytest

from device_runner import facts


def test_git_is_asked_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text(f"#!/bin/sh\necho asked >>{tmp_path}/log\necho 0123abc\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda path: True)  # pretend to be in a checkout, even if the tests run from a source archive
    facts._commit.cache_clear()
    try:
        assert [facts.machine_facts()["commit"] for _ in range(3)] == ["0123abc"] * 3
        assert (tmp_path / "log").read_text().splitlines() == ["asked"]
    finally:
        facts._commit.cache_clear()
