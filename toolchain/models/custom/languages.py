"""Languages of a Hugging Face folder, as MMS has them: a vocabulary, an adapter and a head for each."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from device_runner.bitstream.network import Architecture, LanguageAdapters
from device_runner.errors import AsrDeployError
from toolchain.models.weight_files import State, read_checkpoint

SUFFIXES = (".safetensors", ".bin")
TARGET = "target_lang"  # the entry of tokenizer_config.json with the default language
SHOWN = 5  # languages in a message
PARTS = ("lm_head.", ".adapter_layer.")  # what an adapter file may have


def language_in(shown: str, vocabulary: Mapping[str, Any], tokenizer: Mapping[str, Any], language: str | None) -> str | None:
    """Return the language of a model to use; None if its vocabulary is for one language.

    Args:
        shown: Folder of the model, or its name on the Hub.
        vocabulary: Content of ``vocab.json``.
        tokenizer: Content of ``tokenizer_config.json``.
        language: Language that the user named, or None.

    Raises:
        AsrDeployError: If the language is unknown, or none is named.
    """
    several = bool(vocabulary) and all(isinstance(each, dict) for each in vocabulary.values())
    if not several:
        if language is not None:
            raise AsrDeployError(f"{shown} has no language “{language}”: its vocab.json is for one language. Give {shown} as the model.")
        return None
    chosen = tokenizer.get(TARGET) if language is None else language
    if not isinstance(chosen, str):
        raise AsrDeployError(
            f"{shown}: vocab.json is for {len(vocabulary)} languages. Select one, such as {shown}:{min(vocabulary)}, "
            f"or with {TARGET} in tokenizer_config.json."
        )
    if chosen not in vocabulary:
        said = "" if language is not None else f", which is {TARGET} in tokenizer_config.json"
        raise AsrDeployError(
            f"{shown} has no language “{chosen[:100]}”{said}. The most similar of its {len(vocabulary)}: "
            f"{', '.join(_close(chosen.lower(), vocabulary))}. Languages are ISO 639-3 codes, such as deu for German."
        )
    if not re.fullmatch(r"\w[\w.-]*", chosen):
        raise AsrDeployError(f"{shown}: the language {chosen[:100]!a} of vocab.json is not a valid part of a file name. Rename it.")
    return chosen


def adapter_file(shown: str, names: Iterable[str], tokenizer: Mapping[str, Any], language: str) -> str | None:
    """Return the name of a language's adapter among the files of a model; None if the model itself has that of the language.

    Args:
        shown: Folder of the model, or its name on the Hub.
        names: Names of its files.
        tokenizer: Content of ``tokenizer_config.json``.
        language: The language.

    Raises:
        AsrDeployError: If there are adapters of other languages only, or none at all and the model is for another language.
    """
    there = set(names)
    wanted = [f"adapter.{language}{suffix}" for suffix in SUFFIXES]
    found = next((each for each in wanted if each in there), None)
    if found is not None:
        return found
    others = {each.removeprefix("adapter.").removesuffix(end) for each in there for end in SUFFIXES if _is_adapter(each, end)}
    if others:
        raise AsrDeployError(
            f"{shown} has no {wanted[0]}. Add it, or select a language whose adapter is there: {', '.join(_close(language, others))}."
        )
    if language != tokenizer.get(TARGET, language):
        raise AsrDeployError(f"{shown} has no {wanted[0]}, and its own weights are for {tokenizer[TARGET]}. Add the adapter.")
    return None


def _is_adapter(name: str, suffix: str) -> bool:
    return name.startswith("adapter.") and name.endswith(suffix)


def _close(language: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(language, sorted(known), n=SHOWN, cutoff=0.0)


def adapter_of(path: Path, architecture: Architecture, tokenizer: Mapping[str, Any], language: str | None) -> State:
    """Return the weights of a language's adapter and head by Hugging Face's names; empty if the model itself has those of the language.

    Args:
        path: The folder.
        architecture: Parameters of the network.
        tokenizer: Content of ``tokenizer_config.json``.
        language: Language, or None.

    Raises:
        AsrDeployError: If the file cannot be read or is not an adapter, or there are adapters of other languages only.
    """
    if language is None or not isinstance(architecture.variant, LanguageAdapters):
        return {}
    name = adapter_file(str(path), (each.name for each in path.iterdir()), tokenizer, language)
    if name is None:
        return {}
    file = path / name
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
