"""Read Hugging Face folders of ``Wav2Vec2ForCTC`` and ``HubertForCTC`` as TorchAudio networks, without running transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError
from toolchain.models.custom.labels import check_labels, place_of
from toolchain.models.custom.text_files import read_json
from toolchain.models.test_cases import CONFIG
from toolchain.models.weight_files import State, read_checkpoint

FAMILIES = {"Wav2Vec2ForCTC": "wav2vec2.", "HubertForCTC": "hubert."}  # class: prefix of the names of its weights
# Parameters of torchaudio's network and the equivalent fields of config.json.
FIELDS = {
    "extractor_conv_bias": "conv_bias",
    "encoder_embed_dim": "hidden_size",
    "encoder_pos_conv_kernel": "num_conv_pos_embeddings",
    "encoder_pos_conv_groups": "num_conv_pos_embedding_groups",
    "encoder_num_layers": "num_hidden_layers",
    "encoder_num_heads": "num_attention_heads",
    "encoder_ff_interm_features": "intermediate_size",
    "encoder_layer_norm_first": "do_stable_layer_norm",
}
MODE, LAYERS = "feat_extract_norm", ("conv_dim", "conv_kernel", "conv_stride")
# The only values that torchaudio's network supports.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
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
        architecture: Parameters of torchaudio's network.
        labels: Tokens of the outputs that have one, in the order of the outputs.
        rows: Index of the output of each of these tokens.
        outputs: Number of outputs of the network.
        blank: Index of the blank in ``labels``.
        silent: Indices in ``labels`` of the tokens that begin and end a sequence. CTC models have them, but they print nothing.
        separator: Label that stands for the space between words.
        sample_rate: Sample rate in hertz, not checked yet.
        normalised_waveform: Whether the waveform gets zero mean and unit variance first, with ``EPSILON``.
        prefix: Prefix of the names of the weights.
    """

    path: Path
    architecture: Architecture
    labels: list[str]
    rows: list[int]
    outputs: int
    blank: int
    silent: frozenset[int]
    separator: str
    sample_rate: Any
    normalised_waveform: bool
    prefix: str

    def weights(self) -> tuple[State, list[str]]:
        """Read the weights by the names in the folder, and remarks about them; see ``read_checkpoint``.

        Raises:
            AsrDeployError: If they are missing or cannot be read.
        """
        return _read_weights(self.path)


def read_folder(path: Path) -> Folder:
    """Read a folder, except its weights.

    Raises:
        AsrDeployError: If a file is missing or not valid, or torchaudio's network does not support the model.
    """
    config = read_json(path / CONFIG, needed=True)
    classes = config.get("architectures")
    family = next((each for each in FAMILIES if isinstance(classes, list) and each in classes), None)
    if family is None:
        known = " or ".join(FAMILIES)
        raise AsrDeployError(f"{path / CONFIG}: architectures is {classes}. Give a model fine-tuned for CTC, of class {known}.")
    sound = _sound(path)
    tokenizer = read_json(path / "special_tokens_map.json") | read_json(path / "tokenizer_config.json")
    if (kind := tokenizer.get("tokenizer_class", "Wav2Vec2CTCTokenizer")) != "Wav2Vec2CTCTokenizer":
        raise AsrDeployError(f"{path}: tokenizer_class is {kind}. Only Wav2Vec2CTCTokenizer is supported.")
    special = {key: _token(tokenizer.get(key, default)) for key, default in SPECIAL.items()}
    tokens = _labels(path, config.get("vocab_size"), tokenizer)
    labels = list(tokens.values())
    blank = _blank(path, config.get("pad_token_id"), tokens, special["pad_token"])
    ends = (place_of(special[key], labels) for key in ("bos_token", "eos_token"))
    silent = {place for place in ends if place is not None}
    return Folder(
        path=path,
        architecture=_architecture(config, path / CONFIG),
        labels=labels,
        rows=list(tokens),
        outputs=config["vocab_size"],
        blank=blank,
        silent=frozenset(silent - {blank}),
        separator=special["word_delimiter_token"],
        sample_rate=sound.get("sampling_rate", 16_000),
        normalised_waveform=bool(sound.get("do_normalize", True)),
        prefix=FAMILIES[family],
    )


def torchaudio_name(name: str, prefix: str) -> str:
    """Return torchaudio's name of a weight, or the name itself if it is unknown.

    Args:
        name: Hugging Face's name.
        prefix: Prefix of Hugging Face's names; see ``FAMILIES``.
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
        prefix: Prefix of Hugging Face's names; see ``FAMILIES``.
    """
    if name.startswith(AUX):
        return HEAD + name.removeprefix(AUX)
    return next((prefix + theirs + name.removeprefix(ours) for theirs, ours in NAMES if name.startswith(ours)), name)


def _architecture(config: Mapping[str, Any], path: Path) -> Architecture:
    for field, only in FIXED.items():
        if config.get(field, only) != only:
            raise AsrDeployError(f"{path}: {field} is {config[field]!r}. torchaudio's network supports only {only!r}.")
    missing = next((field for field in (*FIELDS.values(), MODE, *LAYERS) if field not in config), None)
    if missing is not None:
        raise AsrDeployError(f"{path}: {missing} is missing. Save the model again with save_pretrained of transformers.")
    lists = [config[field] for field in LAYERS]
    if not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        raise AsrDeployError(f"{path}: {', '.join(LAYERS)} must be lists of equal length, with one number per convolution.")
    parameters = {ours: config[theirs] for ours, theirs in FIELDS.items()}
    parameters |= {"extractor_mode": f"{config[MODE]}_norm", "extractor_conv_layer_config": list(zip(*lists, strict=True))}
    try:
        return Architecture.model_validate(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        ours = str(first["loc"][0]) if first["loc"] else ""
        field = {"extractor_mode": MODE, "extractor_conv_layer_config": ", ".join(LAYERS)}.get(ours) or FIELDS.get(ours, "the architecture")
        raise AsrDeployError(f"{path}: {field}: {first['msg'].rstrip('.')}.") from error


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


def _labels(path: Path, outputs: Any, tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens by output of the network, in the order of the outputs. Outputs without a token are absent."""
    vocabulary = read_json(path / "vocab.json", needed=True)
    if vocabulary and all(isinstance(each, dict) for each in vocabulary.values()):
        language = tokenizer.get("target_lang")
        if not isinstance(language, str) or language not in vocabulary:
            raise AsrDeployError(f"{path / 'vocab.json'} is for several languages. Select one with target_lang in tokenizer_config.json.")
        vocabulary = vocabulary[language]
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
