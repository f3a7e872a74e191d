"""Download models from the Hugging Face Hub by name, with the package huggingface_hub."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_runner.errors import AsrDeployError, printable, say_once
from device_runner.files import sha256_of
from toolchain.models.custom.hugging_face import FILES, INDEX, language_of, read_folder
from toolchain.models.custom.languages import adapter_file
from toolchain.models.test_cases import CONFIG, HUB_NAME, HUB_PREFIX, hub_cache

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

MAIN = "main"
COMMIT = re.compile("[0-9a-f]{40}")
SOUND = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json")
SMALL = (CONFIG, "vocab.json", *TOKENIZER, "added_tokens.json", *SOUND)
ANSWER = 10  # seconds


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub.

    Args:
        repository: Organisation and name.
        revision: Branch, tag or commit.
        language: Language of a model of several; None for its default.
    """

    repository: str
    revision: str = MAIN
    language: str | None = None

    @property
    def shown(self) -> str:
        """Name and revision as a user writes them, without the language."""
        return self.repository if self.revision == MAIN else f"{self.repository}@{self.revision}"


def hub_model(name: str) -> HubModel:
    """Return the model that ``ORGANISATION/NAME`` means, with ``hf:`` before, ``@REVISION`` and ``:LANGUAGE`` after it if given.

    Raises:
        AsrDeployError: If the name is not of this form.
    """
    found = HUB_NAME.fullmatch(name)
    if found is None:
        raise _no_name(name)
    return HubModel(found["repository"], found["revision"] or MAIN, found["language"])


def _no_name(name: str) -> AsrDeployError:
    return AsrDeployError(
        f"“{printable(name[:200])}” is not a name on the Hub. Write {HUB_PREFIX}ORGANISATION/NAME, …@REVISION or …:LANGUAGE."
    )


