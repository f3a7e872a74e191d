"""The module that is exported: waveform in, logits out, ready for any format."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Recogniser(nn.Module):
    """A CTC network together with what its waveform needs before it.

    Args:
        network: gives ``(logits [batch, frames, labels], lengths)`` for ``[batch, samples]``, as TorchAudio's do.
        normalised_waveform: layer norm over the whole waveform first (its batch and time, as TorchAudio's bundles do).
    """

    def __init__(self, network: nn.Module, *, normalised_waveform: bool) -> None:
        super().__init__()
        self.network = network
        self.normalised_waveform = normalised_waveform

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits ``[batch, frames, labels]`` of a waveform ``[batch, samples]``."""
        if self.normalised_waveform:
            waveform = nn.functional.layer_norm(waveform, waveform.shape)
        logits: Tensor = self.network(waveform)[0]
        return logits


def fold_weight_norm(network: nn.Module) -> None:
    """Replace every weight-normalised weight by its value, in place.

    Unfolded, quantisers do not find the weight and codecs would code its norm and direction instead.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the norm's last bit depends on how the sum is split, and exports shall be the same everywhere
    try:
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    finally:
        torch.set_num_threads(threads)


def minimum_samples(network: nn.Module) -> int:
    """Return the fewest samples that give one frame: the receptive field of the convolutional extractor.

    r = 1 + sum over layers of (kernel - 1) x product of the strides before (Araujo et al., Distill 2019, eq. 2).
    """
    field, stride = 1, 1
    for layer in network.feature_extractor.conv_layers:  # type: ignore[union-attr]
        field += (layer.conv.kernel_size[0] - 1) * stride
        stride *= layer.conv.stride[0]
    return field


def not_finite(state: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    # By extremes: both are NaN where anything is, and one pass without a mask of the tensor's size is twelve times as fast.
    return [name for name, tensor in state.items() if tensor.numel() and not all(map(math.isfinite, map(float, torch.aminmax(tensor))))]
