"""The module that is exported: waveform in, logits out, ready for any format."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from device_runner.bitstream.network import EPSILON
from device_runner.errors import AsrDeployError


class Recogniser(nn.Module):
    """A CTC network together with what its waveform needs before it.

    Args:
        network: gives ``(logits [batch, frames, labels], lengths)`` for ``[batch, samples]``, as TorchAudio's do.
        normalised_waveform: layer norm over the whole waveform first (its batch and time, as TorchAudio's bundles do).
        epsilon: of that norm, under the root; Hugging Face's feature extractors take 1e-7.
    """

    def __init__(self, network: nn.Module, *, normalised_waveform: bool, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.network = network
        self.normalised_waveform = normalised_waveform
        self.epsilon = epsilon

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits ``[batch, frames, labels]`` of a waveform ``[batch, samples]``."""
        if self.normalised_waveform:
            waveform = nn.functional.layer_norm(waveform, waveform.shape, eps=self.epsilon)
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
            for hook in list(module._forward_pre_hooks.values()):  # torch's older form of it
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(module, hook.name)
    finally:
        torch.set_num_threads(threads)


def minimum_samples(network: nn.Module) -> int:
    """Return the fewest samples that give one frame: the receptive field of the convolutional extractor, or what the network says.

    r = 1 + sum over layers of (kernel - 1) x product of the strides before (Araujo et al., Distill 2019, eq. 2).
    """
    if isinstance(known := getattr(network, "minimum_samples", None), int):
        return known
    field, stride = 1, 1
    for layer in network.feature_extractor.conv_layers:  # type: ignore[union-attr]
        field += (layer.conv.kernel_size[0] - 1) * stride
        stride *= layer.conv.stride[0]
    return field


def shortest_input(frames_of: Callable[[int], int], longest: int) -> int | None:
    """Return the fewest samples that give a frame, by bisection; None where ``longest`` give none.

    Args:
        frames_of: frames that so many samples give; 0 or an error of torch where it takes no input so short.
        longest: samples to try.
    """

    def enough(samples: int) -> bool:
        try:
            return frames_of(samples) > 0
        except Exception:  # torch's where a kernel is longer than its input, or whatever a network says to it
            return False

    if not enough(longest):
        return None
    low, high = 0, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def not_exported(error: Exception, what: str) -> AsrDeployError:
    """Return the sentence for a network that torch cannot trace, such as one whose steps depend on values."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return AsrDeployError(f"torch cannot trace this network for {what}: {lines[0][:300].rstrip('.')}.")


def not_finite(state: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    # By extremes: both are NaN where anything is, and one pass without a mask of the tensor's size is twelve times as fast.
    return [name for name, tensor in state.items() if tensor.numel() and not all(map(math.isfinite, map(float, torch.aminmax(tensor))))]
