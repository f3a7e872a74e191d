"""Reading JSON and TOML files that other people and programs wrote."""

import codecs
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from device_runner.errors import AsrDeployError
from device_runner.files import file_bytes, shown

LARGEST_JSON, LARGEST_TOML = 1 << 24, 1 << 20  # bytes; a vocabulary of 65,536 tokens has about 2 MB
# Byte order marks, which Windows programs write. Those of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, kind: str, *, largest: int = LARGEST_JSON) -> Any:
    """Read a JSON file in UTF-8, or in the encoding that its byte order mark names.

    Args:
        path: File to read.
        kind: What the file should be, for messages, such as ``manifest``.
        largest: Largest accepted size in bytes.

    Returns:
        The value in the file.

    Raises:
        AsrDeployError: The file is missing, cannot be read, is too large, or is not valid JSON: a syntax error, values nested too
            deeply, a number with thousands of digits, half of a surrogate pair in a string, or bytes that are not text.
    """
    data = file_bytes(path, kind, largest=largest)
    try:
        text = decoded(data)
        found = json.loads(text)
        if _ESCAPED_SURROGATE.search(text):  # a pair is fine; half of one cannot be written to any file
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise AsrDeployError(f"{shown(path)} is not valid JSON: a string contains half of a surrogate pair. Write it again.") from error
    except (ValueError, RecursionError) as error:
        raise AsrDeployError(f"{shown(path)} is not valid JSON: {_reason(error)}.") from error
    return found


def read_toml(path: Path, kind: str, *, largest: int = LARGEST_TOML) -> dict[str, Any]:
    """Read a TOML file in UTF-8, or in the encoding that its byte order mark names.

    Args:
        path: File to read.
        kind: What the file should be, for messages, such as ``sweep file``.
        largest: Largest accepted size in bytes.

    Returns:
        The table in the file.

    Raises:
        AsrDeployError: The file is missing, cannot be read, is too large, or is not valid TOML: a syntax error, values nested too
            deeply, a number with thousands of digits, or bytes that are not text.
    """
    data = file_bytes(path, kind, largest=largest)
    try:
        return tomllib.loads(decoded(data))
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise AsrDeployError(f"{shown(path)} is not TOML: {_reason(error)}.") from error


def decoded(data: bytes) -> str:
    """Return a text in UTF-8, or in the encoding that its byte order mark names.

    Raises:
        UnicodeDecodeError: The data is not such a text.
    """
    return data.decode(next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8"))


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"line {line} is not text in {error.encoding.upper()}; save the file as UTF-8"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if "integer string conversion" in str(error):
        return "a number has too many digits"
    return str(error).rstrip(".")
