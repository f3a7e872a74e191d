"""Fuzz every reader of files that others make, for a second or so each; `python -m scripts.fuzz` does it for longer."""

import faulthandler
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from scripts.fuzz import running
from scripts.fuzz.device_files import change_bitstream, opened
from scripts.fuzz.reader import Case, Reader, write
from scripts.fuzz.running import READERS, Failure, attempt, case_of, forget_peak, high_water, run, valid_cases
from tests.helpers import REPOSITORY

HANG = 1_200  # seconds, far above what a busy machine needs


@pytest.fixture(autouse=True)
def _hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@cache
def valid(name: str) -> Sequence[Case]:
    return valid_cases(READERS[name])


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name: str, place: Path) -> None:
    for case in valid(name):
        write(case, place)
        assert attempt(READERS[name], place)


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused_in_a_sentence_within_bounded_memory(name: str, place: Path) -> None:
    reader = READERS[name]

    @settings(max_examples=reader.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(rng=st.randoms(use_true_random=True))
    def check(rng: Random) -> None:
        write(reader.change(rng, rng.choice(valid(name))), place)
        before = forget_peak()
        attempt(reader, place)
        assert high_water() - before <= reader.memory

    check()


def broken(folder: Path) -> None:
    """A reader with every fault that the fuzzer has to find."""
    content = (folder / "a").read_bytes()
    if content == b"\x01":
        raise ValueError("a traceback")
    if content == b"\x02":
        raise AsrDeployError("no sentence")
    if content == b"\x03":
        bytearray(b"x" * 2**27)  # touched, so that it is resident
    if content == b"\x04":
        raise AsrDeployError("A sentence.")


FAULTS = {1: "ValueError at repository/test_fuzz.py", 2: "Failure at fuzz/running.py", 3: "Failure at fuzz/running.py"}


def test_the_fuzzer_finds_tracebacks_messages_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "READERS", {"broken": BROKEN})
    for number, kind in FAULTS.items():
        write({"a": bytes([number])}, tmp_path / "case")
        with pytest.raises((ValueError, Failure)) as caught:
            before = forget_peak()
            attempt(BROKEN, tmp_path / "case")
            if high_water() - before > BROKEN.memory:
                raise Failure("memory")
        assert running.kind_of(caught.value).startswith(kind.split(" at ")[0])
    write({"a": b"\x04"}, tmp_path / "case")
    assert not attempt(BROKEN, tmp_path / "case")


BROKEN = Reader("broken", "", lambda folder: [{"a": b""}], lambda rng, case: {"a": bytes([rng.randrange(5)])}, broken, memory=2**24)


def test_a_run_counts_its_cases_and_repeats_with_its_seed(tmp_path: Path) -> None:
    summary = run(READERS["job"], seed=1, cases=200, seconds=HANG, kept=tmp_path)
    assert summary.cases == summary.read + summary.refused == 200 and not summary.failures and not any(tmp_path.iterdir())
    assert case_of(READERS["job"], valid("job"), 1, 5) == case_of(READERS["job"], valid("job"), 1, 5)


def test_bitstreams_of_all_kinds_are_changed_behind_their_checksums() -> None:
    headers = [opened(case["b.asrb"])[0] for case in valid("bitstream")]
    kinds = {row[1] for header in headers for row in header["records"]}
    assert kinds >= {"fp16", "bf16", "uniform", "palette", "sparse", "factors", "trellis"}
    rng, whole = Random(0), valid("bitstream")[0]["b.asrb"]
    assert len({change_bitstream(rng, whole) for _ in range(50)}) > 40


def test_every_page_that_describes_a_file_has_a_reader() -> None:
    page = (REPOSITORY / "docs" / "tests.md").read_text()
    assert all(f"`{name}`" in page for name in READERS)


def test_a_checkpoint_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    (case,) = (each for each in valid("weights") if "w.pt" in each)
    bomb = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(case["w.pt"])) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for each in old.namelist():
            new.writestr(each, old.read(each) + b"\0" * (2**27 if each.endswith("data/0") else 0))
    write({"w.pt": bomb.getvalue()}, tmp_path)
    with pytest.raises(AsrDeployError, match="which weights never shrink to"):
        READERS["weights"].read(tmp_path)


def test_failed_cases_are_kept_with_what_repeats_them(tmp_path: Path) -> None:
    running.keep(tmp_path, "job", 1, 5, {"job.json": json.dumps({}).encode()}, "KeyError at x:1", "a traceback")
    assert (tmp_path / "job" / "1-5" / "files" / "job.json").read_text() == "{}"
    assert "python -m scripts.fuzz again job --seed 1 --case 5" in (tmp_path / "job" / "1-5" / "report.txt").read_text()