def fetch(model: HubModel) -> tuple[Path, str]:
    """Return the folder with a model's files in the Hub's cache, and its commit. Missing files are downloaded, never code.

    Nothing is asked of the Hub if the revision is a commit that the cache has. If the Hub cannot be reached, a warning says which commit of
    the cache is taken. ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_TOKEN`` work as everywhere.

    Raises:
        AsrDeployError: If the model, its revision or its language does not exist or may not be read, is not supported, or the Hub cannot be
            reached.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported
    from huggingface_hub import constants, errors

    failures = (errors.HTTPError, errors.EntryNotFoundError, errors.XetDownloadError, OSError, ValueError, RuntimeError)
    try:
        if constants.is_offline_mode():
            return _cached(model)
        if COMMIT.fullmatch(model.revision) and (there := _if_cached(model)) is not None:
            return there
        try:
            found = _described(model)
        except errors.HfHubHTTPError:
            raise
        except errors.HTTPError as error:  # no answer
            there = _if_cached(model)
            if there is None:
                raise
            say_once(f"{constants.ENDPOINT} does not answer ({_reason(error)}): {model.shown} is commit {there[1]} of the cache.")
            return there
        return _downloaded(model, found)
    except AsrDeployError:
        raise
    except failures as error:
        raise _refusal(model, error) from error


def _described(model: HubModel) -> "ModelInfo":
    from huggingface_hub import HfApi

    # One request that is not repeated: without a network, the answer comes at once.
    return HfApi().model_info(model.repository, revision=model.revision, timeout=ANSWER, files_metadata=True)


def _downloaded(model: HubModel, found: "ModelInfo") -> tuple[Path, str]:
    from huggingface_hub import hf_hub_download

    digests = {each.rfilename: each.lfs.sha256 if each.lfs else None for each in found.siblings or ()}
    if CONFIG not in digests:
        raise AsrDeployError(f"{model.shown} on the Hub has no {CONFIG}, so it is not a model of transformers. Choose another model.")

    commit = str(found.sha)

    def get(name: str, revision: str = commit) -> Path:
        return Path(hf_hub_download(model.repository, name, revision=revision))

    # By the name of its revision, so that the cache knows the commit when there is no network.
    folder = get(CONFIG, model.revision).parent
    if folder.name != commit:
        folder = get(CONFIG).parent  # the branch has moved meanwhile

    def get_weights(names: Iterable[str], *, new: bool = False) -> None:
        for name in names:
            new = new or not (folder / name).exists()
            path = get(name)
            digest = digests.get(name)
            if new and digest and sha256_of(path) != digest:  # the library checks only the length
                path.resolve().unlink()
                path.unlink(missing_ok=True)
                raise AsrDeployError(f"{name} of {model.shown} arrived damaged (its SHA-256 is not the Hub's). Repeat the command.")

    for name in SMALL:
        if name in digests:
            get(name)
    spoken = language_of(folder, model.shown, model.language) if "vocab.json" in digests else None
    adapter = None if spoken is None else adapter_file(f"{model.shown} on the Hub", digests, spoken.tokenizer, spoken.language)
    if adapter is not None:
        get_weights([adapter])
    read_folder(folder, model.language)  # a model that is not supported is refused before its weights are downloaded
    first = _first_weights(digests)
    if first is None:
        raise AsrDeployError(f"{model.shown} on the Hub has neither {' nor '.join(FILES)}. Choose a model with PyTorch weights.")
    new = not (folder / first).exists()
    get(first)
    get_weights((first, *_shards(folder / first)), new=new)
    return folder, commit


def _if_cached(model: HubModel) -> tuple[Path, str] | None:
    """Return the folder in the cache and its commit; None if it is not there or not complete."""
    from huggingface_hub import errors

    try:
        folder, commit = _cached(model)
    except (AsrDeployError, errors.LocalEntryNotFoundError):
        return None
    return (folder, commit) if any((folder / each).exists() for each in TOKENIZER) else None


def _cached(model: HubModel) -> tuple[Path, str]:
    """Return the folder in the cache, if it is complete."""
    from huggingface_hub import hf_hub_download

    folder = Path(hf_hub_download(model.repository, CONFIG, revision=model.revision, local_files_only=True)).parent
    first = _first_weights(each.name for each in folder.iterdir())
    lacking = [] if first is None else [name for name in _shards(folder / first) if not (folder / name).exists()]
    if not any((folder / name).exists() for name in SOUND):
        lacking.append(SOUND[0])
    if first is None or lacking or not (folder / "vocab.json").exists():
        raise _incomplete(model, lacking[0] if lacking else "vocab.json" if first else FILES[0])
    spoken = language_of(folder, model.shown, model.language)
    if spoken is not None:
        try:
            adapter_file(model.shown, (each.name for each in folder.iterdir() if each.exists()), spoken.tokenizer, spoken.language)
        except AsrDeployError as error:  # the cache has some of the adapters
            raise _incomplete(model, f"adapter.{spoken.language}.safetensors") from error
    return folder, folder.name


def _incomplete(model: HubModel, name: str) -> AsrDeployError:
    set_to = _offline_variable()
    return AsrDeployError(f"{set_to} is set, and the cache has {model.shown} without {name}. Repeat the command once without {set_to}.")


def _offline_variable() -> str:
    """Return the variable that forbids the use of the network; huggingface_hub asks the two in this order."""
    return "TRANSFORMERS_OFFLINE" if not os.environ.get("HF_HUB_OFFLINE") and os.environ.get("TRANSFORMERS_OFFLINE") else "HF_HUB_OFFLINE"


def _first_weights(names: Iterable[str]) -> str | None:
    """Return the file of weights, or the index of its parts: safetensors before pickles."""
    there = set(names)
    return next((each for name in FILES for each in (name, name + INDEX) if each in there), None)


def _shards(index: Path) -> tuple[str, ...]:
    """Return the parts that an index names; none for a file of weights. Reading the model checks the index."""
    if not index.name.endswith(INDEX):
        return ()
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        # Only files of weights: an index must not make us download anything else.
        return tuple(sorted({str(each) for each in parts if Path(str(each)).suffix in (".safetensors", ".bin")}))
    except (ValueError, KeyError, AttributeError, TypeError):
        return ()


def _refusal(model: HubModel, error: Exception) -> AsrDeployError:
    from huggingface_hub import constants, errors

    shown, token = model.shown, "set HF_TOKEN to a token that may read it"
    page = f"{constants.ENDPOINT}/{model.repository}"
    if isinstance(error, errors.GatedRepoError):
        return AsrDeployError(f"{shown} on the Hub is gated. Accept its conditions at {page}, and {token}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return AsrDeployError(
            f"{shown} is not a folder here, and the Hub has no model of this name, or it is private. Check the name, or {token}."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return AsrDeployError(f"{model.repository} on the Hub has no revision {model.revision}. {page}/commits lists them.")
    if constants.is_offline_mode():
        return AsrDeployError(
            f"{_offline_variable()} is set, and the cache does not have {shown}. Repeat the command without it, or give a folder."
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        why = f"{constants.ENDPOINT} answered {status} for {shown}"
        return AsrDeployError(f"{why}. {token[0].upper() + token[1:]}." if status in (401, 403) else f"{why}. Try again later.")
    if isinstance(error, errors.HFValidationError):
        return _no_name(shown)
    return AsrDeployError(
        f"{shown} is not a folder here and could not be downloaded from {constants.ENDPOINT} ({_reason(error)}). Check the connection, "
        "or set HF_HUB_OFFLINE=1 if the cache has the model."
    )


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0])[:200].rstrip(".") or type(error).__name__


def say_if_both(name: str) -> None:
    """Warn that a folder is taken if the Hub's cache has a model of the same name."""
    found = HUB_NAME.fullmatch(name)
    if found is not None and not found["prefix"] and hub_cache(found["repository"]).is_dir():
        say_once(f"{name} is a folder here and a model in the Hub's cache: the folder is used. {HUB_PREFIX}{name} names the other.")


def origin(model: HubModel, commit: str) -> str:
    """Return what results say about the origin of a model: its name, commit and language, which give the same model again."""
    return f"Hub {model.repository}@{commit}" + (f":{model.language}" if model.language else "")
