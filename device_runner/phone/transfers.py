"""Files between this machine and a device, compared by sha256 on both sides: adb has no checksum of its own."""

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

ROOT = "/data/local/tmp/asrdeploy"  # the shell may write there, apps may read
SPARE_BYTES = 50_000_000  # left free on the device
TRANSFERS = 5  # of one file that arrives damaged
BATCH_FILES, BATCH_BYTES = 250, 64_000_000  # of one call of adb; the names of the files fit into one command


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
    raise DeviceFailed(f"{phone.serial} answers with damaged text, {TRANSFERS} times in turn; try another cable or port.")


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
        with _no_part_left(phone, part):
            phone.push(local, part)
            if _digest_of(phone, part) == digest:
                phone.shell(f"{quoted('chmod', '644', part)} && {quoted('mv', part, remote)}")
                return
    raise DeviceFailed(f"{local} arrived damaged on {phone.serial} {TRANSFERS} times; try another cable or port.")


def batches_of(files: Mapping[str, Path]) -> list[dict[str, Path]]:
    """Split files into batches that one transfer moves: a call of adb for every recording would take longer than the recordings."""
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
    """Push files into a folder of the device, each under its sha256, which is compared there before it gets that name.

    Raises:
        DeviceLost: the connection is gone; repeat.
        AsrDeployError: the device refuses them, or one arrives damaged again and again.
    """
    part = f"{folder}.part"
    left = dict(batch)
    for _ in range(TRANSFERS):
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as name:
            for digest, path in left.items():
                _link(path.resolve(), Path(name) / digest)
            phone.shell(quoted("rm", "-rf", part))  # into a folder that is there adb would put another one
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
    raise DeviceFailed(f"{len(left)} files arrived damaged on {phone.serial} {TRANSFERS} times; try another cable or port.")


@contextlib.contextmanager
def _no_part_left(phone: Phone, part: str) -> Iterator[None]:
    """Remove what was pushed of something that the device refuses; after a lost connection it stays, and the step is repeated."""
    try:
        yield
    except DeviceLost:
        raise
    except AsrDeployError:
        with contextlib.suppress(CommandFailed):  # a part on a full disk is in the way of everything else
            phone.shell(quoted("rm", "-rf", part))
        raise


def _link(path: Path, name: Path) -> None:
    """Give a file another name; a copy where the file systems differ. A symbolic link would be pushed as one."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)


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
    raise DeviceFailed(f"The result {remote} arrived damaged from {phone.serial} {TRANSFERS} times; try another cable or port.")


def _digest_of(phone: Phone, remote: str) -> str:
    size = said(phone, quoted("stat", "-c", "%s", remote)).strip()
    seconds = 30 + int(size) / 5e6 if size.isdecimal() else 30  # slow phones hash some 50 MB a second
    words = re.findall(r"[0-9a-f]{64}", said(phone, quoted("sha256sum", remote), seconds=seconds))
    return words[0] if words else ""
