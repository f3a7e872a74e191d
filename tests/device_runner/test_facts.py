"""Facts about the machine: what each costs."""

from pathlib import Path

import pytest

from device_runner import facts


def test_git_is_asked_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text(f"#!/bin/sh\necho asked >>{tmp_path}/log\necho 0123abc\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda path: True)  # of a checkout, also where the tests run from an archive of the source
    facts._commit.cache_clear()
    try:
        assert [facts.machine_facts()["commit"] for _ in range(3)] == ["0123abc"] * 3
        assert (tmp_path / "log").read_text().splitlines() == ["asked"]
    finally:
        facts._commit.cache_clear()
