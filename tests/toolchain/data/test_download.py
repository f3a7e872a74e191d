"""Downloads from a local server that misbehaves; archives that are damaged or write outside their folder."""

import hashlib
import io
import random
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from tests.http_files import FileServer, serving
from toolchain.data import download as module
from toolchain.data.download import download, unpack_tar

BODY = random.Random(0).randbytes(1_000_003)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/a.bin": BODY}) as state:
        yield state


def ranges(server: FileServer) -> list[str | None]:
    return [wanted for _, wanted in server.asked]


def refused(url: str, path: Path, sha256: str | None = SHA256) -> str:
    """Return the error message of a failed download; no file may have the final name."""
    with pytest.raises(AsrDeployError) as caught:
        download(url, path, sha256=sha256, progress=False)
    assert not path.exists()
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
    return sentence


def test_a_file_arrives_whole_and_alone(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "a.bin"
    assert download(server.url + "/a.bin", path, sha256=SHA256.upper()) == path
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]
    shown = capsys.readouterr()
    assert shown.out == "" and "a.bin" in shown.err


def test_what_is_there_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(BODY)
    download(server.url + "/a.bin", path, sha256=SHA256, progress=False)
    download(server.url + "/a.bin", path, sha256=None, progress=False)
    assert server.asked == []


def test_what_is_there_and_wrong_is_replaced(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"something else")
    download(server.url + "/a.bin", path, sha256=SHA256, progress=False)
    assert path.read_bytes() == BODY


@settings(max_examples=25, deadline=None)
@given(kept=st.integers(0, len(BODY)), cuts=st.lists(st.integers(0, len(BODY)), max_size=3))
def test_any_start_and_any_cuts_give_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, kept: int, cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("download") / "a.bin"
    path.with_name("a.bin.part").write_bytes(BODY[:kept])
    with serving({"/a.bin": BODY}) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRY_PAUSES", (0.0, 0.0, 0.0))
        server.cuts = cuts
        download(server.url + "/a.bin", path, sha256=SHA256, progress=False)
    assert path.read_bytes() == BODY


def test_a_cut_connection_is_continued_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=None, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=300000-", "bytes=500000-"]


def test_as_many_cuts_as_it_takes_while_the_file_grows(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [50_000] * 15
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert len(server.asked) == 16


def test_an_interruption_leaves_the_part_for_the_next_time(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.cuts = [300_000]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.time, "sleep", interrupt)
        download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:300_000]
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY and ranges(server)[1:] == ["bytes=300000-"]


