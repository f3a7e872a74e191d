"""Files between this machine and a device, compared by sha256 on both sides: adb has no checksum of its own."""

import contextlib
import re
import tempfile
from pathlib import Path

from device_runner.adb import CommandFailed, DeviceLost, Phone, quoted
from device_runner.contract import Result, read_result
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of

ROOT = "/data/local/tmp/asrdeploy"  # the shell may write there, apps may read
SPARE_BYTES = 50_000_000  # left free on the device
TRANSFERS = 5  # of one file that arrives damaged


def exists(phone: Phone, path: str) -> bool:
    """Tell whether a path exists on the device."""
    return phone.shell(f"[ -e {quoted(path)} ] && echo yes || echo no").strip() == "yes"


def require_space(phone: Phone, need: int) -> None:
    """Raise AsrDeployError where the device has not so many bytes free, and some to spare."""
    free = phone.free_bytes(ROOT)
    if need + SPARE_BYTES > free:
        raise AsrDeployError(
            f"{phone.serial} has {free / 1e6:,.0f} MB free in {ROOT}, and {(need + SPARE_BYTES) / 1e6:,.0f} MB are needed: make room, "
            f"or remove what earlier jobs left with `asrdeploy devices --clean {phone.serial}`."
        )


def push_checked(phone: Phone, local: Path, remote: str, digest: str) -> None:
    """Push a file; it has its name on the device only once its sha256 was compared there.

    Raises:
        DeviceLost: the connection is gone; repeat.
        AsrDeployError: the device refuses it, or it arrives damaged again and again.
    """
    part = f"{remote}.part"
    for _ in range(TRANSFERS):
        try:
            phone.push(local, part)
            if _digest_of(phone, part) == digest:
                phone.shell(f"{quoted('chmod', '644', part)} && {quoted('mv', part, remote)}")
                return
        except DeviceLost:
            raise
        except AsrDeployError:
            with contextlib.suppress(CommandFailed):  # a part on a full disk is in the way of everything else
                phone.shell(quoted("rm", "-f", part))
            raise
    raise AsrDeployError(f"{local} arrived damaged on {phone.serial} {TRANSFERS} times; try another cable or port.")


def pull_result(phone: Phone, remote: str) -> Result:
    """Pull a result, compared with its sha256 on the device.

    Raises:
        DeviceLost: the connection is gone; repeat.
        AsrDeployError: there is none, it arrives damaged again and again, or it is no result.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
        local = Path(folder) / "result.json"
        for _ in range(TRANSFERS):
            phone.pull(remote, local)
            if sha256_of(local) == _digest_of(phone, remote):
                return read_result(local)
    raise AsrDeployError(f"The result {remote} arrived damaged from {phone.serial} {TRANSFERS} times; try another cable or port.")


def _digest_of(phone: Phone, remote: str) -> str:
    size = phone.shell(quoted("stat", "-c", "%s", remote)).strip()
    seconds = 30 + int(size) / 5e6 if size.isdecimal() else 30  # slow phones hash some 50 MB a second
    words = re.findall(r"[0-9a-f]{64}", phone.shell(quoted("sha256sum", remote), seconds=seconds))
    return words[0] if words else ""
