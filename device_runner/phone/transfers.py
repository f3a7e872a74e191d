"""Transfer files between this machine and a device, and compare their sha256 on both sides, because adb has no checksum."""

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from device_runner.contract import Result, read_result
from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import sha256_of
from device_runner.phone.adb import SLOWEST_LINK, CommandFailed, DeviceLost, Phone, quoted
from device_runner.phone.adb_output import parse_free_bytes

ROOT = "/data/local/tmp/asrdeploy"  # adb's shell can write here, and apps can read
SPARE_BYTES = 50_000_000  # to leave free on the device
TRANSFERS = 5  # attempts for a file that arrives damaged
BATCH_FILES, BATCH_BYTES = 250, 64_000_000  # per adb call; this many file names fit into one command


def said(phone: Phone, command: str, *, seconds: float = 30.0) -> str:
    """Run a command in the device's shell and return its output, after comparing it with its sha256 on the device.

    Args:
        phone: Device to use.
        command: Shell command; see ``Phone.shell``.
        seconds: Time limit in seconds.

    Raises:
        DeviceLost: If the connection is lost.
        CommandFailed: If the exit code is not 0.
        AsrDeployError: If the output arrives damaged ``TRANSFERS`` times.
    """
    # The output goes through a file, because it may be too long for an argument of printf.
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
    raise DeviceFailed(f"The output of a command on {phone.serial} arrived damaged {TRANSFERS} times. Try another cable or port.")


def exists(phone: Phone, path: str) -> bool:
    """Tell whether a path exists on the device."""
    return said(phone, f"[ -e {quoted(path)} ] && echo yes || echo no").strip() == "yes"


def require_space(phone: Phone, need: int) -> None:
    """Raise AsrDeployError if the device has less than ``need`` plus ``SPARE_BYTES`` bytes free."""
    free = parse_free_bytes(said(phone, quoted("df", "-k", ROOT)), ROOT)
    if need + SPARE_BYTES > free:
        raise AsrDeployError(
            f"{phone.serial} has {free / 1e6:,.0f} MB free in {ROOT}, but {(need + SPARE_BYTES) / 1e6:,.0f} MB are required. "
            f"Free some space, or remove the files of earlier jobs with `asrdeploy devices --clean {phone.serial}`."
        )


def push_checked(phone: Phone, local: Path, remote: str, digest: str) -> None:
    """Push a file, and give it its final name on the device only after its sha256 was compared there.

    Raises:
        DeviceLost: If the connection is lost. The call can be repeated.
        AsrDeployError: If the device refuses the file, or it arrives damaged ``TRANSFERS`` times.
    """
    part = f"{remote}.part"
    for _ in range(TRANSFERS):
        with _no_part_left(phone, part):
            phone.push(local, part)
            if _digest_of(phone, part) == digest:
                phone.shell(f"{quoted('chmod', '644', part)} && {quoted('mv', part, remote)}")
                return
    raise DeviceFailed(f"{local} arrived damaged on {phone.serial} {TRANSFERS} times. Try another cable or port.")


def batches_of(files: Mapping[str, Path]) -> list[dict[str, Path]]:
    """Split files into batches for one adb call each, because one call per recording would take longer than the transfer itself."""
    batches: list[dict[str, Path]] = []
    left = 0
    for digest, path in files.items():
        size = path.stat().st_size
        if not batches or size > left or len(batches[-1]) >= BATCH_FILES:
            batches.append({})
            left = BATCH_BYTES
        batches[-1][digest] = path
        left -= size
    return batches


def push_batch(phone: Phone, batch: Mapping[str, Path], folder: str) -> None:
    """Push files into a folder of the device. Each is named after its sha256 once that was compared on the device.

    Raises:
        DeviceLost: If the connection is lost. The call can be repeated.
        AsrDeployError: If the device refuses the files, or one arrives damaged ``TRANSFERS`` times.
    """
    part = f"{folder}.part"
    left = dict(batch)
    for _ in range(TRANSFERS):
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as name:
            for digest, path in left.items():
                _link(path.resolve(), Path(name) / digest)
            phone.shell(quoted("rm", "-rf", part))  # adb would push into an existing folder as a subfolder
            with _no_part_left(phone, part):
                phone.push(Path(name), part, seconds=30 + sum(path.stat().st_size for path in left.values()) / SLOWEST_LINK)
        listed = said(phone, f"cd {quoted(part)} && chmod 644 * && sha256sum *", seconds=300)
        whole = [
            digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", listed, re.MULTILINE) if digest == name and digest in left
        ]
        if whole:
            phone.shell(f"cd {quoted(part)} && {quoted('mv', *whole, folder)}")
        left = {digest: path for digest, path in left.items() if digest not in whole}
        if not left:
            phone.shell(quoted("rm", "-rf", part))
            return
    raise DeviceFailed(f"{len(left)} files arrived damaged on {phone.serial} {TRANSFERS} times. Try another cable or port.")


@contextlib.contextmanager
def _no_part_left(phone: Phone, part: str) -> Iterator[None]:
    """Remove an incomplete file that the device refused. After a lost connection it stays, because the step is repeated."""
    try:
        yield
    except DeviceLost:
        raise
    except AsrDeployError:
        with contextlib.suppress(CommandFailed):  # on a full disk, an incomplete file would block everything else
            phone.shell(quoted("rm", "-rf", part))
        raise


def _link(path: Path, name: Path) -> None:
    """Hard-link a file, or copy it across file systems. adb would push a symbolic link as a link."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)


def pull_result(phone: Phone, remote: str) -> Result:
    """Pull a result file, and compare it with its sha256 on the device.

    Raises:
        DeviceLost: If the connection is lost. The call can be repeated.
        AsrDeployError: If there is no result, it is not valid, or it arrives damaged ``TRANSFERS`` times.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
        local = Path(folder) / "result.json"
        for _ in range(TRANSFERS):
            phone.pull(remote, local)
            if sha256_of(local) == _digest_of(phone, remote):
                return read_result(local)
    raise DeviceFailed(f"The result {remote} arrived damaged from {phone.serial} {TRANSFERS} times. Try another cable or port.")


def _digest_of(phone: Phone, remote: str) -> str:
    size = said(phone, quoted("stat", "-c", "%s", remote)).strip()
    seconds = 30 + int(size) / 5e6 if size.isdecimal() else 30  # far below the roughly 50 MB/s that slow phones hash
    words = re.findall(r"[0-9a-f]{64}", said(phone, quoted("sha256sum", remote), seconds=seconds))
    return words[0] if words else ""
