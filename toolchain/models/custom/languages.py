"""Languages of a Hugging Face folder, as MMS has them: a vocabulary, an adapter and a head for each."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runner.bitstream.network import Architecture, LanguageAdapters
from device_runner.errors import AsrDeployError
from toolchain.models.weight_files import State, read_checkpoint

SUFFIXES = (".safetensors", ".bin")
SHOWN = 5  # languages in a message
PARTS = ("lm_head.", ".adapter_layer.")  # what an adapter file may have


def language_in(path: Path, vocabulary: Mapping[str, Any], tokenizer: Mapping[str, Any], language: str | None) -> str | None:
    """Return the language of a folder to use; None if its vocabulary is for one language.

    Args:
        path: The folder.
        vocabulary: Content of ``vocab.json``.
        tokenizer: Content of ``tokenizer_config.json``.
        language: Language that the user named, or None.

    Raises:
        AsrDeployError: If the language is unknown, or none is named.
    """
    several = bool(vocabulary) and all(isinstance(each, dict) for each in vocabulary.values())
    if not several:
        if language is not None:
            raise AsrDeployError(f"{path} has no language “{language}”: its vocab.json is for one language. Give {path} as the model.")
        return None
    chosen = tokenizer.get("target_lang") if language is None else language
    if not isinstance(chosen, str):
        raise AsrDeployError(
            f"{path / 'vocab.json'} is for {len(vocabulary)} languages. Select one, such as {path}:{min(vocabulary)}, "
            "or with target_lang in tokenizer_config.json."
        )
    if chosen not in vocabulary:
        close = difflib.get_close_matches(chosen.lower(), sorted(vocabulary), n=SHOWN, cutoff=0.0)
        said = "" if language is not None else ", which is target_lang in tokenizer_config.json"
        raise AsrDeployError(
            f"{path} has no language “{chosen[:100]}”{said}. The most similar of its {len(vocabulary)}: {', '.join(close)}. "
            "Languages are ISO 639-3 codes, such as deu for German."
        )
    return chosen


def adapter_of(path: Path, architecture: Architecture, language: str | None) -> State:
    """Return the weights of a language's adapter and head by Hugging Face's names; empty if the model itself has those of the language.

    Args:
        path: The folder.
        architecture: Parameters of the network.
        language: Language, or None.

    Raises:
        AsrDeployError: If the file cannot be read or is not an adapter, or there are adapters of other languages only.
    """
    if language is None or not isinstance(architecture.variant, LanguageAdapters):
        return {}
    if not re.fullmatch(r"\w[\w.-]*", language):
        raise AsrDeployError(f"{path}: the language {language[:100]!a} of vocab.json is not a valid part of a file name. Rename it.")
    files = {suffix: path / f"adapter.{language}{suffix}" for suffix in SUFFIXES}
    file = next((each for each in files.values() if each.is_file()), None)
    if file is None:
        others = sorted({each.name.split(".")[1] for suffix in SUFFIXES for each in path.glob(f"adapter.*{suffix}")})
        if not others:
            return {}
        close = difflib.get_close_matches(language, others, n=SHOWN, cutoff=0.0)
        raise AsrDeployError(
            f"{path} has no {files['.safetensors'].name}. Download it, or select a language whose adapter is there: {', '.join(close)}."
        )
    state, _ = read_checkpoint(file)
    foreign = next((key for key in state if not (key.startswith(PARTS[0]) or PARTS[1] in key)), None)
    head = state.get(PARTS[0] + "weight")
    if foreign is not None or head is None or head.ndim != 2:
        why = f"it contains {foreign[:100]!a}" if foreign is not None else "it has no lm_head.weight"
        raise AsrDeployError(f"{file} is not an adapter of a language: {why}. Download it again.")
    layers = {key.split(PARTS[1])[0] for key in state if PARTS[1] in key}
    if len(layers) != architecture.encoder_num_layers:
        raise AsrDeployError(
            f"{file} has adapters of {len(layers)} layers, but the model has {architecture.encoder_num_layers}. Download it again."
        )
    return state
