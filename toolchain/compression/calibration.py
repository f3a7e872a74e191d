"""Calibration of codecs: moments of every layer's input, and the sensitivity of the output to an error in each layer."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from device_runner.files import atomic_path
from exporters.recogniser import Recogniser

Matrix = npt.NDArray[np.float32]
Waveform = npt.NDArray[np.float32]
MOST_COLUMNS = 4608  # second moments of wider layers would not fit into memory
PROBES = 8  # number of recordings for the sensitivities
NOISE = 0.03  # size of the test error relative to the layer's output
LEAST, MOST = 1 / 64, 64  # limits relative to the median; values outside them are measurement noise


@dataclass(frozen=True)
class Calibration:
    """Statistics of a model's layers, by the names of their weights.

    Args:
        source: Description of the recordings.
        moments: Second moments ``[columns, columns]`` of the inputs, per frame.
        means: Mean inputs ``[columns]``.
        sensitivity: Divergence of the label distribution (nats per frame) for one unit of error energy in the layer's output, or in
            its weights if the layer has no moment.
        tuned_on: Ids of the recordings, for the bitstream's header.
    """

    source: str
    moments: dict[str, Matrix] = field(default_factory=dict)
    means: dict[str, Matrix] = field(default_factory=dict)
    sensitivity: dict[str, float] = field(default_factory=dict)
    tuned_on: tuple[str, ...] = ()

    def moment(self, name: str) -> Matrix | None:
        """Return the second moment ``[columns, columns]`` of a weight's inputs, or None if it was not measured."""
        return self.moments.get(name)

    def mean(self, name: str) -> Matrix | None:
        """Return the mean input ``[columns]`` of a weight, or None if it was not measured."""
        return self.means.get(name)


