"""A Hugging Face folder of ``Wav2Vec2ForCTC`` or ``HubertForCTC`` in TorchAudio's words: names are mapped, no code of theirs is run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError
from toolchain.models.custom.labels import check_labels
from toolchain.models.test_cases import CONFIG
from toolchain.models.weight_files import State, read_state

FAMILIES = {"Wav2Vec2ForCTC": "wav2vec2.", "HubertForCTC": "hubert."}  # with the prefix of their weights' names
# Fields of config.json by the parameter of torchaudio's module that says the same.
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
# What torchaudio's module does, and does in no other way.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
EPSILON = 1e-7  # of their feature extractor's normalisation
FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|"}
# Their names of weights and torchaudio's, where they differ behind the prefix; the first that fits is taken.
NAMES = (
    ("feature_extractor.", "feature_extractor."),
    ("feature_projection.", "encoder.feature_projection."),
    ("encoder.", "encoder.transformer."),
)
HEAD, AUX = "lm_head.", "aux."
NORMS = {"conv.weight_g": "conv.parametrizations.weight.original0", "conv.weight_v": "conv.parametrizations.weight.original1"}
IN_TRAINING_ALONE = "masked_spec_embed"


@dataclass(frozen=True)
class Folder:
    """What a folder says.

    Args:
        path: the folder.
        architecture: in torchaudio's words.
        labels: by output.
        blank: its index.
        silent: indexes of the tokens that begin and end a sequence, which CTC models have and do not say.
        separator: the label that stands for the space.
        sample_rate: in hertz.
        normalised_waveform: zero mean and unit variance, with ``EPSILON``.
        prefix: of the names of the weights.
    """

    path: Path
    architecture: Architecture
    labels: list[str]
    blank: int
    silent: frozenset[int]
    separator: str
    sample_rate: Any
    normalised_waveform: bool
    prefix: str

    def weights(self) -> State:
        """Return the weights by torchaudio's names.

        Raises:
            AsrDeployError: there are none, or they cannot be read.
        """
        found = {}
        for name, tensor in _read_weights(self.path).items():
            if name != self.prefix + IN_TRAINING_ALONE:
                found[torchaudio_name(name, self.prefix)] = tensor
        return found


def read_folder(path: Path) -> Folder:
    """Read what a folder says of its model; its weights are not read yet.

    Raises:
        AsrDeployError: a file is missing or damaged, it is of another class of models, or torchaudio's module cannot express it.
    """
    config = _json(path / CONFIG, needed=True)
    classes = config.get("architectures")
    family = next((each for each in FAMILIES if isinstance(classes, list) and each in classes), None)
    if family is None:
        known = " or ".join(FAMILIES)
        raise AsrDeployError(f"{path / CONFIG}: architectures is {classes}; a folder of {known} is taken, a model fine-tuned for CTC.")
    sound = _sound(path)
    tokenizer = _json(path / "special_tokens_map.json") | _json(path / "tokenizer_config.json")
    if (kind := tokenizer.get("tokenizer_class", "Wav2Vec2CTCTokenizer")) != "Wav2Vec2CTCTokenizer":
        raise AsrDeployError(f"{path}: tokenizer_class is {kind}; only Wav2Vec2CTCTokenizer is understood.")
    special = {key: _token(tokenizer.get(key, default)) for key, default in SPECIAL.items()}
    labels = _labels(path, config.get("vocab_size"), tokenizer)
    blank = _blank(path, config.get("pad_token_id"), labels, special["pad_token"])
    silent = {labels.index(special[key]) for key in ("bos_token", "eos_token") if special[key] in labels}
    return Folder(
        path=path,
        architecture=_architecture(config, path / CONFIG),
        labels=labels,
        blank=blank,
        silent=frozenset(silent - {blank}),
        separator=special["word_delimiter_token"],
        sample_rate=sound.get("sampling_rate", 16_000),
        normalised_waveform=bool(sound.get("do_normalize", True)),
        prefix=FAMILIES[family],
    )


def torchaudio_name(name: str, prefix: str) -> str:
    """Return torchaudio's name of a weight of theirs; a name that is none of theirs stays."""
    if name.startswith(HEAD):
        return AUX + name.removeprefix(HEAD)
    for theirs, ours in NAMES:
        if name.startswith(prefix + theirs):
            name = ours + name.removeprefix(prefix + theirs)
            old = next((each for each in NORMS if name.endswith(each)), None)
            return name if old is None else name.removesuffix(old) + NORMS[old]
    return name


def their_name(name: str, prefix: str) -> str:
    """Return their name of a weight of torchaudio's, for messages."""
    if name.startswith(AUX):
        return HEAD + name.removeprefix(AUX)
    return next((prefix + theirs + name.removeprefix(ours) for theirs, ours in NAMES if name.startswith(ours)), name)


