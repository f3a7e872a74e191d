"""Rewrites of TorchAudio's modules that run faster on devices and are equal up to rounding.

They apply before the export to any format. Modules of other families stay as they are. docs/exporters.md lists the gain of each rewrite.
"""

import copy
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model
from torchaudio.models.wav2vec2 import components

from exporters.recogniser import Recogniser

TAPS = 16  # taps of the positional convolution per matrix product: 16 x 48 = 768 inputs in BASE, wide enough for the kernels


class Windows(Protocol):
    """A layout of a convolution's windows as rows of a matrix, and of its weight to match."""

    @staticmethod
    def of(x: Tensor, kernel: int, stride: int) -> Tensor:
        """Return the windows ``[..., frames, kernel * channels]`` of ``[..., time, channels]``."""
        ...

    @staticmethod
    def weight(weight: Tensor) -> Tensor:
        """Return the weight ``[out, kernel * channels]`` of a convolution's ``[out, channels, kernel]``."""
        ...


class Slices:
    """Windows by slices, reshapes and one concatenation, for ONNX Runtime. The taps of one stride are adjacent in memory."""

    @staticmethod
    def of(x: Tensor, kernel: int, stride: int) -> Tensor:
        """See ``Windows``. The order is tap by tap."""
        *batch, time, channels = x.shape
        frames = (time - kernel) // stride + 1
        whole, rest = divmod(kernel, stride)
        parts = []
        for first in range(0, whole * stride, stride):
            parts.append(x[..., first : first + frames * stride, :].reshape(*batch, frames, stride * channels))
        for first in range(whole * stride, whole * stride + rest):
            parts.append(x[..., first : first + (frames - 1) * stride + 1 : stride, :])
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    @staticmethod
    def weight(weight: Tensor) -> Tensor:
        """See ``Windows``."""
        return weight.transpose(1, 2).flatten(1).contiguous()


class Unfold:
    """Windows by one view and one copy, for ExecuTorch, where slices do not export with a dynamic length."""

    @staticmethod
    def of(x: Tensor, kernel: int, stride: int) -> Tensor:
        """See ``Windows``. The order is channel by channel."""
        return x.unfold(-2, kernel, stride).flatten(-2)

    @staticmethod
    def weight(weight: Tensor) -> Tensor:
        """See ``Windows``."""
        return weight.flatten(1).contiguous()


