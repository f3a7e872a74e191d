"""Read the JSON and TOML files of custom models, and say what lies in their place."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_runner import documents
from device_runner.errors import AsrDeployError
from toolchain.models.not_weights import is_web_page, text_start


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
    _check_place(path)
    found = documents.read_json(path, "file of the model")
    if not isinstance(found, dict):
        raise AsrDeployError(f"{path} does not contain a JSON object. Save the model again with save_pretrained of transformers.")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file.

    Args:
        path: File that describes a checkpoint.

    Raises:
        AsrDeployError: If the file is missing, or is not TOML.
    """
    if not path.exists():
        raise AsrDeployError(
            f"{path} does not exist. It must give the checkpoint's architecture, labels and sample rate; see docs/custom-models.md."
        )
    if path.is_file():
        _check_place(path)
    return documents.read_toml(path, "description of a model")


def _check_place(path: Path) -> None:
    """Refuse a placeholder or a web page in the place of a file."""
    try:
        with path.open("rb") as file:
            start = text_start(file.read(4096)) or ""
    except OSError as error:
        raise AsrDeployError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    if start.startswith("version https://git-lfs"):
        raise AsrDeployError(f"{path} is a Git LFS pointer, not the file. Run `git lfs pull` in its repository.")
    if is_web_page(start):
        raise AsrDeployError(f"{path} is a web page. Download it again, with a link to the file itself.")


def _alike(path: Path) -> Iterator[Path]:
    """Yield the files of this name in folders beside that of ``path`` whose names differ in numbers only: other steps of one training."""
    own = path.parent.absolute()
    step = re.escape(own.name)
    step = re.sub(r"\d+", r"\\d+", step)
    if step != re.escape(own.name):
        yield from (each / path.name for each in own.parent.iterdir() if re.fullmatch(step, each.name) and (each / path.name).is_file())


def _remedy(path: Path) -> str:
    above = path.parent.absolute().parent / path.name
    if above.is_file():
        return f"Copy {above} and the other files of the tokenizer there."
    if alike := sorted(_alike(path)):
        return f"Copy {alike[-1]} and the other files of the tokenizer there."
    return "Give a Hugging Face folder of a CTC model with its tokenizer."
