"""Test receptions from servers that cut, misreport and change files: a file arrives complete, or one message says why not."""

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runner.bitstream import receiver as module
from device_runner.bitstream.format import BitstreamReader, Header, Record, write_bitstream
from device_runner.bitstream.receiver import Receiver
from device_runner.errors import AsrDeployError
from tests.http_files import FileServer, serving

BODY = random.Random(0).randbytes(300_007)
BITSTREAM = write_bitstream(
    Header(codec="fp32", records=(Record(name="a", kind="fp32", shape=(50_000,), bytes=200_000),)), [BODY[:200_000]]
)


def digest_of(body: bytes) -> dict[str, str]:
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"}


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/a.asrb": BODY, "/b.asrb": BITSTREAM}) as state:
        yield state


def read_all(receiver: Receiver) -> bytes:
    return b"".join(iter(lambda: receiver.read(70_000), b""))


def refused(url: str, path: Path) -> str:
    """Return the message that ends a reception, and check that no file has the final name."""
    with pytest.raises(AsrDeployError) as caught, Receiver(url, path) as receiver:
        read_all(receiver)
        receiver.keep()
    assert not path.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_a_file_arrives_whole_and_alone(server: FileServer, tmp_path: Path) -> None:
    server.headers = digest_of(BODY)
    path = tmp_path / "new" / "a.asrb"
    with Receiver(server.url + "/a.asrb", path) as receiver:
        assert read_all(receiver) == BODY
        receiver.keep()
    assert path.read_bytes() == BODY and left(path.parent) == [path]
    assert (receiver.connections, receiver.resumed_from) == (1, 0)


def test_it_is_read_while_it_arrives_and_no_faster_than_the_rate(server: FileServer, tmp_path: Path) -> None:
    started = time.perf_counter()
    with Receiver(server.url + "/a.asrb", tmp_path / "a", bits_per_second=8e6) as receiver:
        first = receiver.read(1000)
        assert first and BODY.startswith(first) and receiver.arrived_at is None
        assert first + read_all(receiver) == BODY
    assert time.perf_counter() - started > 0.9 * len(BODY) / 1e6
    assert receiver.waited_seconds > 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 400_000), max_size=6), knows_ranges=st.booleans(), sizes=st.integers(1_000, 200_000))
def test_cuts_anywhere_cost_nothing(cuts: list[int], knows_ranges: bool, sizes: int, tmp_path: Path) -> None:
    with serving({"/a": BODY}) as server:
        server.headers, server.knows_ranges = digest_of(BODY), knows_ranges
        # An attempt without new data fails, and there are four attempts.
        server.cuts = [each for each in cuts if each] if knows_ranges else cuts[:3]
        with Receiver(server.url + "/a", tmp_path / "a") as receiver:
            assert b"".join(iter(lambda: receiver.read(sizes), b"")) == BODY
            receiver.keep()
        starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in server.asked if wanted]
        assert starts == sorted(starts)


def test_a_stopped_reception_goes_on(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Receiver(server.url + "/a.asrb", tmp_path / "a", bits_per_second=8e6) as receiver:
        receiver.read(1000)
        raise KeyboardInterrupt
    with Receiver(server.url + "/a.asrb", tmp_path / "a") as again:
        assert read_all(again) == BODY
        again.keep()
    assert again.resumed_from > 0 and server.asked[-1][1] == f"bytes={again.resumed_from}-"
    assert left(tmp_path) == [tmp_path / "a"]


def test_a_part_of_another_version_is_not_gone_on_with(server: FileServer, tmp_path: Path) -> None:
    server.headers = {"ETag": '"one"'}
    with pytest.raises(KeyboardInterrupt), Receiver(server.url + "/a.asrb", tmp_path / "a", bits_per_second=8e6) as receiver:
        receiver.read(1000)
        raise KeyboardInterrupt
    server.headers, server.files["/a.asrb"] = {"ETag": '"two"'}, BODY[::-1]
    with Receiver(server.url + "/a.asrb", tmp_path / "a") as again:
        assert read_all(again) == BODY[::-1] and again.resumed_from == 0


def test_a_file_that_changes_on_the_way(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cuts = [1000]
    answers = iter(['"one"', '"two"'])
    ask = Receiver._ask

    def changing(self: Receiver, start: int) -> object:
        server.headers = {"ETag": next(answers)}
        return ask(self, start)

    monkeypatch.setattr(Receiver, "_ask", changing)
    assert "changed while it was received" in refused(server.url + "/a.asrb", tmp_path / "a")
    assert left(tmp_path) == []


def test_a_wrong_checksum(server: FileServer, tmp_path: Path) -> None:
    server.headers = digest_of(BODY[1:])
    assert "does not match the checksum" in refused(server.url + "/a.asrb", tmp_path / "a")
    assert left(tmp_path) == []


def test_content_that_its_reader_refuses_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    damaged = bytearray(BITSTREAM)
    damaged[1000] ^= 1
    server.files["/b.asrb"] = bytes(damaged)
    for _ in range(2):
        with pytest.raises(AsrDeployError, match="damaged in a"), Receiver(server.url + "/b.asrb", tmp_path / "b") as receiver:
            list(BitstreamReader(receiver).records())
        assert receiver.resumed_from == 0 and left(tmp_path) == []


@pytest.mark.parametrize(
    ("extra", "words"), [(1000, "has only 300007 bytes, but the server announced 301007"), (2**40, "at most 4294967296 are allowed")]
)
def test_a_server_that_announces_too_much(extra: int, words: str, server: FileServer, tmp_path: Path) -> None:
    server.extra_length = extra
    assert words in refused(server.url + "/a.asrb", tmp_path / "a")


def test_a_server_that_announces_too_little(server: FileServer, tmp_path: Path) -> None:
    server.extra_length = -1000
    with pytest.raises(AsrDeployError, match="cut"), Receiver(server.url + "/b.asrb", tmp_path / "b") as receiver:
        list(BitstreamReader(receiver).records())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"announces": False}, "does not announce its length"),
        ({"statuses": [404]}, "answered 404"),
        ({"statuses": [503] * 4}, "answered 503"),
        ({"cuts": [0] * 4}, "ended after 0 of 300007 bytes"),
        ({"cuts": [5], "shift": 1}, "a different part"),
    ],
)
def test_servers_that_fail_for_good(change: dict[str, object], words: str, server: FileServer, tmp_path: Path) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    assert words in refused(server.url + "/a.asrb", tmp_path / "a")


def test_passing_failures_pass(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    with Receiver(server.url + "/a.asrb", tmp_path / "a") as receiver:
        assert read_all(receiver) == BODY
    assert receiver.connections == 3


@pytest.mark.parametrize("url", ["", "ftp://host/a", "/a.asrb", "http:///a", "http://127.0.0.1:1/a"])
def test_addresses_without_a_server(url: str, tmp_path: Path) -> None:
    assert "Cannot receive" in refused(url, tmp_path / "a")


def test_a_digest_that_is_no_digest_is_not_compared(server: FileServer, tmp_path: Path) -> None:
    server.headers = {"Repr-Digest": "sha-256=:?:, md5=:AA==:"}
    with Receiver(server.url + "/a.asrb", tmp_path / "a") as receiver:
        assert read_all(receiver) == BODY and receiver.offer.sha256 is None


def test_a_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Cannot write" in refused(server.url + "/a.asrb", tmp_path / "file" / "a")
    with pytest.raises(AsrDeployError, match="more than 0"):
        Receiver(server.url + "/a.asrb", tmp_path / "a", bits_per_second=0)
