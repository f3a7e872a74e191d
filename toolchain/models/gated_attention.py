"""Self-attention of WavLM: relative positions in buckets, weighted by a gate that depends on the content."""

import math

import torch
from torch import Tensor, nn

GATE = 8  # outputs of the gate's projection for each head: two gates, each the sum of four


class GatedAttention(nn.Module):
    """Self-attention with gated relative positions (Chen et al., WavLM, 2022, eq. 4 to 7; buckets: Raffel et al., T5, 2020).

    TorchAudio's module has one weight for query, key and value. Here, each is a linear layer, which codecs and schemes find.

    Args:
        features: Features of the input and of the output.
        heads: Number of heads.
        buckets: Number of buckets, half of them for each direction.
        distance: Distance in frames from which all positions share the last bucket.
        first: Whether this is the first layer, which has the biases of the positions for all layers.
    """

    def __init__(self, features: int, heads: int, buckets: int, distance: int, *, first: bool) -> None:
        super().__init__()
        self.embed_dim = features  # TorchAudio's layer reads it
        self.heads, self.buckets, self.distance = heads, buckets, distance
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(features, features) for _ in range(4))
        self.gru_rel_pos_linear = nn.Linear(features // heads, GATE)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.rel_attn_embed = nn.Embedding(buckets, heads) if first else None

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, position_bias: Tensor | None = None, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features of the same shape ``[batch, frames, features]``, and the biases ``[heads, frames, frames]``."""
        batch, frames, features = x.shape
        if self.rel_attn_embed is not None:
            position_bias = self._biases(frames, self.rel_attn_embed)
        assert position_bias is not None, "the first layer makes the biases"
        width = features // self.heads
        gates = self.gru_rel_pos_linear(x.reshape(batch, frames, self.heads, width).transpose(1, 2))
        gates = torch.sigmoid(gates.reshape(batch, self.heads, frames, 2, GATE // 2).sum(-1))
        gate = gates[..., :1] * (gates[..., 1:] * self.gru_rel_pos_const - 1.0) + 2.0
        query, key, value = (
            layer(x).reshape(batch, frames, self.heads, width).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = torch.matmul(query * width**-0.5, key.transpose(2, 3)) + gate * position_bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, features)), position_bias

    def _biases(self, frames: int, table: nn.Embedding) -> Tensor:
        """Return ``[heads, frames, frames]`` for query and key."""
        place = torch.arange(frames, device=table.weight.device)
        offset = place[None, :] - place[:, None]
        half = self.buckets // 2
        exact = half // 2  # so many distances have a bucket each; the others share buckets of growing width
        distance = offset.abs()
        wide = torch.log(distance.clamp(min=exact).float() / exact) / math.log(self.distance / exact) * (half - exact)
        shared = (exact + wide.to(torch.int64)).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, shared) + (offset > 0).to(torch.int64) * half
        biases: Tensor = table(bucket).permute(2, 0, 1)
        return biases
