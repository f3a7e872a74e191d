"""DIGITS_ASR_TINY: the architecture of the bundled model, of the same family as the anchors."""

import math
from typing import Any

import torch
from torch import nn
from torchaudio.models import Wav2Vec2Model, wav2vec2_model

EXTRACTOR = [(96, 64, 20), (128, 5, 5), (160, 3, 2), (160, 3, 2)]  # (channels, kernel, stride): 25 ms a frame


# Of ``wav2vec2_model``. Dropout is left out on purpose: training never repeats an utterance, and it took a fifth of the time.
PARAMETERS: dict[str, Any] = {
    "extractor_mode": "layer_norm",
    "extractor_conv_layer_config": EXTRACTOR,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 160,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 31,
    "encoder_pos_conv_groups": 16,
    "encoder_num_layers": 4,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 640,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": True,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 29,
}


def digits_asr_tiny() -> Wav2Vec2Model:
    """Return the untrained model: waveform ``[batch, samples]`` at 16 kHz to logits ``[batch, frames, 29]``."""
    return wav2vec2_model(**PARAMETERS)


@torch.no_grad()
def start_with_filterbank(model: nn.Module) -> None:
    """Set the first convolution to windowed cosines and sines spaced on the mel scale (60 Hz to 7.5 kHz), as a filter bank.

    Letters appear after minutes instead of an hour of training. Mel scale after O'Shaughnessy (1987).
    """
    weight = model.feature_extractor.conv_layers[0].conv.weight  # type: ignore[union-attr, index]
    channels, _, kernel = weight.shape
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (60.0, 7500.0))
    centres = 700 * (10 ** (torch.linspace(low, high, channels // 2) / 2595) - 1)
    phase = 2 * math.pi * centres[:, None] * (torch.arange(kernel) - kernel / 2) / 16_000
    window = torch.hann_window(kernel)
    filters = torch.cat([torch.cos(phase) * window, torch.sin(phase) * window])
    weight.copy_(filters[:, None, :] / filters.norm(dim=1)[:, None, None])
