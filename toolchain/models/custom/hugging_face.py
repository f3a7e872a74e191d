"""Read Hugging Face folders of CTC models as TorchAudio networks and related ones, without running transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError
from toolchain.models.custom.families import ADAPTER_DIM, FAMILIES, architecture_of, for_our_network
from toolchain.models.custom.labels import check_labels, place_of
from toolchain.models.custom.languages import adapter_of, language_in
from toolchain.models.custom.text_files import read_json
from toolchain.models.test_cases import CONFIG
from toolchain.models.weight_files import State, read_checkpoint

EPSILON = 1e-7  # of the normalisation in Wav2Vec2FeatureExtractor
FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
OTHER_FILES = {
    "tf_model.h5": "for TensorFlow",
    "flax_model.msgpack": "for Flax",
    "adapter_model.safetensors": "an adapter without its model",
    "adapter_model.bin": "an adapter without its model",
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|"}
# Beginnings of weight names after the prefix, and torchaudio's equivalents. The first match counts.
NAMES = (
    ("feature_extractor.", "feature_extractor."),
    ("feature_projection.", "encoder.feature_projection."),
    ("encoder.", "encoder.transformer."),
)
HEAD, AUX = "lm_head.", "aux."
NORMS = {"conv.weight_g": "conv.parametrizations.weight.original0", "conv.weight_v": "conv.parametrizations.weight.original1"}


@dataclass(frozen=True)
class Folder:
    """Content of a folder, except the weights.

    Args:
        path: The folder.
        family: Name of the class in transformers.
        architecture: Parameters of the network.
        labels: Tokens of the outputs that have one, in the order of the outputs.
        rows: Index of the output of each of these tokens.
        outputs: Number of outputs of the network.
        blank: Index of the blank in ``labels``.
        silent: Indices in ``labels`` of the tokens that begin and end a sequence. CTC models have them, but they print nothing.
        separator: Label that stands for the space between words.
        sample_rate: Sample rate in hertz, not checked yet.
        normalised_waveform: Whether the waveform gets zero mean and unit variance first, with ``EPSILON``.
        language: Language of the vocabulary and of the adapter, as the folder spells it; None for a model of one language.
        adapter: Weights of the adapter and of the head of that language; empty if the model has them itself.
    """

    path: Path
    family: str
    architecture: Architecture
    labels: list[str]
    rows: list[int]
    outputs: int
    blank: int
    silent: frozenset[int]
    separator: str
    sample_rate: Any
    normalised_waveform: bool
    language: str | None = None
    adapter: State = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Prefix of the names of the weights."""
        return FAMILIES[self.family].prefix

    def weights(self) -> tuple[State, list[str]]:
        """Read the weights by the names in the folder, and remarks about them; see ``read_checkpoint``.

        Raises:
            AsrDeployError: If they are missing or cannot be read.
        """
        state, remarks = _read_weights(self.path)
        return for_our_network(state | self.adapter, self.family), remarks


