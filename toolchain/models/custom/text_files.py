"""Read the JSON and TOML files of custom models, in any Unicode encoding."""

import codecs
import json
from pathlib import Path
from typing import Any

from device_runner.errors import AsrDeployError
from toolchain.models.not_weights import is_web_page, text_start

# The longer marks of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(data: bytes) -> str:
    """Return the text of a file in UTF-8, or in the encoding that its byte order mark names.

    Raises:
        UnicodeDecodeError: If the data is not such a text.
    """
    return data.decode(next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8"))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        AsrDeployError: If it may not be read, or is a placeholder or a web page instead.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AsrDeployError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    start = text_start(data[:4096]) or ""
    if start.startswith("version https://git-lfs"):
        raise AsrDeployError(f"{path} is a Git LFS pointer, not the file. Run `git lfs pull` in its repository.")
    if is_web_page(start):
        raise AsrDeployError(f"{path} is a web page. Download it again, with a link to the file itself.")
    return data


def read_json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if an optional file does not exist.

    Args:
        path: File of a Hugging Face folder.
        needed: Whether the file must exist.

    Raises:
        AsrDeployError: If the file is missing, or does not contain a JSON object.
    """
    if not path.is_file():
        if needed:
            raise AsrDeployError(f"{path.parent} has no {path.name}. {_remedy(path)}")
        return {}
    data = read_bytes(path)
    try:
        found = json.loads(data if data.startswith(codecs.BOM_UTF8) else decoded(data))
    except (ValueError, RecursionError) as error:
        raise AsrDeployError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise AsrDeployError(f"{path} does not contain a JSON object. Save the model again with save_pretrained of transformers.")
    return found


def _remedy(path: Path) -> str:
    above = path.parent.absolute().parent / path.name
    if above.is_file():
        return f"Copy {above} and the other files of the tokenizer there."
    return "Give a Hugging Face folder of a CTC model with its tokenizer."