def _architecture(config: Mapping[str, Any], path: Path) -> Architecture:
    for field, only in FIXED.items():
        if config.get(field, only) != only:
            raise AsrDeployError(f"{path}: {field} is {config[field]!r}, which torchaudio's module cannot express; only {only!r} is taken.")
    missing = next((field for field in (*FIELDS.values(), MODE, *LAYERS) if field not in config), None)
    if missing is not None:
        raise AsrDeployError(f"{path}: {missing} is missing; save the model again with transformers' save_pretrained.")
    lists = [config[field] for field in LAYERS]
    if not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        raise AsrDeployError(f"{path}: {', '.join(LAYERS)} are lists of one length, a number for each convolution.")
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
    """Return what is said of the waveform: in a file of its own, or in the processor's; their defaults stand where neither is there."""
    sound = _json(path / "preprocessor_config.json") or _json(path / "processor_config.json").get("feature_extractor") or {}
    if not isinstance(sound, dict):
        raise AsrDeployError(
            f"{path / 'processor_config.json'}: feature_extractor is no object; save the processor again with transformers."
        )
    kind = sound.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    if kind != "Wav2Vec2FeatureExtractor":
        raise AsrDeployError(
            f"{path}: feature_extractor_type is {kind}; only Wav2Vec2FeatureExtractor, which passes the waveform on, is taken."
        )
    return dict(sound)


def _token(value: Any) -> str:
    """Return a special token's text; older files have it in an object."""
    return str(value.get("content", "") if isinstance(value, dict) else value)


def _labels(path: Path, outputs: Any, tokenizer: Mapping[str, Any]) -> list[str]:
    """Return the token of every output of the network."""
    vocabulary = _json(path / "vocab.json", needed=True)
    if vocabulary and all(isinstance(each, dict) for each in vocabulary.values()):
        language = tokenizer.get("target_lang")
        if not isinstance(language, str) or language not in vocabulary:
            raise AsrDeployError(f"{path / 'vocab.json'} has vocabularies of several languages, and no target_lang says which one.")
        vocabulary = vocabulary[language]
    if not isinstance(outputs, int) or isinstance(outputs, bool):
        raise AsrDeployError(f"{path / CONFIG}: vocab_size is {outputs!r}; it says how many labels the network tells apart.")
    tokens: dict[int, str] = {}
    for token, index in vocabulary.items():
        if not isinstance(index, int) or isinstance(index, bool) or index in tokens:
            raise AsrDeployError(f"{path / 'vocab.json'}: the token “{token}” has the index {index!r}; each has a whole number of its own.")
        tokens[index] = token
    beyond = next((token for index, token in sorted(tokens.items()) if not 0 <= index < outputs), None)
    if beyond is not None:
        raise AsrDeployError(
            f"{path}: vocab.json has {len(vocabulary)} tokens and the network {outputs} outputs (vocab_size): “{beyond}” has none."
        )
    for index, token in _added(path, tokenizer):  # those without an output are never said
        tokens.setdefault(index, token)
    without = next((index for index in range(outputs) if index not in tokens), None)
    if without is not None:
        raise AsrDeployError(
            f"{path}: the network has {outputs} outputs (vocab_size), and vocab.json (with added_tokens.json) has no token for {without}."
        )
    return check_labels([tokens[index] for index in range(outputs)], str(path))


def _added(path: Path, tokenizer: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return tokens that were added to a vocabulary: in a file of their own, and in newer tokenizer_config.json."""
    added = [(index, token) for token, index in _json(path / "added_tokens.json").items() if isinstance(index, int)]
    entries = tokenizer.get("added_tokens_decoder")
    if isinstance(entries, dict):
        added += [(int(index), _token(each)) for index, each in entries.items() if str(index).isdecimal()]
    return added


def _blank(path: Path, index: Any, labels: list[str], pad: str) -> int:
    """Return the index of the blank, which is the padding token to both the model and the tokenizer."""
    if pad not in labels:
        raise AsrDeployError(
            f"{path}: pad_token “{pad}” is no token of vocab.json; it is the blank, and the tokenizer's files must name it."
        )
    if index not in (None, labels.index(pad)):
        raise AsrDeployError(
            f"{path}: pad_token_id in config.json is {index}, and the tokenizer's pad_token “{pad}” is {labels.index(pad)}: "
            f"which of them is the blank that the model was trained with must be the same in both."
        )
    return labels.index(pad)


def _read_weights(path: Path) -> State:
    for name in FILES:
        if (path / name).is_file():
            return read_state(path / name)
        if (path / (name + INDEX)).is_file():
            return _read_shards(path, path / (name + INDEX))
    raise AsrDeployError(f"{path} has no weights: neither {' nor '.join(FILES)} is there (nor {FILES[0]}{INDEX} of several files).")


def _read_shards(path: Path, index: Path) -> State:
    shards = _json(index, needed=True).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise AsrDeployError(f"{index} has no weight_map, which says in which file each weight is.")
    state: dict[str, Tensor] = {}
    for name in sorted(set(map(str, shards.values()))):
        if not re.fullmatch(r"[\w.-]+", name) or not (path / name).is_file():
            raise AsrDeployError(f"{index} names the file {name[:100]!a}, which is not in the folder; copy it there.")
        state |= read_state(path / name)
    return state


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Return a JSON object of a file; an empty one where a file that is not needed is not there."""
    if not path.is_file():
        if needed:
            raise AsrDeployError(f"{path.parent} has no {path.name}, so it is no Hugging Face folder of a CTC model with its tokenizer.")
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AsrDeployError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise AsrDeployError(f"{path} holds no JSON object; save the model again with transformers' save_pretrained.")
    return found
