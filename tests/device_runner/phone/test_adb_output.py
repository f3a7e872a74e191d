"""Test the parsers of the output of adb and of programs on a phone."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from device_runner.phone.adb_output import (
    EXITED,
    Listed,
    complaint,
    parse_devices,
    parse_free_bytes,
    parse_properties,
    refusal,
    split_exit,
    verdict,
)

NONCE = "00ff" * 4
MARK = f"{EXITED}:{NONCE}:"
NEAR_MARKS = [f"{MARK}$?:", MARK, f"{MARK}12", f"{EXITED}:{'0' * 16}:5:\n", f"{MARK}%d:\n", "\n", "\r\n"]
outputs = st.lists(st.binary(max_size=20) | st.sampled_from([each.encode() for each in NEAR_MARKS]), max_size=8).map(b"".join)


@given(output=outputs, code=st.integers(0, 255), cut=st.integers(1, 40), behind=st.binary(max_size=5))
def test_exit_codes_are_split_off(output: bytes, code: int, cut: int, behind: bytes) -> None:
    mark = f"{MARK}{code}:\n".encode()
    assert split_exit(output + mark, NONCE) == (code, output)
    if EXITED.encode() not in behind and not behind.startswith(b"\n"):
        assert split_exit(output + mark + behind, NONCE) == (code, output + behind)
    without_end = (output + b" " + mark)[: -min(cut, len(mark) - 1) - 1]
    assume(not re.search(rf"{MARK}\d{{1,3}}:".encode(), output))  # parts of marks that make a whole one
    assert split_exit(without_end, NONCE) is None


names = st.text("abcdefgh.ro_-0123456789", min_size=1, max_size=30)
lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
values = st.lists(lines.filter(lambda line: not line.startswith("[")), min_size=1, max_size=3).map("\n".join)


@given(properties=st.dictionaries(names, values))
def test_properties_are_read(properties: dict[str, str]) -> None:
    printed = "".join(f"[{name}]: [{value}]\n" for name, value in properties.items())
    assert parse_properties(printed) == properties
    assert parse_properties(printed.replace("\n", "\r\n")) == properties


@given(
    free=st.integers(0, 10**12),
    used=st.integers(0, 10**12),
    name=st.sampled_from(["/dev/block/dm-8", "tmpfs", "/dev/fuse", "a name of 3 words", "/dev/mapper/" + "x" * 60]),
    wrapped=st.booleans(),
    percent=st.sampled_from(["7%", "100%", "-"]),
    mounted=st.sampled_from(["/data", "/storage/emulated", "/mnt/a folder 1"]),
    header=st.sampled_from(
        ["Filesystem     1K-blocks    Used Available Use% Mounted on", "Filesystem 1024-blocks Used Available Capacity Mounted on"]
    ),
)
def test_free_space_is_read(free: int, used: int, name: str, wrapped: bool, percent: str, mounted: str, header: str) -> None:
    row = f"{name}{chr(10) if wrapped else ''} {used + free:>10} {used:>9} {free:>9} {percent} {mounted}\n"
    assert parse_free_bytes(f"{header}\n{row}", "/data") == 1024 * free


@pytest.mark.parametrize("text", ["", "df: x\n", "Filesystem Size Used Free Blksize\n/data 12.0G 1.2G 10.8G 4096\n"])
def test_free_space_of_another_form(text: str) -> None:
    with pytest.raises(AsrDeployError, match="df -k prints"):
        parse_free_bytes(text, "/data")


def test_lists_of_devices() -> None:
    printed = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R58M45        device usb:1-4 product:a52 model:SM_A525F device:a52q transport_id:3
127.0.0.1:5   offline transport_id:4
0a388e93      no permissions (user in plugdev group; are your udev rules wrong?); see [http://a.example/device.html] usb:1-1
XYZ\tunauthorized

"""
    phone, offline, forbidden, unauthorized = parse_devices(printed)
    assert phone == Listed("R58M45", "device", {"usb": "1-4", "product": "a52", "model": "SM_A525F", "device": "a52q", "transport_id": "3"})
    assert offline == Listed("127.0.0.1:5", "offline", {"transport_id": "4"})
    assert forbidden.state.startswith("no permissions (user") and forbidden.details == {"usb": "1-1"}
    assert unauthorized == Listed("XYZ", "unauthorized")


@given(
    text=st.text()
    | st.lists(st.sampled_from(["adb: error: ", "Failure", " [", "]", "Success", "\n", "remote ", "[a]: [", "/", " 1"])).map("".join)
)
def test_whatever_is_printed_is_read(text: str) -> None:
    assert "\n" not in complaint(text) + (verdict(text) or "") + (refusal(text) or "")
    parse_devices(f"List of devices attached\n{text}")
    parse_properties(text)