class ConvolutionAsProduct(nn.Module):
    """A convolution without padding as one matrix product over windows, channels last.

    Args:
        conv: Convolution with one group and no padding.
        windows: Layout of its windows.
    """

    def __init__(self, conv: nn.Conv1d, windows: type[Windows]) -> None:
        super().__init__()
        self.kernel, self.stride, self.windows = conv.kernel_size[0], conv.stride[0], windows
        self.conv = _linear(windows.weight(conv.weight), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, frames, out]`` for ``[batch, time, channels]``."""
        result: Tensor = self.conv(self.windows.of(x, self.kernel, self.stride))
        return result


class NormalisedOverTime(nn.Module):
    """The first convolution with its group norm over time (one channel per group) folded into its weights.

    Mean and variance of a linear map w.x over time are w.mean(x) and w' Cov(x) w, so a 10 x 10 covariance of the windows replaces
    two passes over 512 channels: y = (x - mean(x)) (W diag(gamma / sqrt(w' Cov(x) w + eps))) + beta.
    """

    def __init__(self, conv: nn.Conv1d, norm: nn.GroupNorm, windows: type[Windows]) -> None:
        super().__init__()
        self.kernel, self.stride, self.windows, self.epsilon = conv.kernel_size[0], conv.stride[0], windows, norm.eps
        # The bias of the convolution cancels, because the norm subtracts the mean.
        self.weight = nn.Parameter(windows.weight(conv.weight).t().contiguous(), requires_grad=False)
        self.gain = nn.Parameter(norm.weight.clone(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, frames, out]`` for ``[batch, time, 1]``."""
        frames = self.windows.of(x, self.kernel, self.stride)
        frames = frames - frames.mean(1, keepdim=True)
        transposed = frames.transpose(1, 2)
        covariance = torch.matmul(transposed, frames) / frames.shape[1]
        variance = (self.weight * torch.matmul(covariance, self.weight)).sum(1, keepdim=True)
        return torch.matmul(frames, self.weight * (self.gain * torch.rsqrt(variance + self.epsilon))) + self.bias


class ChannelsLastExtractor(nn.Module):
    """TorchAudio's feature extractor with channels last, so that its norms need no transposes."""

    def __init__(self, conv_layers: nn.ModuleList) -> None:
        super().__init__()
        self.conv_layers = conv_layers

    def forward(self, x: Tensor, length: None) -> tuple[Tensor, None]:
        """Return features ``[batch, frames, channels]`` for a waveform ``[batch, samples]``, and no lengths."""
        x = x[:, :, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x, None


def convolutions_as_products(network: Wav2Vec2Model, windows: type[Windows]) -> None:
    """Replace the extractor's convolutions by matrix products, in place. A group norm is folded into the weights."""
    layers = []
    for block in network.feature_extractor.conv_layers:
        norm = block.layer_norm
        if isinstance(norm, nn.GroupNorm):
            layers.append(nn.Sequential(NormalisedOverTime(block.conv, norm, windows), nn.GELU()))
            continue
        product = ConvolutionAsProduct(block.conv, windows)
        if norm is None:
            layers.append(nn.Sequential(product, nn.GELU()))
        else:
            layers.append(nn.Sequential(product, _layer_norm(norm), nn.GELU()))
    network.feature_extractor = ChannelsLastExtractor(nn.ModuleList(layers))


class PositionalProducts(nn.Module):
    """The grouped positional convolution as matrix products of ``TAPS`` taps each, shifted and added.

    One product per tap is too narrow, and one for all 128 taps copies every input 128 times. With 16 taps, every input is copied 16
    times and every position has 128 / 16 partial sums; output t adds the j-th of position t + 16 j.
    """

    def __init__(self, embedding: components.ConvolutionalPositionalEmbedding, windows: type[Windows]) -> None:
        super().__init__()
        conv = embedding.conv
        self.groups, self.kernel = conv.groups, conv.kernel_size[0]
        self.chunks = -(-self.kernel // TAPS)
        extra = self.chunks * TAPS - self.kernel  # leading zero taps, if TAPS does not divide the kernel size
        self.padding = (conv.padding[0] + extra, self.kernel - 1 - conv.padding[0])
        self.windows = windows
        weight = nn.functional.pad(conv.weight, (extra, 0))  # [out, channels of a group, taps]
        out, channels, _ = weight.shape
        weight = weight.reshape(self.groups, out // self.groups, channels, self.chunks, TAPS)
        weight = weight.permute(0, 3, 1, 2, 4).flatten(0, 2)
        weight = windows.weight(weight).reshape(self.groups, self.chunks * out // self.groups, TAPS * channels)
        if windows is Slices:
            self.conv: nn.Module = _Groups(weight)
        else:  # XNNPACK accepts constant weights only in linear layers
            self.conv = nn.ModuleList(_linear(each, None) for each in weight)
        self.bias = nn.Parameter(conv.bias.clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, frames, features]`` for an input of the same shape with batch 1."""
        batch, time, features = x.shape
        x = nn.functional.pad(x, (0, 0, *self.padding))
        x = x.reshape(-1, self.groups, features // self.groups).transpose(0, 1)
        x = self.windows.of(x, TAPS, 1)
        if isinstance(self.conv, nn.ModuleList):
            y = torch.stack([linear(x[group]) for group, linear in enumerate(self.conv)])
        else:
            y = self.conv(x)
        width = features // self.groups
        total = y[:, :time, :width]
        for chunk in range(1, self.chunks):
            total = total + y[:, chunk * TAPS : chunk * TAPS + time, chunk * width : (chunk + 1) * width]
        return nn.functional.gelu(total.transpose(0, 1).reshape(batch, time, features) + self.bias)


class _Groups(nn.Module):
    """One matrix product per group: ``[groups, time, in]`` to ``[groups, time, out]``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().transpose(1, 2).contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight)


def positional_as_products(network: Wav2Vec2Model, windows: type[Windows]) -> None:
    """Replace the positional convolution by matrix products, in place."""
    transformer = network.encoder.transformer
    transformer.pos_conv_embed = PositionalProducts(transformer.pos_conv_embed, windows)


class MergedAttention(nn.Module):
    """Self-attention that computes query, key and value in one matrix product, with the query's scale in the weights."""

    def __init__(self, attention: components.SelfAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        weight = torch.cat([attention.q_proj.weight * attention.scaling, attention.k_proj.weight, attention.v_proj.weight])
        bias = torch.cat([attention.q_proj.bias * attention.scaling, attention.k_proj.bias, attention.v_proj.bias])
        self.query_key_value = _linear(weight, bias)
        self.out_proj = attention.out_proj

    def forward(
        self, x: Tensor, attention_mask: None = None, position_bias: None = None, key_padding_mask: None = None
    ) -> tuple[Tensor, None]:
        """Return ``[batch, frames, features]`` of the same shape."""
        batch, time, features = x.shape
        parts = self.query_key_value(x).reshape(batch, time, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        weights = torch.softmax(torch.matmul(query, key.transpose(2, 3)), dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(batch, time, features)
        return self.out_proj(mixed), None


def merged_attention(network: Wav2Vec2Model) -> None:
    """Merge query, key and value of every layer, in place."""
    for layer in network.encoder.transformer.layers:
        layer.attention = MergedAttention(layer.attention)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def _layer_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    plain = nn.LayerNorm(norm.normalized_shape, norm.eps, device="meta")
    plain.weight, plain.bias = norm.weight, norm.bias
    return plain


class Product(nn.Module):
    """A linear layer with weight ``[in, out]``: ONNX's MatMul needs no transpose, and the weight keeps its name."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().contiguous(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out]`` for ``[..., in]``."""
        x = torch.matmul(x, self.weight)
        return x if self.bias is None else x + self.bias


def for_device(recogniser: Recogniser, format_name: str) -> tuple[Recogniser, tuple[str, ...]]:
    """Return a copy of a model with the rewrites that are faster on a format's runtime.

    Args:
        recogniser: Model. It is not changed, and the copy shares the weights that no rewrite changes.
        format_name: Name of the format.

    Returns:
        The copy in evaluation mode, and the names of the rewrites.
    """
    network = recogniser.network
    shared = {id(parameter): parameter for parameter in network.parameters()}
    network = copy.deepcopy(network, memo=dict(shared))
    names: list[str] = []
    if _rewritable(network):
        windows: type[Windows] = Slices if format_name == "onnx" else Unfold
        convolutions_as_products(network, windows)
        names.append("convolutions_as_products")
        positional_as_products(network, windows)
        names.append("positional_as_products")
        merged_attention(network)
        names.append("merged_attention")
    if format_name == "onnx":
        _linears_as_products(network)
    rewritten = Recogniser(network, normalised_waveform=recogniser.normalised_waveform, epsilon=recogniser.epsilon)
    return rewritten.eval(), tuple(names)


def _rewritable(network: nn.Module) -> TypeGuard[Wav2Vec2Model]:
    """Tell whether the rewrites were verified for a network. Related families have the same class but another encoder."""
    if not isinstance(network, Wav2Vec2Model) or not isinstance(network.encoder.transformer, components.Transformer):
        return False
    if type(network.encoder.transformer.pos_conv_embed) is not components.ConvolutionalPositionalEmbedding:
        return False
    attention = (each for each in network.modules() if isinstance(each, components.EncoderLayer))
    return all(type(each.attention) is components.SelfAttention for each in attention)


def is_convolution(name: str) -> bool:
    """Tell whether a weight or module of a rewritten network belongs to a convolution, by its name."""
    return any(part in name for part in ("conv_layers", "pos_conv_embed", "convolution"))


def _linears_as_products(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Product(child))
        else:
            _linears_as_products(child)