def test_a_server_without_ranges_starts_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1_000)
    server.knows_ranges = False
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=None, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_server_without_ranges_that_always_cuts_comes_to_an_end(server: FileServer, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [500_000] * 100
    assert "cut after 500000 of 1000003 bytes" in refused(server.url + "/a.bin", tmp_path / "a.bin")
    assert len(server.asked) == 4


def test_a_part_longer_than_the_file_starts_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=None, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert ranges(server) == ["bytes=1000007-", None]


def test_a_whole_part_needs_no_server(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY)
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY and server.asked == []


def test_ranges_that_do_not_fit_start_anew_once(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY[:1_000])
    server.shift = 10
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY and ranges(server) == ["bytes=1000-", None]
    server.cuts = [5_000] * 5
    assert "do not fit together" in refused(server.url + "/a.bin", tmp_path / "b.bin")


def test_a_body_shorter_than_announced_is_no_success(server: FileServer, tmp_path: Path) -> None:
    server.extra_length = 100
    assert "127.0.0.1" in refused(server.url + "/a.bin", tmp_path / "a.bin", sha256=None)


def test_without_an_announced_length_the_checksum_decides(server: FileServer, tmp_path: Path) -> None:
    server.announces = False
    server.cuts = [10]
    assert "not the expected file" in refused(server.url + "/a.bin", tmp_path / "a.bin")
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_wrong_bytes_are_named_and_thrown_away(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"wrong"
    sentence = refused(server.url + "/a.bin", tmp_path / "a.bin")
    assert hashlib.sha256(b"wrong").hexdigest()[:12] in sentence and SHA256[:12] in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_passing_failure_of_the_server_is_waited_out(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_missing_file_is_asked_for_once(server: FileServer, tmp_path: Path) -> None:
    sentence = refused(server.url + "/none.bin", tmp_path / "a.bin")
    assert "404" in sentence and "/none.bin" in sentence and f"place the file at {tmp_path / 'a.bin'} by hand" in sentence
    assert len(server.asked) == 1


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening, so that no other process gets the port
        taken.bind(("127.0.0.1", 0))
        sentence = refused(f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin", tmp_path / "a.bin")
    assert "from 127.0.0.1 (Connection refused)" in sentence and "check the connection" in sentence


def test_a_server_whose_certificate_is_unknown_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *names]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("asked again")))
    with serving({"/a.bin": BODY}, context) as server:
        sentence = refused(server.url + "/a.bin", tmp_path / "a.bin")
        assert "its certificate is not trusted: self-signed certificate; SSL_CERT_FILE names the certificates" in sentence
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert download(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256).read_bytes() == BODY


def test_a_server_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKET_TIMEOUT", 0.05)
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "timed out" in refused(f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin", tmp_path / "a.bin")


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://host/a", "a.bin", "", "http://", "http://[bad/a", "http://host:port/a", "http://h/a b"]
)
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    assert f"“{url}”" in refused(url, tmp_path / "a.bin")


def test_places_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.bin"):
        with pytest.raises(AsrDeployError, match="Cannot"):
            download(server.url + "/a.bin", path, sha256=SHA256, progress=False)
    (tmp_path / "a.bin.part").mkdir()
    assert "Cannot write" in refused(server.url + "/a.bin", tmp_path / "a.bin")


def archive_of(path: Path, files: dict[str, bytes], *, links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_archives_are_merged_into_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "sets"
    unpack_tar(archive_of(tmp_path / "a.tar.gz", {"top/README": b"old", "top/a/1": b"1"}), folder)
    unpack_tar(archive_of(tmp_path / "b.tar.gz", {"top/README": b"new", "top/b/2": b"2"}), folder)
    assert tree(folder) == {"top/README": b"new", "top/a/1": b"1", "top/b/2": b"2"}
    assert [path.name for path in folder.iterdir()] == ["top"]


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 10_000), cut=st.booleans())
def test_a_damaged_archive_changes_nothing(tmp_path_factory: pytest.TempPathFactory, position: int, cut: bool) -> None:
    base = tmp_path_factory.mktemp("tar")
    folder = base / "sets"
    archive = archive_of(base / "a.tar.gz", {"top/a": BODY[:20_000], "top/b": b"b"})
    data = bytearray(archive.read_bytes())
    head = data.index(b"\0", 10) + 1  # the gzip header contains the file name, whose bytes are not checked
    position = head + position * (len(data) - head - 1) // 10_000
    if cut:
        del data[position:]
    else:
        data[position] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(AsrDeployError, match=r"a\.tar\.gz is damaged"):
        unpack_tar(archive, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(AsrDeployError, match="damaged or not a tar archive"):
        unpack_tar(tmp_path / "a.tar.gz", tmp_path / "sets")
    with pytest.raises(AsrDeployError, match=r"Archive .*none\.tar\.gz does not exist"):
        unpack_tar(tmp_path / "none.tar.gz", tmp_path / "sets")


@pytest.mark.parametrize(
    "files, links",
    [
        ({"../evil": b"x"}, {}),
        ({"top/../../evil": b"x"}, {}),
        ({}, {"link": "/etc"}),
        ({}, {"link": "top"}),
        ({"good": b"x"}, {"good2": "../evil"}),
    ],
)
def test_members_that_escape(tmp_path: Path, files: dict[str, bytes], links: dict[str, str]) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", files, links=links)
    with pytest.raises(AsrDeployError, match=r"a\.tar\.gz is not safe to unpack"):
        unpack_tar(archive, tmp_path / "sets")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.tar.gz"]


def crafted(path: Path, content: bytes = b"", **fields: object) -> Path:
    """Write an archive of one file whose header has these fields."""
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT if "type" in fields else tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("top/a")
        member.size = len(content)
        for name, value in fields.items():
            setattr(member, name, value)
        tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"mtime": 2**70},
        {"pax_headers": {"GNU.sparse.size": "1e999"}},
        {"pax_headers": {"path": "a\0b"}},
        {"pax_headers": {"GNU.sparse.map": "x"}},
    ],
)
def test_absurd_headers_are_told_in_a_sentence(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(AsrDeployError, match=r"a\.tar\.gz is damaged or not a tar archive"):
        unpack_tar(crafted(tmp_path / "a.tar.gz", b"x", **fields), tmp_path / "sets")
    assert tree(tmp_path / "sets") == {}


def test_a_small_archive_of_large_files_is_not_unpacked(tmp_path: Path) -> None:
    archive = crafted(tmp_path / "a.tar.gz", bytes(module.SMALL + 10**7))
    with pytest.raises(AsrDeployError, match=r"a\.tar\.gz is not safe to unpack: its files have more than \d+ bytes"):
        unpack_tar(archive, tmp_path / "sets")
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}
    with pytest.raises(AsrDeployError, match=r"b\.tar\.gz is not safe to unpack"):
        unpack_tar(crafted(tmp_path / "b.tar.gz", b"x", pax_headers=sparse), tmp_path / "sets")
    assert tree(tmp_path / "sets") == {}


def test_absolute_members_stay_inside(tmp_path: Path) -> None:
    unpack_tar(archive_of(tmp_path / "a.tar.gz", {"/top/a": b"a"}), tmp_path / "sets")
    assert tree(tmp_path / "sets") == {"top/a": b"a"}


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "top").write_text("")
    with pytest.raises(AsrDeployError, match="Cannot write"):
        unpack_tar(archive_of(tmp_path / "a.tar.gz", {"top/a": b"a"}), tmp_path / "sets")