def read_folder(path: Path, language: str | None = None) -> Folder:
    """Read a folder, except its weights.

    Args:
        path: The folder.
        language: Language of the vocabulary and of the adapter (default: ``target_lang`` of the tokenizer).

    Raises:
        AsrDeployError: If a file is missing or not valid, the language is unknown, or the model is not supported.
    """
    config = read_json(path / CONFIG, needed=True)
    classes = config.get("architectures")
    family = next((each for each in FAMILIES if isinstance(classes, list) and each in classes), None)
    if family is None:
        known = f"{', '.join(list(FAMILIES)[:-1])} or {list(FAMILIES)[-1]}"
        raise AsrDeployError(f"{path / CONFIG}: architectures is {classes}. Give a model fine-tuned for CTC, of class {known}.")
    sound = _sound(path)
    tokenizer = _tokenizer(path)
    if (kind := tokenizer.get("tokenizer_class", "Wav2Vec2CTCTokenizer")) != "Wav2Vec2CTCTokenizer":
        raise AsrDeployError(f"{path}: tokenizer_class is {kind}. Only Wav2Vec2CTCTokenizer is supported.")
    special = {key: _token(tokenizer.get(key, default)) for key, default in SPECIAL.items()}
    vocabulary = read_json(path / "vocab.json", needed=True)
    language = language_in(str(path), vocabulary, tokenizer, language)
    architecture = architecture_of(config, path / CONFIG, family)
    adapter = adapter_of(path, architecture, tokenizer, language)
    outputs: Any = len(adapter[f"{HEAD}weight"]) if adapter else config.get("vocab_size")
    tokens = _labels(path, outputs, vocabulary if language is None else vocabulary[language], tokenizer)
    labels = list(tokens.values())
    blank = _blank(path, config.get("pad_token_id"), tokens, special["pad_token"])
    ends = (place_of(special[key], labels) for key in ("bos_token", "eos_token"))
    silent = {place for place in ends if place is not None}
    return Folder(
        path=path,
        family=family,
        architecture=architecture,
        labels=labels,
        rows=list(tokens),
        outputs=outputs,
        blank=blank,
        silent=frozenset(silent - {blank}),
        separator=special["word_delimiter_token"],
        sample_rate=sound.get("sampling_rate", 16_000),
        normalised_waveform=bool(sound.get("do_normalize", True)),
        language=language,
        adapter=adapter,
    )


@dataclass(frozen=True)
class Spoken:
    """The language of a model with adapters, and the configuration of its tokenizer."""

    language: str
    tokenizer: Mapping[str, Any]


def language_of(path: Path, shown: str, language: str | None) -> Spoken | None:
    """Return the language of a folder to use; None if the model has no adapters of languages.

    Args:
        path: The folder, of which weights and adapters are not read.
        shown: Folder of the model, or its name on the Hub.
        language: Language that the user named, or None.

    Raises:
        AsrDeployError: If a file is missing or not valid, or the language is unknown.
    """
    tokenizer = _tokenizer(path)
    chosen = language_in(shown, read_json(path / "vocab.json", needed=True), tokenizer, language)
    return None if chosen is None or read_json(path / CONFIG).get(ADAPTER_DIM) is None else Spoken(chosen, tokenizer)


def _tokenizer(path: Path) -> dict[str, Any]:
    return read_json(path / "special_tokens_map.json") | read_json(path / "tokenizer_config.json")


def torchaudio_name(name: str, prefix: str) -> str:
    """Return torchaudio's name of a weight, or the name itself if it is unknown.

    Args:
        name: Hugging Face's name.
        prefix: Prefix of Hugging Face's names; see ``Family``.
    """
    if name.startswith(HEAD):
        return AUX + name.removeprefix(HEAD)
    for theirs, ours in NAMES:
        if name.startswith(prefix + theirs):
            name = ours + name.removeprefix(prefix + theirs)
            old = next((each for each in NORMS if name.endswith(each)), None)
            return name if old is None else name.removesuffix(old) + NORMS[old]
    return name


def their_name(name: str, prefix: str) -> str:
    """Return Hugging Face's name of a weight, for messages.

    Args:
        name: torchaudio's name.
        prefix: Prefix of Hugging Face's names; see ``Family``.
    """
    if name.startswith(AUX):
        return HEAD + name.removeprefix(AUX)
    return next((prefix + theirs + name.removeprefix(ours) for theirs, ours in NAMES if name.startswith(ours)), name)


def _sound(path: Path) -> dict[str, Any]:
    """Return the settings of the feature extractor, from its own file or the processor's; empty if neither exists."""
    sound = read_json(path / "preprocessor_config.json") or read_json(path / "processor_config.json").get("feature_extractor") or {}
    if not isinstance(sound, dict):
        raise AsrDeployError(
            f"{path / 'processor_config.json'}: feature_extractor is not an object. Save the processor again with transformers."
        )
    kind = sound.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    if kind != "Wav2Vec2FeatureExtractor":
        raise AsrDeployError(
            f"{path}: feature_extractor_type is {kind}. Only Wav2Vec2FeatureExtractor is supported, which uses the waveform itself."
        )
    return dict(sound)


