"""Classes of CTC models in transformers, and the network of each: parameters from ``config.json``, and weights that we store otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError
from toolchain.models.weight_files import State

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
# The only values that our networks support.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
ADAPTER_DIM = "adapter_attn_dim"
EPSILON = 1e-5  # of PyTorch's batch norm, which transformers does not change


@dataclass(frozen=True)
class Family:
    """A class of transformers.

    Args:
        prefix: Prefix of the names of its weights.
        kind: Kind of the variant in our description; None for torchaudio's network itself.
        fields: Fields of ``config.json`` that become those of the variant.
        given: Fields that the class's ``config.json`` does not have, with the values that its code has.
        renamed: Fields with another meaning than in ``FIELDS``: parameter of torchaudio's network and field.
        free: Fields of ``FIXED`` that may have other values.
        unused: Beginnings of names of weights that the class stores but never uses, after the prefix.
    """

    prefix: str
    kind: str | None = None
    fields: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


FAMILIES = {
    "Wav2Vec2ForCTC": Family("wav2vec2.", free=(ADAPTER_DIM,)),
    "HubertForCTC": Family("hubert."),
    "WavLMForCTC": Family("wavlm.", "wavlm", ("num_buckets", "max_bucket_distance")),
    "Data2VecAudioForCTC": Family(
        "data2vec_audio.",
        "data2vec",
        ("num_conv_pos_embeddings",),
        given={MODE: "layer", "do_stable_layer_norm": False},
        renamed={"encoder_pos_conv_kernel": "conv_pos_kernel_size"},
    ),
    "Wav2Vec2ConformerForCTC": Family(
        "wav2vec2_conformer.",
        "conformer",
        ("hidden_act", "conv_depthwise_kernel_size", "position_embeddings_type", "rotary_embedding_base"),
        given={"do_stable_layer_norm": False},
        free=("hidden_act",),
        unused=("encoder.pos_conv_embed.", "encoder.embed_positions."),
    ),
}


def architecture_of(config: Mapping[str, Any], path: Path, name: str) -> Architecture:
    """Return the parameters of a network.

    Args:
        config: Content of ``config.json``.
        path: That file, for messages.
        name: Name of the class in transformers.

    Raises:
        AsrDeployError: If a field is missing or not valid, or has a value that the network does not support.
    """
    family = FAMILIES[name]
    for entry, only in FIXED.items():
        if entry not in family.free and config.get(entry, only) != only:
            raise AsrDeployError(f"{path}: {entry} is {config[entry]!r}. For {name}, only {only!r} is supported.")
    config = {**config, **family.given}
    fields = FIELDS | dict(family.renamed)
    missing = next((each for each in (*fields.values(), MODE, *LAYERS, *family.fields) if each not in config), None)
    if missing is not None:
        raise AsrDeployError(f"{path}: {missing} is missing. Save the model again with save_pretrained of transformers.")
    lists = [config[each] for each in LAYERS]
    if not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        raise AsrDeployError(f"{path}: {', '.join(LAYERS)} must be lists of equal length, with one number per convolution.")
    parameters = {ours: config[theirs] for ours, theirs in fields.items()}
    parameters |= {"extractor_mode": f"{config[MODE]}_norm", "extractor_conv_layer_config": list(zip(*lists, strict=True))}
    if family.kind is not None:
        parameters["variant"] = {"kind": family.kind} | {each: config[each] for each in family.fields}
    elif config.get(ADAPTER_DIM) is not None:
        parameters["variant"] = {"kind": "adapters", ADAPTER_DIM: config[ADAPTER_DIM]}
    try:
        return Architecture.model_validate(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(each) for each in first["loc"]]
        start = place[0] if place else ""
        known = fields | {"extractor_mode": MODE, "extractor_conv_layer_config": ", ".join(LAYERS)}
        entry = place[2] if start == "variant" and len(place) > 2 else known.get(start, "the architecture")
        raise AsrDeployError(f"{path}: {entry}: {first['msg'].rstrip('.')}.") from error


def for_our_network(state: State, name: str) -> State:
    """Return the weights of a checkpoint as our network has them, by Hugging Face's names.

    Weights that the class never uses are left out. Pointwise convolutions become linear layers, and batch norms become part of the
    convolution before them: w' = w g / sqrt(var + eps), b' = b - mean g / sqrt(var + eps).

    Args:
        state: Weights by name. Those that do not fit remain, so that loading refuses them.
        name: Name of the class in transformers.
    """
    family = FAMILIES[name]
    if not family.unused:
        return state
    found = {key: each for key, each in state.items() if not key.startswith(tuple(family.prefix + each for each in family.unused))}
    for key in list(found):
        if ".conv_module.pointwise_conv" in key and found[key].ndim == 3 and found[key].shape[2] == 1:
            found[key] = found[key][:, :, 0]
    for key in [each for each in found if each.endswith(".conv_module.batch_norm.weight")]:
        norm, weight = key.removesuffix("weight"), key.removesuffix("batch_norm.weight") + "depthwise_conv.weight"
        parts = [found.get(norm + each) for each in ("weight", "bias", "running_mean", "running_var")]
        if any(each is None or each.shape != found.get(weight, torch.empty(0)).shape[:1] for each in parts):
            continue
        gain, bias, mean, variance = (each.double() for each in parts if each is not None)
        gain = gain / torch.sqrt(variance + EPSILON)
        found[weight] = (found[weight].double() * gain[:, None, None]).float()
        found[weight.removesuffix("weight") + "bias"] = (bias - mean * gain).float()
        for each in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            found.pop(norm + each, None)
    return found
