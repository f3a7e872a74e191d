"""Deliveries from the server to the first transcript: measured, cut, killed and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.bitstream.format import Header, write_bitstream
from device_runner.errors import AsrDeployError
from tests.helpers import REPOSITORY, Completed, complaint
from toolchain.compression.bitstreams import compress, decompress
from toolchain.delivery.measurements import Delivered, Delivery, break_even
from toolchain.delivery.reception import Reception, Shares, receive
from toolchain.delivery.server import deliver, serving
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model

Cli = Callable[..., Completed]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def small(tiny: AnchorModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bitstreams") / "small.asrb"
    compress(tiny, "uniform", {"bits": 4}, path)
    return path


@pytest.fixture(scope="module")
def large(tiny: AnchorModel, small: Path) -> Path:
    path = small.with_name("large.asrb")
    compress(tiny, "fp16", {}, path)
    return path


def test_what_the_server_offers(small: Path, large: Path) -> None:
    with serving([small, large]) as address:
        request = urllib.request.Request(f"{address}/small.asrb", headers={"Range": "bytes=100-199"})
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 206 and answer.read() == small.read_bytes()[100:200]
            assert answer.headers["Repr-Digest"].startswith("sha-256=:")
        with urllib.request.urlopen(address) as answer:
            assert answer.read().split() == [b"small.asrb", b"large.asrb"]
        for name in ("other.asrb", "..%2Fsmall.asrb", "%2Fetc%2Fpasswd"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{address}/{name}")


def test_a_reception_transcribes_as_the_reconstructed_model(small: Path, tmp_path: Path) -> None:
    with serving([small]) as address:
        made = receive(f"{address}/small.asrb", tmp_path / "kept.asrb", bits_per_second=50e6)
    assert (tmp_path / "kept.asrb").read_bytes() == small.read_bytes()
    assert made.model == "DIGITS_ASR_TINY" and made.trained and made.size_bytes == small.stat().st_size
    assert made.transcript and made.float_bytes == sum(4 * each.numel() for each in decompress(small).state().values())
    assert made.seconds.transfer >= 0.9 * 8 * small.stat().st_size / 50e6
    assert all(share >= 0 for _, share in made.seconds) and made.peak_bytes >= made.baseline_bytes > 0


def test_deliveries_by_command_resume(cli: Cli, small: Path, large: Path, tmp_path: Path) -> None:
    done = cli("deliver", large, small, "--rates", "40", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "small is faster than large " in done.stdout and ("below" in done.stdout or "at every rate" in done.stdout)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "receptions").iterdir()}
    assert len(kept) == 2
    assert cli("deliver", large, small, "--rates", "40,80", "-o", "out").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    result = Delivery.model_validate_json((tmp_path / "out" / "delivery.json").read_text())
    assert [each.name for each in result.bitstreams] == ["small", "large"]  # the smaller one first
    for each in result.bitstreams:
        assert [made.bits_per_second for made in each.receptions] == [40e6, 80e6]
        assert len({made.transcript for made in each.receptions}) == 1
    assert (tmp_path / "out" / "delivery.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "out" / "delivery.svg").read_bytes()


def test_a_killed_receiver_resumes(small: Path, tmp_path: Path) -> None:
    with serving([small]) as address:
        command = [sys.executable, "-m", "asrdeploy", "receive", f"{address}/small.asrb", "-o", str(tmp_path / "kept.asrb")]
        first = subprocess.Popen([*command, "--rate", "0.5"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 10_000 for path in tmp_path.glob(".*.part")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not (tmp_path / "kept.asrb").exists()
        done = subprocess.run([*command, "--json", str(tmp_path / "r.json")], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept.asrb").read_bytes() == small.read_bytes()
    assert json.loads((tmp_path / "r.json").read_text())["resumed_from"] > 10_000 and "resumed at byte" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"kept.asrb", "r.json"}


def test_serving_by_command(small: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "asrdeploy", "deliver", str(small), "--serve", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"COLUMNS": "80"}
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().decode().split()[-1]
        assert address == f"http://127.0.0.1:{port}/small.asrb"
        assert receive(address, tmp_path / "kept.asrb").transcript  # the receiver waits until the server has started
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, 130)


def test_an_update_is_received_with_its_base(tiny: AnchorModel, tmp_path: Path) -> None:
    tuned = tiny.with_state({name: each * 1.01 for name, each in tiny.state().items()}, "tuned")
    compress(tuned, "ectcq", {"bits": 0.3}, tmp_path / "update.asrb", base=load_model("0"))
    with serving([tmp_path / "update.asrb"]) as address:
        url = f"{address}/update.asrb"
        assert receive(url, None, base="own").transcript
        with pytest.raises(AsrDeployError, match="update"):
            receive(url, tmp_path / "kept.asrb")
    assert not (tmp_path / "kept.asrb").exists()
    with pytest.raises(AsrDeployError, match="cannot be decoded without a base or a decoder"):
        deliver([tmp_path / "update.asrb"], [1e6], tmp_path / "out")


def test_what_cannot_be_delivered(cli: Cli, small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "sub" / "small.asrb"
    copy.parent.mkdir()
    copy.write_bytes(small.read_bytes())
    assert "same file name" in complaint(cli("deliver", small, copy, "-o", "out"), alone=False)
    assert "is not a file" in complaint(cli("deliver", "none.asrb", "-o", "out"), alone=False)
    copy.write_bytes(b"RIFF" * 100)
    assert "not a bitstream" in complaint(cli("deliver", copy, "--serve"))
    assert "--rates fast: write numbers separated by commas" in complaint(cli("deliver", small, "--rates", "fast"))
    assert "--rates 0: rates are in Mbit/s and must be above 0" in complaint(cli("deliver", small, "--rates", "0"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert "contains no delivery" in complaint(cli("deliver", small, "-o", "thesis"), alone=False)
    assert "--rate 0 is out of range" in complaint(cli("receive", "http://127.0.0.1:1/a", "-o", "a.asrb", "--rate", "0"))
    cut = tmp_path / "cut.asrb"
    cut.write_bytes(small.read_bytes()[:-100])
    with serving([cut]) as address:
        assert "is cut" in complaint(cli("receive", f"{address}/cut.asrb", "-o", "kept.asrb"))
    assert not (tmp_path / "kept.asrb").exists()


def test_bitstreams_of_two_models_are_not_compared(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.asrb"
    other.write_bytes(write_bitstream(Header(codec="fp16", model="HUBERT_ASR_LARGE"), []))
    with pytest.raises(AsrDeployError, match="different models"):
        deliver([small, other], [1e6], tmp_path / "out")


def delivered(name: str, size: int, busy: float, tail: float = 0.0) -> Delivered:
    made = Reception(
        model="M",
        configuration=name,
        trained=True,
        size_bytes=size,
        bits_per_second=1e6,
        resumed_from=0,
        connections=1,
        seconds=Shares(transfer=8 * size / 1e6, decode=tail, load=0.1, first_inference=0.1),
        decode_busy=busy,
        audio_seconds=2.0,
        transcript="",
        float_bytes=4 * size,
        baseline_bytes=0,
        peak_bytes=0,
        versions={},
    )
    return Delivered(name=name, sha256="0" * 64, receptions=(made,), after=0.2)


@given(size=st.integers(10_000, 10**8), factor=st.floats(1.5, 20), busy=st.floats(0.01, 10))
@settings(max_examples=100, deadline=None)
def test_a_smaller_bitstream_pays_until_its_decoding_takes_longer(size: int, factor: float, busy: float) -> None:
    larger = int(size * factor)
    rate = break_even(delivered("a", size, busy), delivered("b", larger, 0.0))
    # Above this rate the larger one arrives before the smaller one is decoded.
    assert rate == pytest.approx(8 * larger / busy, rel=0.01) or (rate is None and 8 * larger / busy > 0.99e10)
    assert break_even(delivered("a", size, 0.0), delivered("b", larger, busy)) is None