def calibrate(
    recogniser: Recogniser,
    recordings: Sequence[Waveform],
    *,
    source: str,
    cache: Path | None = None,
    identity: str = "",
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Calibration:
    """Measure moments of inputs on recordings, and sensitivities on the first ``PROBES`` of them.

    Args:
        recogniser: Model in evaluation mode. Its weights are changed during the measurement and restored afterwards.
        recordings: Waveforms ``[samples]`` from a set that WER is not reported on.
        source: Description of the recordings, for the bitstream's header.
        cache: Folder that stores measurements; None stores nothing.
        identity: Identity of the weights. A stored measurement of other weights is not reused.
        progress: Called with the name of the current step and the completed fraction, from 0 to 1.

    Returns:
        The statistics.
    """
    path = None
    if cache is not None:
        key = hashlib.sha256(f"2 {identity} {source} ".encode() + b"".join(each.tobytes() for each in recordings)).hexdigest()
        path = cache / f"calibration-{key[:16]}.safetensors"
        earlier = _load(path, source)
        if earlier is not None:
            return earlier
    layers: dict[str, nn.Module] = {
        f"{name}.weight": each for name, each in recogniser.network.named_modules() if isinstance(each, nn.Linear | nn.Conv1d)
    }
    with torch.inference_mode():
        moments, means = _moments(recogniser, layers, recordings, progress)
        sensitivity = _sensitivity(recogniser, layers, moments, recordings[:PROBES], progress)
    measured = Calibration(source, moments, means, sensitivity)
    if path is not None:
        _save(measured, path)
    return measured


def _moments(
    recogniser: Recogniser, layers: dict[str, nn.Module], recordings: Sequence[Waveform], progress: Callable[[str, float], None]
) -> tuple[dict[str, Matrix], dict[str, Matrix]]:
    sums: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    frames: dict[str, int] = {}

    def watch(name: str, layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            rows = _input_rows(layer, inputs[0])
            frames[name] = frames.get(name, 0) + len(rows)
            totals[name] = totals.get(name, torch.zeros(rows.shape[1])) + rows.sum(0)
            if rows.shape[1] <= MOST_COLUMNS:
                sums[name] = sums.get(name, torch.zeros(rows.shape[1], rows.shape[1])).addmm_(rows.T, rows)

        return hook

    hooks = [layer.register_forward_hook(watch(name, layer)) for name, layer in layers.items()]
    try:
        for number, waveform in enumerate(recordings):
            progress("moments of layer inputs", 0.5 * number / len(recordings))
            recogniser(torch.from_numpy(waveform)[None])
    finally:
        for each in hooks:
            each.remove()
    means = {name: (total / frames[name]).numpy() for name, total in totals.items()}
    return {name: (each / frames[name]).numpy() for name, each in sums.items()}, means


def _input_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return a layer's input as rows ``[frames, columns]``, the factors of its weight's rows; groups are concatenated."""
    if not isinstance(layer, nn.Conv1d):
        return inputs.reshape(-1, inputs.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)  # numbers even for padding="same"
    (kernel,), (step,) = layer.kernel_size, layer.dilation
    # [batch, channels, frames, kernel]
    windows = padded.unfold(2, (kernel - 1) * step + 1, layer.stride[0])[..., ::step]
    batch, channels, count, kernel = windows.shape
    grouped = windows.reshape(batch, layer.groups, channels // layer.groups, count, kernel)
    return grouped.permute(0, 1, 3, 2, 4).reshape(batch * layer.groups * count, channels // layer.groups * kernel)


def _sensitivity(
    recogniser: Recogniser,
    layers: dict[str, nn.Module],
    moments: dict[str, Matrix],
    recordings: Sequence[Waveform],
    progress: Callable[[str, float], None],
) -> dict[str, float]:
    expected = [_log_probabilities(recogniser, each) for each in recordings]
    generator = torch.Generator().manual_seed(0)
    found: dict[str, float] = {}
    for number, (name, layer) in enumerate(layers.items()):
        progress("sensitivity of layers", 0.5 + 0.5 * number / len(layers))
        weight = layer.weight
        assert isinstance(weight, Tensor)
        original = weight.clone()
        rows = original.reshape(original.shape[0], -1)
        noise = torch.randn(rows.shape, generator=generator)
        moment = torch.from_numpy(moments[name]) if name in moments else None
        noise *= NOISE * (_energy(rows, moment) / _energy(noise, moment)) ** 0.5
        weight.copy_((rows + noise).reshape(original.shape))
        divergence, frames = 0.0, 0
        for wanted, waveform in zip(expected, recordings, strict=True):
            changed = _log_probabilities(recogniser, waveform)
            divergence += float((wanted.exp() * (wanted - changed)).sum())
            frames += len(wanted)
        weight.copy_(original)
        found[name] = max(divergence / max(frames, 1), 1e-12) / max(_energy(noise, moment), 1e-30)
    middle = float(np.median(list(found.values()) or [1.0]))
    return {name: float(np.clip(each, LEAST * middle, MOST * middle)) for name, each in found.items()}


def _energy(rows: Tensor, moment: Tensor | None) -> float:
    return float(((rows @ moment) * rows).sum() if moment is not None else rows.square().sum())


def _log_probabilities(recogniser: Recogniser, waveform: Waveform) -> Tensor:
    logits: Tensor = recogniser(torch.from_numpy(waveform)[None])[0]
    return torch.log_softmax(logits.double(), dim=-1)


def _save(calibration: Calibration, path: Path) -> None:
    arrays = {f"moment:{name}": each for name, each in calibration.moments.items()}
    arrays |= {f"mean:{name}": each for name, each in calibration.means.items()}
    arrays |= {f"sensitivity:{name}": np.array([each]) for name, each in calibration.sensitivity.items()}
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(each) for name, each in arrays.items()}, temporary)


def _load(path: Path, source: str) -> Calibration | None:
    parts: dict[str, dict[str, Matrix]] = {"moment": {}, "mean": {}, "sensitivity": {}}
    try:
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                kind, name = key.split(":", 1)
                parts[kind][name] = file.get_tensor(key)
        sensitivity = {name: float(each[0]) for name, each in parts["sensitivity"].items()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError):  # missing or damaged: measure again
        return None
    return Calibration(source, parts["moment"], parts["mean"], sensitivity)
