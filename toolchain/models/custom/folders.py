"""Find the model in a folder: the folder itself, or a snapshot of a Hub cache."""

import re
from collections.abc import Iterator
from pathlib import Path

from device_runner.errors import AsrDeployError, say_once
from toolchain.models.test_cases import CONFIG, HUB, SNAPSHOTS
from toolchain.models.weight_files import NAMED

BRANCH = Path("refs") / "main"
VOCABULARY = "vocab.json"  # trainers write the tokenizer's files into some checkpoints only
ADAPTER = "adapter_config.json"  # of the package peft


def model_folder(path: Path) -> Path:
    """Return the folder with the files of a model.

    Args:
        path: That folder, or a folder of a Hub cache (``models--ORGANISATION--NAME``), of which the snapshot of the main branch is taken.

    Raises:
        AsrDeployError: If the folder cannot be read, or contains no model or several.
    """
    try:
        next(path.iterdir(), None)
        found = (path / CONFIG).is_file()
    except OSError as error:
        raise AsrDeployError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    if found:
        return path
    if (path / SNAPSHOTS).is_dir():
        return _snapshot(path)
    if path.absolute().name == SNAPSHOTS and path.absolute().parent.name.startswith(HUB):
        return _snapshot(path.absolute().parent)
    inner = sorted(_inner(path), key=_in_numbers)
    if inner:
        several = len(inner) > 1
        shown = ", ".join(str(each.relative_to(path)) for each in inner[-NAMED:])
        more = f" and {len(inner) - NAMED} more" if len(inner) > NAMED else ""
        best = next((each for each in reversed(inner) if (each / VOCABULARY).is_file()), inner[-1])
        raise AsrDeployError(
            f"{path} is not a model, but contains {'models' if several else 'a model'}: {shown}{more}. "
            f"Give {'one of them, such as ' if several else ''}{best}."
        )
    if (path / ADAPTER).is_file():
        raise AsrDeployError(
            f"{path} is an adapter of the package peft, not a model. Merge it into its model with merge_and_unload(), "
            "save that with save_pretrained, and give its folder."
        )
    raise AsrDeployError(f"{path} is not a Hugging Face folder: it has no {CONFIG}. docs/custom-models.md lists the supported models.")


def name_of(path: Path) -> str:
    """Return the name of the model in a folder, with letters that a folder of results may have.

    Args:
        path: Folder of a model. A snapshot of a Hub cache gets the name of the model, not that of its commit.
    """
    path = path.resolve()
    cache = path.parent.parent.name
    name = cache.rpartition("--")[2] if path.parent.name == SNAPSHOTS and cache.startswith(HUB) else path.name
    return re.sub(r"[^\w.+-]+|^[^\w]+", "-", name).strip("-")


def _snapshot(path: Path) -> Path:
    """Return the snapshot of the main branch in a folder of a Hub cache, or its only snapshot."""
    found = sorted(each for each in (path / SNAPSHOTS).iterdir() if (each / CONFIG).is_file())
    commit = _commit(path)
    chosen = next((each for each in found if each.name == commit), found[0] if len(found) == 1 and commit is None else None)
    if chosen is not None:
        why = f", the commit in {BRANCH}" if commit else ""
        say_once(f"{path} is a folder of a Hub cache: the model is its snapshot {chosen.name}{why}.")
        return chosen
    if commit is not None:
        raise AsrDeployError(f"{path}: {BRANCH} names the snapshot {commit}, which has no {CONFIG}. Download the model again.")
    if not found:
        raise AsrDeployError(f"{path} is a folder of a Hub cache without a model in {SNAPSHOTS}. Download the model again.")
    names = ", ".join(each.name for each in found[:NAMED])
    raise AsrDeployError(f"{path} is a folder of a Hub cache with {len(found)} snapshots: {names}. Give one of them, such as {found[0]}.")


def _commit(path: Path) -> str | None:
    try:
        written = (path / BRANCH).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return written if re.fullmatch(r"[\w.-]{1,100}", written) else None


def _inner(path: Path) -> Iterator[Path]:
    """Yield the models in a folder, such as the checkpoints that a trainer wrote."""
    for each in path.iterdir():
        try:
            if each.is_dir() and ((each / CONFIG).is_file() or (each.name.startswith(HUB) and (each / SNAPSHOTS).is_dir())):
                yield each
        except PermissionError:
            continue


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts checkpoint-500 before checkpoint-1000."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
