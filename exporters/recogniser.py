"""The module to export: from waveform to logits, for any format."""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from device_runner.bitstream.network import EPSILON
from device_runner.errors import AsrDeployError


class Recogniser(nn.Module):
    """A CTC network with the normalisation of its waveform.

    Args:
        network: Network that returns ``(logits [batch, frames, labels], lengths)`` for ``[batch, samples]``, as TorchAudio's networks do.
        normalised_waveform: Whether to apply layer norm over batch and time of the waveform first, as TorchAudio's bundles do.
        epsilon: Constant added to the variance in that norm. Hugging Face's feature extractors use 1e-7.
    """

    def __init__(self, network: nn.Module, *, normalised_waveform: bool, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.network = network
        self.normalised_waveform = normalised_waveform
        self.epsilon = epsilon

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits ``[batch, frames, labels]`` for a waveform ``[batch, samples]``."""
        if self.normalised_waveform:
            waveform = nn.functional.layer_norm(waveform, waveform.shape, eps=self.epsilon)
        logits: Tensor = self.network(waveform)[0]
        return logits


def fold_weight_norm(network: nn.Module) -> None:
    """Replace every weight-normalised weight by its value, in place.

    Without this, quantisers do not find the weight, and codecs code its norm and direction instead.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the norm's last bit depends on how the sum is split, and exports must not depend on the machine
    try:
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
                for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
                    if getattr(getattr(wrapped, "hook", None), "__module__", None) == weight_norm.__module__:
                        del module._load_state_dict_pre_hooks[key]  # reads weights of the norm's older form; cannot be pickled
            for hook in list(module._forward_pre_hooks.values()):  # the older form of weight norm
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(module, hook.name)
    finally:
        torch.set_num_threads(threads)


def minimum_samples(network: nn.Module) -> int:
    """Return the number of samples needed for one frame: the network's ``minimum_samples``, or the extractor's receptive field.

    r = 1 + sum over layers of (kernel - 1) x product of the preceding strides (Araujo et al., Distill 2019, eq. 2).
    """
    if isinstance(known := getattr(network, "minimum_samples", None), int):
        return known
    field, stride = 1, 1
    for layer in network.feature_extractor.conv_layers:  # type: ignore[union-attr]
        field += (layer.conv.kernel_size[0] - 1) * stride
        stride *= layer.conv.stride[0]
    return field


def shortest_input(frames_of: Callable[[int], int], longest: int) -> int | None:
    """Find the smallest number of samples that gives a frame, by bisection.

    Args:
        frames_of: Function from a number of samples to the number of frames. For inputs that are too short it returns 0 or raises.
        longest: Largest number of samples to try.

    Returns:
        The number of samples, or None if ``longest`` samples give no frame.
    """

    def enough(samples: int) -> bool:
        try:
            return frames_of(samples) > 0
        except Exception:  # a kernel longer than its input, or any error of a custom network
            return False

    if not enough(longest):
        return None
    low, high = 0, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def not_exported(error: Exception, what: str) -> AsrDeployError:
    """Return the error for a network that PyTorch cannot trace, such as one whose control flow depends on values.

    Args:
        error: Error that PyTorch raised.
        what: Name of the format.
    """
    cause: BaseException = error
    while cause.__cause__ is not None:  # the outer errors only name PyTorch's step
        cause = cause.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))
    lines = [line.strip() for line in plain.splitlines() if line.strip()] or [type(cause).__name__]
    return AsrDeployError(
        f"PyTorch cannot trace this network for {what}: {lines[0][:300].rstrip('.')}. docs/custom-models.md lists what can be exported."
    )


def not_finite(state: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that contain NaN or infinity."""
    # Minimum and maximum are NaN if any value is; one pass without a mask is twelve times as fast.
    return [name for name, tensor in state.items() if tensor.numel() and not all(map(math.isfinite, map(float, torch.aminmax(tensor))))]