def _token(value: Any) -> str:
    """Return the text of a special token. Older files have it in an object."""
    return str(value.get("content", "") if isinstance(value, dict) else value)


def _labels(path: Path, outputs: Any, vocabulary: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens by output of the network, in the order of the outputs. Outputs without a token are absent."""
    if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
        raise AsrDeployError(f"{path / CONFIG}: vocab_size is {outputs!r}. It must be the number of outputs of the network.")
    tokens: dict[int, str] = {}
    for token, index in vocabulary.items():
        if not isinstance(index, int) or isinstance(index, bool) or index in tokens:
            raise AsrDeployError(f"{path / 'vocab.json'}: the token “{token}” has the index {index!r}. Give each a different whole number.")
        tokens[index] = token
    beyond = next((f"“{token}” (index {index})" for index, token in sorted(tokens.items()) if not 0 <= index < outputs), None)
    if beyond is not None:
        raise AsrDeployError(
            f"{path}: the network has {outputs} outputs (vocab_size), but vocab.json {len(vocabulary)} tokens. {beyond} has no output. "
            "Give the vocab.json that the model was trained with."
        )
    for index, token in _added(path, tokenizer):
        if 0 <= index < outputs and token not in vocabulary:  # added tokens without an output are never printed
            tokens.setdefault(index, token)
    return dict(zip(sorted(tokens), check_labels([tokens[index] for index in sorted(tokens)], str(path)), strict=True))


def _added(path: Path, tokenizer: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the tokens added to a vocabulary, from added_tokens.json and from newer versions of tokenizer_config.json."""
    added = [(index, token) for token, index in read_json(path / "added_tokens.json").items() if isinstance(index, int)]
    entries = tokenizer.get("added_tokens_decoder")
    if isinstance(entries, dict):
        added += [(int(index), _token(each)) for index, each in entries.items() if str(index).isdecimal() and len(index) < 10]
    return added


def _blank(path: Path, index: Any, tokens: Mapping[int, str], pad: str) -> int:
    """Return the place of the blank among the tokens. It is the padding token of both the model and the tokenizer."""
    labels = list(tokens.values())
    place = place_of(pad, labels)
    if place is None:
        raise AsrDeployError(
            f"{path}: vocab.json does not contain the tokenizer's pad_token “{pad}”, which is the blank. Name the blank as pad_token."
        )
    output = list(tokens)[place]
    if index not in (None, output):
        raise AsrDeployError(
            f"{path}: pad_token_id in config.json is {index}, but the tokenizer's pad_token “{pad}” has the index {output}. "
            "Set both to the blank that the model was trained with."
        )
    return place


def _read_weights(path: Path) -> tuple[State, list[str]]:
    for name in FILES:
        if (path / name).is_file():
            return read_checkpoint(path / name)
        if (path / (name + INDEX)).is_file():
            return _read_shards(path, path / (name + INDEX))
    other = next((name for name in OTHER_FILES if (path / name).is_file()), None)
    but = "" if other is None else f", only {other}, which is {OTHER_FILES[other]}"
    raise AsrDeployError(f"{path} has no weights: it contains neither {' nor '.join(FILES)} (nor {FILES[0]}{INDEX} of a split file){but}.")


def _read_shards(path: Path, index: Path) -> tuple[State, list[str]]:
    shards = read_json(index, needed=True).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise AsrDeployError(f"{index} has no weight_map (the file of each weight). Save the model again with transformers.")
    state: State = {}
    remarks: list[str] = []
    for name in sorted(set(map(str, shards.values()))):
        if not re.fullmatch(r"[\w.-]+", name) or not (path / name).is_file():
            raise AsrDeployError(f"{index} names the file {name[:100]!a}, which is not in the folder. Copy it there.")
        shard, said = read_checkpoint(path / name)
        state |= shard
        remarks += [each for each in said if each not in remarks]
    return state, remarks
