"""Readers of models: Hugging Face folders, TOML files and checkpoints."""

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from device_runner.bitstream.network import Architecture
from scripts.fuzz.mutations import EDGES, mutated_bytes
from scripts.fuzz.reader import MEGABYTE, Case, Reader, as_json, change_json, change_toml, changes
from toolchain.models.custom import hugging_face
from toolchain.models.custom.checkpoints import from_folder, from_toml
from toolchain.models.custom.description import read_description
from toolchain.models.custom.families import FAMILIES
from toolchain.models.networks import build_architecture
from toolchain.models.weight_files import owned, read_state, read_tuned_on

VOCABULARY = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", "e", "t", "ß"))}
CONFIG: dict[str, Any] = {
    "architectures": ["Wav2Vec2ForCTC"],
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 0,
    "vocab_size": len(VOCABULARY) + 1,
}
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "pad_token": {"content": "<pad>"},
    "word_delimiter_token": "|",
    "added_tokens_decoder": {"8": {"content": "<extra>"}},
}
ARCHITECTURE = Architecture(
    extractor_mode="group_norm",
    extractor_conv_layer_config=((8, 10, 5), (8, 3, 2)),
    extractor_conv_bias=False,
    encoder_embed_dim=16,
    encoder_pos_conv_kernel=4,
    encoder_pos_conv_groups=2,
    encoder_num_layers=1,
    encoder_num_heads=2,
    encoder_ff_interm_features=8,
    encoder_layer_norm_first=False,
)


@cache
def _state(labels: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: each.detach().clone() for name, each in build_architecture(ARCHITECTURE, labels).state_dict().items()}


def _hugging_face(folder: Path) -> Sequence[Case]:
    prefix = FAMILIES["Wav2Vec2ForCTC"].prefix
    norms = {ours: theirs for theirs, ours in hugging_face.NORMS.items()}
    state = {}
    for name, each in _state(len(VOCABULARY) + 1).items():
        old = next((ending for ending in norms if name.endswith(ending)), None)
        theirs = hugging_face.their_name(name, prefix)
        state[theirs if old is None else theirs.removesuffix(old) + norms[old]] = each
    several = VOCABULARY | {"<extra>": 8}
    files = {
        "config.json": as_json(CONFIG),
        "vocab.json": as_json(VOCABULARY),
        "tokenizer_config.json": as_json(TOKENIZER),
        "special_tokens_map.json": as_json({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "preprocessor_config.json": as_json(
            {"sampling_rate": 16000, "do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}
        ),
        "added_tokens.json": as_json({"<extra>": 8}),
    }
    shards = {name: "part-1.safetensors" for name in state}
    weights = save(state)
    languages = files | {
        "vocab.json": as_json({"deu": several, "eng": several}),
        "tokenizer_config.json": as_json(TOKENIZER | {"target_lang": "eng"}),
        "part-1.safetensors": weights,
        "model.safetensors.index.json": as_json({"metadata": {"total_size": 1}, "weight_map": shards}),
    }
    return [files | {"model.safetensors": weights}, languages]


TOML = """name = "mine"
architecture = "DIGITS_ASR_TINY"
labels = ["e", "t", "a", "_", "-"]
blank = "-"
word_separator = "_"
sample_rate = 16000
normalised_waveform = false
weights = "mine.safetensors"
"""


def _described(folder: Path) -> Sequence[Case]:
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in ARCHITECTURE.model_dump().items())
    text = TOML.replace('architecture = "DIGITS_ASR_TINY"\n', "") + f"[architecture]\n{table}\n"
    weights = save(_state(5))
    return [{"mine.toml": each.encode(), "mine.safetensors": weights} for each in (text, TOML)]


def _weights(folder: Path) -> Sequence[Case]:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.float16), "c": torch.zeros(())}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    tuned = {"asrdeploy.tuned_on": json.dumps(["1-2-3", "1-2-4"])}
    return [{"w.safetensors": save(state, metadata=tuned)}, {"w.pt": new.getvalue()}, {"w.pth": old.getvalue()}]


def change_safetensors(rng: Random, data: bytes) -> bytes:
    """Change the header of a .safetensors file, or its bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = change_json(rng, data[8 : 8 + length])
    claimed = len(header) if rng.random() < 0.95 else rng.choice(EDGES) % 2**63
    return struct.pack("<Q", claimed) + header + data[8 + length :]


def change_zip(rng: Random, data: bytes) -> bytes:
    """Change members of a zip archive, such as a file of ``torch.save``: their bytes, names and compression; or the archive's bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, data)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]
    place, action = rng.randrange(len(members)), rng.choice((0, 1, 2, 4, 4, 5, 5, 6, 6, 3 if rng.random() < 0.2 else 4))
    name, content = members[place]
    packing = zipfile.ZIP_STORED
    if action == 0:
        members.append(members[place])
    elif action == 1:
        del members[place]
    elif action == 2:
        members[place] = rng.choice(("../x", "/x", "a/" * 50, name + "x", "x\\y", "é")), content
    elif action == 3:  # a bomb: the archive is small, its member is not
        packing = zipfile.ZIP_DEFLATED
        members[place] = name, content + b"\0" * (200 * MEGABYTE)
    else:
        members[place] = name, mutated_bytes(rng, content)
    with zipfile.ZipFile(changed, "w", packing, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return changed.getvalue()


def _read_weights(folder: Path) -> None:
    (path,) = folder.iterdir()
    owned(read_state(path))
    read_tuned_on(path)


def _read_checkpoint(folder: Path) -> None:
    if (folder / "config.json").exists():
        from_folder(folder)
    else:
        from_toml(folder / "mine.toml", None)


READERS = (
    Reader(
        "hugging-face",
        "config.json, vocab.json and the files of the tokenizer",
        _hugging_face,
        changes({".json": change_json}),
        lambda folder: hugging_face.read_folder(folder),
    ),
    Reader(
        "description",
        "TOML files of checkpoints",
        _described,
        changes({".toml": change_toml}),
        lambda folder: read_description(folder / "mine.toml"),
    ),
    Reader(
        "checkpoint",
        "whole custom models, with their weights",
        lambda folder: [*_hugging_face(folder), _described(folder)[0]],
        changes({".json": change_json, ".toml": change_toml, ".safetensors": change_safetensors}),
        _read_checkpoint,
        memory=256 * MEGABYTE,
        seconds=60,
        examples=30,
    ),
    Reader(
        "weights",
        ".safetensors, .pt and .pth files",
        _weights,
        changes({".safetensors": change_safetensors, ".pt": change_zip, ".pth": mutated_bytes}),
        _read_weights,
    ),
)
