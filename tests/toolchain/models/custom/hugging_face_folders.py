"""Write Hugging Face folders with transformers: tiny random models, and the bundled weights in Hugging Face's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    HubertConfig,
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
)

from tests.helpers import REPOSITORY
from toolchain.models.digits_model import EXTRACTOR
from toolchain.models.loading import BUNDLED_WEIGHTS
from toolchain.models.test_cases import LABELS

KINDS: dict[str, tuple[Any, Any, str]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC, "wav2vec2."),
    "hubert": (HubertConfig, HubertForCTC, "hubert."),
}
RELATED: dict[str, tuple[Any, Any, str]] = {
    "wavlm": (WavLMConfig, WavLMForCTC, "wavlm."),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioForCTC, "data2vec_audio."),
    "conformer": (Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, "wav2vec2_conformer."),
}
# As fine-tuning recipes write it: the space first, letters in lower case, the blank last before added tokens.
VOCABULARY = ["|", *"abcdefghijklmnopqrstuvwxyz'", "[UNK]", "[PAD]"]
SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
WIDTH = len(VOCABULARY) + 2  # the tokenizer adds <s> and </s> after the vocabulary
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 24, 24),
    "conv_kernel": (10, 5, 3),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": VOCABULARY.index("[PAD]"),
    "vocab_size": WIDTH,
}


def write_folder(
    folder: Path,
    kind: str = "wav2vec2",
    *,
    do_normalize: bool = True,
    state: Mapping[str, torch.Tensor] | None = None,
    shard: str = "5GB",
    **changes: Any,
) -> PreTrainedModel:
    """Write a folder as fine-tuning writes it and return its model; ``changes`` are fields of its configuration."""
    make_config, make_model, _ = (KINDS | RELATED)[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = make_model(make_config(**TINY | changes)).eval()
        with torch.no_grad():
            for name, each in model.named_parameters():
                if name.endswith(("bias", "norm.weight", "pos_bias_u", "pos_bias_v", "_const")):  # zeros and ones would hide a wrong name
                    each.add_(0.1 * torch.randn_like(each))
            for name, each in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    each.add_(0.5 * torch.rand_like(each))
    if state is not None:
        model.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "words.json").write_text(json.dumps({token: index for index, token in enumerate(VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "words.json"), **SPECIAL)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    (folder / "words.json").unlink()
    return model


ADAPTERS = {"do_stable_layer_norm": True, "adapter_attn_dim": 6}
LETTERS = {"eng": VOCABULARY, "deu": [*VOCABULARY[:20], *"äöü", *VOCABULARY[20:]], "tur": [*VOCABULARY[:10], "ı", *VOCABULARY[10:]]}


def write_mms(folder: Path) -> Path:
    """Write a folder of three languages, English by default, with an adapter each in one of both file formats."""
    write_folder(folder, do_normalize=False, **ADAPTERS)
    (folder / "vocab.json").write_text(json.dumps({each: {key: at for at, key in enumerate(LETTERS[each])} for each in LETTERS}))
    (folder / "added_tokens.json").unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", target_lang="eng", added_tokens_decoder=None)
    change(folder / "config.json", pad_token_id=None)
    state = load_file(folder / "model.safetensors")
    for seed, language in enumerate(LETTERS):
        generator, width = torch.Generator().manual_seed(seed), len(LETTERS[language])
        shapes = {key: each.shape for key, each in state.items() if ".adapter_layer." in key}
        shapes |= {"lm_head.weight": torch.Size((width, 32)), "lm_head.bias": torch.Size((width,))}
        adapter = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        if language == "deu":
            save_file(adapter, folder / "adapter.deu.safetensors", {"format": "pt"})
        else:
            torch.save(adapter, folder / f"adapter.{language}.bin")
    return folder


def tokenizer_of(folder: Path) -> Wav2Vec2CTCTokenizer:
    return Wav2Vec2CTCTokenizer.from_pretrained(folder)


def change(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes an entry."""
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: each for name, each in found.items() if each is not None}))


def renamed(folder: Path, names: Mapping[str, str]) -> None:
    """Replace parts of the names of a folder's weights."""
    path = folder / "model.safetensors"
    state = load_file(path)
    for old, new in names.items():
        state = {name.replace(old, new): each for name, each in state.items()}
    save_file(state, path, {"format": "pt"})


OLD_NORMS = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
BUNDLED = {
    "hidden_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 640,
    "conv_dim": tuple(channels for channels, _, _ in EXTRACTOR),
    "conv_kernel": tuple(kernel for _, kernel, _ in EXTRACTOR),
    "conv_stride": tuple(stride for _, _, stride in EXTRACTOR),
    "conv_bias": False,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 31,
    "num_conv_pos_embedding_groups": 16,
}


def write_bundled(folder: Path) -> PreTrainedModel:
    """Write the bundled model as a Hugging Face folder: other names, another order of labels, rows for unused tokens."""
    _, _, prefix = KINDS["wav2vec2"]
    state, rows = {}, {"weight": torch.zeros(WIDTH, 160), "bias": torch.full((WIDTH,), -1e3)}
    for name, tensor in load_file(BUNDLED_WEIGHTS).items():
        if name.startswith("aux."):
            for row, label in zip(tensor, LABELS, strict=True):
                token = {"-": "[PAD]"}.get(label, label.lower())
                rows[name.removeprefix("aux.")][VOCABULARY.index(token)] = row
            continue
        name = name.replace("encoder.transformer.", "encoder.").replace("encoder.feature_projection.", "feature_projection.")
        state[prefix + name] = tensor
    state |= {f"lm_head.{name}": each for name, each in rows.items()} | {f"{prefix}masked_spec_embed": torch.zeros(160)}
    return write_folder(folder, do_normalize=False, state=state, **BUNDLED)


def write_example(folder: Path) -> None:
    """Write the files of docs/custom-models.md: a Hugging Face folder, data, a checkpoint with its TOML file, and a factory's module."""
    write_bundled(folder / "my-model")
    (folder / "my-data").symlink_to(BUNDLED_WEIGHTS.parent.parent / "speech")
    page = (REPOSITORY / "docs" / "custom-models.md").read_text(encoding="utf-8")
    for language, name in (("toml", "mine.toml"), ("python", "my_models.py")):
        block = page.split(f"```{language}\n", 1)[1].split("```", 1)[0]
        assert block.startswith(f"# {name}\n")
        (folder / name).write_text(block, encoding="utf-8")
    state = load_file(BUNDLED_WEIGHTS)
    rows = [*range(2, len(LABELS)), 1, 0]  # the space and the blank last, as mine.toml has them
    save_file(state | {name: state[name][rows] for name in ("aux.weight", "aux.bias")}, folder / "mine.safetensors")
