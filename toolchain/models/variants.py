"""Turn TorchAudio's wav2vec 2.0 network into a related one: WavLM, data2vec, Conformer, or with adapters of a language."""

from typing import Any

from torch import Tensor, nn
from torchaudio.models.wav2vec2 import components

from device_runner.bitstream.network import Architecture, Conformer, GatedPositions, LanguageAdapters, StackedPositions
from toolchain.models.conformer import ConformerEncoder
from toolchain.models.gated_attention import GatedAttention


class PositionalConvolution(nn.Module):
    """One of data2vec's positional convolutions, with a norm without weights (Baevski et al., data2vec, 2022, section 4.2)."""

    def __init__(self, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, features, kernel, padding=kernel // 2, groups=groups)
        self.surplus = 1 - kernel % 2  # an even kernel gives one frame more
        self.norm = nn.LayerNorm(features, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        y = self.conv(x.transpose(1, 2))
        y = y[..., : -self.surplus] if self.surplus else y
        return nn.functional.gelu(self.norm(y.transpose(1, 2)))


class PositionalStack(nn.Module):
    """data2vec's positional convolutions, one after the other."""

    def __init__(self, depth: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PositionalConvolution(features, kernel, groups) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        for layer in self.layers:
            x = layer(x)
        return x


class Adapter(nn.Module):
    """Norm, projection to few features, ReLU, and projection back (Pratap et al., MMS, 2023, section 5.2)."""

    def __init__(self, features: int, inner: int) -> None:
        super().__init__()
        self.norm, self.linear_1, self.linear_2 = nn.LayerNorm(features), nn.Linear(features, inner), nn.Linear(inner, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        result: Tensor = self.linear_2(nn.functional.relu(self.linear_1(self.norm(x))))
        return result


class AdaptedLayer(components.EncoderLayer):
    """TorchAudio's layer, with an adapter after it."""

    def __init__(self, layer: components.EncoderLayer, features: int, inner: int) -> None:
        super().__init__(layer.attention, 0.0, layer.layer_norm_first, layer.feed_forward)
        self.adapter_layer = Adapter(features, inner)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return features of the same shape ``[batch, frames, features]``, and no position bias."""
        x, bias = super().forward(x, *args, **kwargs)
        return x + self.adapter_layer(x), bias


def vary(network: nn.Module, architecture: Architecture) -> None:
    """Replace the parts of TorchAudio's network that an architecture's variant has otherwise, in place.

    Args:
        network: Network of ``torchaudio.models.wav2vec2_model``.
        architecture: Parameters of the network.
    """
    variant, features = architecture.variant, architecture.encoder_embed_dim
    encoder: Any = network.encoder
    transformer = encoder.transformer
    if isinstance(variant, GatedPositions):
        for place, layer in enumerate(transformer.layers):
            heads, buckets, distance = architecture.encoder_num_heads, variant.num_buckets, variant.max_bucket_distance
            layer.attention = GatedAttention(features, heads, buckets, distance, first=place == 0)
    elif isinstance(variant, StackedPositions):
        kernel, groups = architecture.encoder_pos_conv_kernel, architecture.encoder_pos_conv_groups
        transformer.pos_conv_embed = PositionalStack(variant.num_conv_pos_embeddings, features, kernel, groups)
    elif isinstance(variant, LanguageAdapters):
        transformer.layers = nn.ModuleList(AdaptedLayer(layer, features, variant.adapter_attn_dim) for layer in transformer.layers)
    elif isinstance(variant, Conformer):
        encoder.transformer = ConformerEncoder(
            layers=architecture.encoder_num_layers,
            features=features,
            heads=architecture.encoder_num_heads,
            inner=architecture.encoder_ff_interm_features,
            kernel=variant.conv_depthwise_kernel_size,
            positions=variant.position_embeddings_type,
            base=variant.rotary_embedding_base,
            activation=variant.hidden_act,
        )
