"""Sender-side codecs without entropy coding: half precision, and uniform quantisation per output channel.

Their bitstream is one safetensors file, so that a receiver needs no decoder of ours: a cast for ``fp16``; for
``uniform`` unpacking n-bit integers and one multiplication. The project's own container comes with the coding codecs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from device_runner.errors import AsrDeployError
from toolchain.compression.codec import codec


@codec("fp16")
@dataclass(frozen=True)
class Fp16:
    """IEEE half precision storage."""

    def encode(self, state: dict[str, Tensor]) -> bytes:
        """Return the weights as fp16 safetensors."""
        return save({name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()})

    def decode(self, bitstream: bytes) -> dict[str, Tensor]:
        """Return the weights in fp32."""
        state = _load(bitstream)
        if any(tensor.dtype != torch.float16 for tensor in state.values()):
            raise AsrDeployError("The bitstream is not one of the fp16 codec: it holds other types.")
        return {name: tensor.float() for name, tensor in state.items()}


@codec("uniform")
@dataclass(frozen=True)
class Uniform:
    """Symmetric uniform quantisation of every weight with two or more dimensions, a scale for each output channel.

    What has one dimension (biases and norms, under one per cent of the parameters) is stored in fp16. The scale of a
    channel is the one of a small grid below its largest magnitude that gives the least squared error: clipping a few
    large weights pays below six bits.

    Args:
        bits: per weight, 2 to 8.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise AsrDeployError(f"The uniform codec takes 2 to 8 bits, not {self.bits}.")

    def encode(self, state: dict[str, Tensor]) -> bytes:
        """Return safetensors with packed integers, scales and shapes for weights, fp16 for the rest."""
        records: dict[str, Tensor] = {"bits": torch.tensor([self.bits], dtype=torch.uint8)}
        for name, tensor in state.items():
            if tensor.ndim < 2:
                records[f"{name}:half"] = tensor.to(torch.float16)
                continue
            rows = tensor.float().reshape(tensor.shape[0], -1)
            scales = _best_scales(rows, self.bits).to(torch.float16)
            levels = _quantise(rows, scales.float(), self.bits) + 2 ** (self.bits - 1)
            records[f"{name}:levels"] = torch.from_numpy(pack(levels.numpy().astype(np.uint8).ravel(), self.bits))
            records[f"{name}:scales"] = scales
            records[f"{name}:shape"] = torch.tensor(tensor.shape, dtype=torch.int32)
        return save(records)

    def decode(self, bitstream: bytes) -> dict[str, Tensor]:
        """Return the reconstructed weights in fp32."""
        records = _load(bitstream)
        try:
            bits = Uniform(int(records.pop("bits")[0])).bits
            state = {}
            for key in records:
                name, kind = key.rsplit(":", 1)
                if kind == "half":
                    state[name] = records[key].float()
                elif kind == "levels":
                    shape = records[f"{name}:shape"].tolist()
                    levels = unpack(records[key].numpy(), bits, int(np.prod(shape))).astype(np.float32) - 2 ** (bits - 1)
                    scales = records[f"{name}:scales"].float()
                    state[name] = (torch.from_numpy(levels).reshape(shape[0], -1) * scales[:, None]).reshape(shape)
        except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
            raise AsrDeployError(f"The bitstream is not one of the uniform codec: {error}.") from error
        return state


def pack(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pack levels ``[n]`` below 2^bits into bytes, most significant bit first."""
    return np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :].ravel())


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Undo ``pack``: return ``count`` levels.

    Raises:
        ValueError: fewer than ``count`` levels are there.
    """
    flat = np.unpackbits(packed)[: count * bits]
    if flat.size < count * bits:
        raise ValueError(f"{flat.size // bits} levels instead of {count}")
    return np.packbits(np.pad(flat.reshape(count, bits), ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


def _quantise(rows: Tensor, scales: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1)
    return torch.clamp(torch.round(rows / scales[:, None]), -top, top - 1)


def _best_scales(rows: Tensor, bits: int) -> Tensor:
    largest = rows.abs().amax(dim=1).clamp_min(1e-8)
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for share in torch.linspace(0.35, 1.0, 27).tolist():
        # Rounded to fp16 here, because that is what is stored; the smallest normal keeps a zero row finite.
        scales = (largest * share / (2 ** (bits - 1) - 0.5)).half().float().clamp_min(6.2e-5)
        error = (rows - _quantise(rows, scales, bits) * scales[:, None]).square().sum(dim=1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best


def _load(bitstream: bytes) -> dict[str, Tensor]:
    try:
        return load(bitstream)
    except (SafetensorError, ValueError) as error:
        raise AsrDeployError(f"The bitstream is cut or is not one: {error}.") from error
