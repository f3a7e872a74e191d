"""Files between this machine and a device, compared by sha256 on both sides: adb has no checksum of its own."""

import contextlib
import hashlib
import re
import tempfile
from pathlib import Path

from device_runner.adb import CommandFailed, DeviceLost, Phone, quoted
from device_runner.adb_text import parse_free_bytes
from device_runner.contract import Result, read_result
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of

ROOT = "/data/local/tmp/asrdeploy"  # the shell may write there, apps may read
SPARE_BYTES = 50_000_000  # left free on the device
TRANSFERS = 5  # of one file that arrives damaged


def said(phone: Phone, command: str, *, seconds: float = 30.0) -> str:
    """Run a command in the device's shell and return what it printed, compared with its sha256 on the device.

    Args:
        phone: the device.
        command: as ``Phone.shell`` takes it.
        seconds: the limit.

    Raises:
        DeviceLost: the connection is gone.
        CommandFailed: the exit code is not 0.
        AsrDeployError: it arrives damaged again and again.
    """
    # By a file: an argument of printf may be too long for the device.
    script = (
        f"mkdir -p {ROOT} && f={ROOT}/said.$$ || exit 1\n( {command}\n) >$f 2>&1; code=$?\n"
        "cat $f; echo; sha256sum <$f; rm -f $f; exit $code"
    )
    for _ in range(TRANSFERS):
        try:
            output, failed = phone.shell(script, seconds=seconds), None
        except CommandFailed as error:
            output, failed = error.output, error
        text, _, digest = output.removesuffix("\n").rpartition("\n")
        if hashlib.sha256(text.encode()).hexdigest() == digest.split(" ")[0]:
            if failed is not None:
                raise CommandFailed(phone.serial, command, failed.code, text)
            return text
    raise AsrDeployError(f"{phone.serial} answers with damaged text, {TRANSFERS} times in turn; try another cable or port.")


def exists(phone: Phone, path: str) -> bool:
    """Tell whether a path exists on the device."""
    return said(phone, f"[ -e {quoted(path)} ] && echo yes || echo no").strip() == "yes"


def require_space(phone: Phone, need: int) -> None:
    """Raise AsrDeployError where the device has not so many bytes free, and some to spare."""
    free = parse_free_bytes(said(phone, quoted("df", "-k", ROOT)), ROOT)
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
    size = said(phone, quoted("stat", "-c", "%s", remote)).strip()
    seconds = 30 + int(size) / 5e6 if size.isdecimal() else 30  # slow phones hash some 50 MB a second
    words = re.findall(r"[0-9a-f]{64}", said(phone, quoted("sha256sum", remote), seconds=seconds))
    return words[0] if words else ""
