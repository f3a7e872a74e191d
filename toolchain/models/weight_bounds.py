"""Bounds for the memory that a file of weights may need: a small file must not fill the memory of the machine."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from device_runner.errors import AsrDeployError

# torch.save does not compress. Weights that someone has compressed shrink to a half, and pruned ones to less.
PER_BYTE, SMALL = 20, 1 << 26  # a file may unpack to 20 times its size, and a small one to 64 MiB


def check_archive(path: Path) -> None:
    """Check how much a file of ``torch.save``, which is a zip archive, unpacks to. Other files pass.

    Raises:
        AsrDeployError: If it unpacks to far more than its size.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            total = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeError):  # torch says what is wrong with it
        return
    _check(path, total)


def check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Check the size of the tensors of a file. A view of a few stored numbers, such as ``torch.zeros(1).expand(10**9)``, is stored as such.

    Raises:
        AsrDeployError: If they have far more bytes than the file.
    """
    _check(path, sum(each.nbytes for each in state.values() if each.device.type == "cpu"))


def _check(path: Path, total: int) -> None:
    size = path.stat().st_size
    if total > PER_BYTE * size + SMALL:
        raise AsrDeployError(
            f"{path} has {size} bytes, but its tensors have {total}, which weights never shrink to. Get the file from its publisher again."
        )
