"""What a file is that cannot be read as weights."""

import json
import re
import zipfile
from pathlib import Path

from device_runner.not_audio import ANNEX_POINTER, ARCHIVES, EMPTY_ZIP, LFS_POINTER

SAVE_TENSORS = "Save the tensors alone with torch.save(model.state_dict(), PATH)"
AGAIN = "Copy or download it again"
_UNPACK = "Unpack it, and give the weights in it"
_HEAD = 8  # bytes of the length at the beginning of a .safetensors file
_LONGEST_HEADER = 100_000_000  # bytes, of safetensors

# Offset, first bytes, what the file is, and what to do.
_SIGNATURES = (
    (0, LFS_POINTER, "a Git LFS pointer", "Run `git lfs pull` in its repository to fetch the weights"),
    (0, ANNEX_POINTER, "a git-annex pointer", "Run `git annex get` in its repository to fetch the weights"),
    *((offset, start, what, _UNPACK) for offset, start, what in ARCHIVES),
    (0, EMPTY_ZIP, "an empty ZIP archive", AGAIN),
    (0, b"\x89HDF", "an HDF5 file, as TensorFlow and Keras write it", "Give the weights for PyTorch"),
    (0, b"GGUF", "a GGUF file", "Give the weights for PyTorch"),
    (4, b"TFL3", "a TensorFlow Lite model", "Give the weights for PyTorch"),
    (0, b"\x93NUMPY", "a NumPy array", SAVE_TENSORS),
    (0, b"ASRB", "a bitstream", "Reconstruct its weights with `asrdeploy decompress`"),
)


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as .safetensors files do, whatever its name and even if it is cut off."""
    with path.open("rb") as file:
        start = file.read(_HEAD + 1)
    return start[_HEAD:] == b"{" and 2 <= int.from_bytes(start[:_HEAD], "little") <= _LONGEST_HEADER


def why_not_weights(path: Path, error: Exception) -> str:
    """Return what a file is that cannot be read as weights, and what to do, as the end of a sentence without its full stop.

    Args:
        path: The file.
        error: Error of the library that could not read it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as unread:  # other errors of this type come from damaged content
        return f"{unread.strerror}. Check the file and its permissions"
    if not start:
        return f"it is empty (0 bytes). {AGAIN}"
    for offset, signature, what, remedy in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return f"it is {what}. {remedy}"
    if is_safetensors(path):
        return _why_not_safetensors(path)
    if start.startswith(b"PK\x03\x04"):
        return _why_not_zip(path, error)
    return _why_not_text(start) or _why_not_pickle(error)


def text_start(data: bytes) -> str | None:
    """Return the beginning of a text without white space and in lower case, or None if the data is not text.

    Args:
        data: First bytes of a file.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:  # otherwise the limit cut a character
            return None
        text = data[: error.start].decode("utf-8-sig", errors="ignore")
    if not all(each.isprintable() or each.isspace() for each in text):
        return None
    return text.strip().lower()


def is_web_page(text: str) -> bool:
    """Return whether a text, as ``text_start`` returns it, begins as HTML does."""
    return text.startswith(("<!doctype html", "<html", "<head", "<body"))


def _why_not_safetensors(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEAD), "little")
        header = file.read(length)
    try:
        ends = [each["data_offsets"][1] for name, each in json.loads(header).items() if name != "__metadata__"]
        whole = _HEAD + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        whole = _HEAD + length
        if size >= whole:
            return f"the header of this .safetensors file is damaged. {AGAIN}"
    if isinstance(whole, int) and size < whole:
        return f"this .safetensors file is cut off after {size:,} of {whole:,} bytes. {AGAIN}"
    return f"this .safetensors file is damaged. {AGAIN}"


def _why_not_zip(path: Path, error: Exception) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"it is cut off or damaged. {AGAIN}"
    if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in names):
        return f"it is a TorchScript program. {SAVE_TENSORS}"
    if not any(re.fullmatch(r"([^/]+/)?data\.pkl", name) for name in names):
        return f"it is a ZIP archive. {_UNPACK}"
    return _why_not_pickle(error)


def _why_not_text(start: bytes) -> str | None:
    text = text_start(start)
    if text is None:
        return None
    if is_web_page(text):
        return "it is a web page. Download the weights again, with a link to the file itself"
    kind = "a JSON file" if text.startswith(("{", "[")) else "a text file"
    return f"it is {kind}. Give a .safetensors file, or a file of torch.save"


def _why_not_pickle(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is not None:
        return (
            f"it contains Python objects ({found[1]}) besides tensors, and reading those could run code from the file. "
            f"{SAVE_TENSORS} where the model was trained"
        )
    return "it is cut off, damaged, or neither a .safetensors file nor a file of torch.save with tensors only"
