"""Conformer layers of wav2vec 2.0, with relative, rotary or no positions."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Positions = Literal["relative", "rotary"] | None
BASE = 10_000.0  # of the relative positions


class FeedForward(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, features: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.intermediate_dense, self.activation, self.output_dense = nn.Linear(features, inner), activation, nn.Linear(inner, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        result: Tensor = self.output_dense(self.activation(self.intermediate_dense(x)))
        return result


class ConvolutionModule(nn.Module):
    """Gated pointwise convolution, depthwise convolution, pointwise convolution (Gulati et al., Conformer, 2020, figure 2).

    The pointwise convolutions are linear layers, and the batch norm is part of the depthwise convolution's weight and bias.
    """

    def __init__(self, features: int, kernel: int, activation: nn.Module) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(features)
        self.pointwise_conv1 = nn.Linear(features, 2 * features, bias=False)
        self.depthwise_conv = nn.Conv1d(features, features, kernel, padding=kernel // 2, groups=features)
        self.activation = activation
        self.pointwise_conv2 = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        x = nn.functional.glu(self.pointwise_conv1(self.layer_norm(x)), dim=-1)
        x = self.depthwise_conv(x.transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.pointwise_conv2(self.activation(x))
        return result


class Attention(nn.Module):
    """Self-attention with relative positions (Dai et al., Transformer-XL, 2019, section 3.3), rotary ones (Su et al., 2021), or none.

    Hugging Face's checkpoints were trained with the rotation before the projections of query and key, not after.
    """

    def __init__(self, features: int, heads: int, positions: Positions) -> None:
        super().__init__()
        self.heads, self.width, self.positions = heads, features // heads, positions
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(features, features) for _ in range(4))
        if positions == "relative":
            self.linear_pos = nn.Linear(features, features, bias=False)
            self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.zeros(heads, self.width)) for _ in range(2))

    def forward(self, x: Tensor, table: Tensor | None) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``; ``table`` comes from ``relative_table`` or ``rotary_table``."""
        batch, frames, features = x.shape
        turned = x
        if self.positions == "rotary":
            assert table is not None
            parts = x.reshape(batch, frames, self.heads, self.width)
            first, second = parts[..., : self.width // 2], parts[..., self.width // 2 :]
            parts = parts * table[0][:, None] + torch.cat((-second, first), dim=-1) * table[1][:, None]
            turned = parts.reshape(batch, frames, features)
        query = self.linear_q(turned).reshape(batch, frames, self.heads, self.width)
        key = self.linear_k(turned).reshape(batch, frames, self.heads, self.width).permute(0, 2, 3, 1)
        value = self.linear_v(x).reshape(batch, frames, self.heads, self.width).transpose(1, 2)
        if self.positions == "relative":
            assert table is not None
            places = self.linear_pos(table).reshape(2 * frames - 1, self.heads, self.width).permute(1, 2, 0)
            far = torch.matmul((query + self.pos_bias_v).transpose(1, 2), places)
            place = torch.arange(frames, device=x.device)
            index = (frames - 1 + place[None, :] - place[:, None]).expand(batch, self.heads, frames, frames)
            scores = torch.matmul((query + self.pos_bias_u).transpose(1, 2), key) + torch.gather(far, 3, index)
        else:
            scores = torch.matmul(query.transpose(1, 2), key)
        mixed = torch.matmul(torch.softmax(scores * self.width**-0.5, dim=-1), value)
        result: Tensor = self.linear_out(mixed.transpose(1, 2).reshape(batch, frames, features))
        return result


class Layer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward (Gulati et al., section 2.4)."""

    def __init__(self, features: int, heads: int, inner: int, kernel: int, positions: Positions, activation: nn.Module) -> None:
        super().__init__()
        self.ffn1_layer_norm, self.self_attn_layer_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.ffn2_layer_norm, self.final_layer_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.ffn1, self.ffn2 = (FeedForward(features, inner, activation) for _ in range(2))
        self.self_attn = Attention(features, heads, positions)
        self.conv_module = ConvolutionModule(features, kernel, activation)

    def forward(self, x: Tensor, table: Tensor | None) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.self_attn(self.self_attn_layer_norm(x), table)
        x = x + self.conv_module(x)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        result: Tensor = self.final_layer_norm(x)
        return result


class ConformerEncoder(nn.Module):
    """The encoder after the projection of the features.

    Args:
        layers: Number of layers.
        features: Features of the input and of the output.
        heads: Number of heads.
        inner: Features in the feed-forwards.
        kernel: Kernel of the depthwise convolutions, odd.
        positions: Kind of positions.
        base: Base of the wavelengths of rotary positions.
        activation: ``gelu`` or ``swish``.
    """

    def __init__(
        self, layers: int, features: int, heads: int, inner: int, kernel: int, positions: Positions, base: float, activation: str
    ) -> None:
        super().__init__()
        self.features, self.width, self.positions, self.base = features, features // heads, positions, base
        act = nn.SiLU() if activation == "swish" else nn.GELU()
        self.layers = nn.ModuleList(Layer(features, heads, inner, kernel, positions, act) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(features)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return features of the same shape ``[batch, frames, features]``."""
        frames, table = x.shape[1], None
        if self.positions == "relative":
            table = relative_table(frames, self.features, x.device)
        elif self.positions == "rotary":
            table = rotary_table(frames, self.width, self.base, x.device)
        for layer in self.layers:
            x = layer(x, table)
        result: Tensor = self.layer_norm(x)
        return result


def relative_table(frames: int, features: int, device: torch.device) -> Tensor:
    """Return sines and cosines in turn ``[2 * frames - 1, features]`` of the distances from ``frames - 1`` down to ``1 - frames``."""
    distance = frames - 1 - torch.arange(2 * frames - 1, device=device).float()
    frequency = torch.exp(torch.arange(0, features, 2, device=device).float() * (-math.log(BASE) / features))
    angle = distance[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).reshape(2 * frames - 1, features)


def rotary_table(frames: int, width: int, base: float, device: torch.device) -> Tensor:
    """Return cosines and sines ``[2, frames, width]`` of the angles by which features are turned; both halves have the same angles."""
    frequency = base ** (torch.arange(0, width, 2, device=device).float() / -width)
    angle = torch.arange(frames, device=device).float()[:, None] * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return torch.stack((angle.cos(), angle.sin()))
