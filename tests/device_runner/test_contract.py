"""Test the lines that devices send while a job runs, where a runner or a connection has damaged them."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from device_runner.artifact import Manifest
from device_runner.bitstream.format import Header
from device_runner.contract import Heard, Job, Result, Timed, parse_line, read_lines
from device_runner.errors import AsrDeployError

JOB = "0" * 64
HEARD = Heard(id="a", audio_seconds=1.0, hypothesis="ONE", compute_seconds=0.1)
DAMAGED = [b"[" * 5000, b"1" * 5000, b"\xff", b'{"job": "', b"null", b'{"id": "a"}', b'{"samples": [NaN]}', b"[]"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_told(line: bytes) -> None:
    with pytest.raises(AsrDeployError, match=r"^The device sent a line that is not part of a result: "):
        parse_line(line)


@pytest.mark.parametrize("line", DAMAGED)
@pytest.mark.parametrize("first", [True, False])
def test_damaged_lines_of_an_earlier_process_are_forgotten(line: bytes, first: bool, tmp_path: Path) -> None:
    lines = [json.dumps({"job": JOB}).encode(), HEARD.model_dump_json().encode()]
    (tmp_path / "a").write_bytes(b"\n".join([*lines, b""]))
    assert read_lines(tmp_path / "a", JOB) == [HEARD]
    lines[0 if first else 1] = line
    (tmp_path / "a").write_bytes(b"\n".join([*lines, b""]))
    assert read_lines(tmp_path / "a", JOB) == []


@pytest.mark.parametrize(
    ("kind", "field"),
    [(Manifest, "labels"), (Manifest, "files"), (Job, "audio"), (Result, "transcripts"), (Timed, "samples"), (Header, "records")],
)
def test_a_list_of_many_wrong_values_is_refused_at_the_first(kind: type[BaseModel], field: str) -> None:
    """pydantic would keep an error of 400 bytes for each value, which takes one byte in the file."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({field: ["x"] * 10_000 if field != "labels" else [0] * 10_000})
    assert caught.value.error_count() < 20
