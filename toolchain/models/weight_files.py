"""Load weights from files into networks, without running code from the files and with one copy in memory."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from exporters.recogniser import not_finite

TUNED_ON = "asrdeploy.tuned_on"  # in the metadata of .safetensors files
State = dict[str, Tensor]


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file of weights.

    Raises:
        AsrDeployError: If the file does not exist.
    """
    if not path.is_file():
        raise AsrDeployError(f"Weights file {path} does not exist.")
    return sha256_of(path)


def read_state(path: Path) -> State:
    """Read the tensors of a file by name: a .safetensors file, or a file of ``torch.save`` that contains only tensors.

    Raises:
        AsrDeployError: If the file cannot be read, or is not a state dict.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files; nothing in the file is executed
        raise _unreadable(path) from error
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) and _is_dense(each) for key, each in state.items()):
        raise AsrDeployError(f"{path} is not a state dict. Save the weights with torch.save(model.state_dict(), PATH).")
    return state


def _unreadable(path: Path) -> AsrDeployError:
    return AsrDeployError(f"{path} cannot be read as weights: it is cut, or not a .safetensors file or a .pt/.pth file with tensors only.")


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def read_tuned_on(path: Path) -> tuple[str, ...] | None:
    """Read the ids of the utterances that a file's weights were calibrated with.

    Returns:
        The ids, or None if ``asrdeploy decompress`` did not write the file.

    Raises:
        AsrDeployError: If the file cannot be read.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(TUNED_ON)
    except Exception as error:  # safetensors raises its own errors and those of the system
        raise _unreadable(path) from error
    if written is None:
        return None
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(written)
    except ValidationError as error:
        raise AsrDeployError(f"{path}: its entry {TUNED_ON} is not a list of utterance ids. Decompress the bitstream again.") from error


def owned(state: State) -> State:
    """Return float32 weights, each with its own contiguous memory. Only views, such as those of .safetensors files, are copied."""
    found, seen = {}, set()
    for name, tensor in state.items():
        memory = tensor.untyped_storage()
        whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        found[name] = (tensor if whole else tensor.clone(memory_format=torch.contiguous_format)).to(torch.float32)
    return found


def weights_in(network: nn.Module) -> State:
    """Return a network's weights by name, as codecs take them: its floating-point tensors."""
    return {name: each for name, each in network.state_dict().items() if isinstance(each, Tensor) and each.is_floating_point()}


def load_into(
    network: nn.Module, state: State, source: str, *, assign: bool = False, original: Callable[[str], str] = lambda name: name
) -> None:
    """Load weights into a network, in place.

    Args:
        network: Network to change.
        state: All of its weights by name.
        source: Origin of the weights, for messages.
        assign: Whether the network uses these tensors instead of copying them.
        original: Function from the name of a weight to its name in the file, for messages.

    Raises:
        AsrDeployError: If weights are missing, unknown, of another shape, or not finite.
    """
    broken = not_finite({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
    if broken:
        raise AsrDeployError(f"{source} contains NaN or infinite weights, first in {original(broken[0])}.")
    wanted = weights_in(network).keys()
    try:
        result = network.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        line = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), str(error).splitlines()[-1])
        line = re.sub(r"(?<=size mismatch for )[^\s:]+", lambda match: original(match[0]), line)
        raise AsrDeployError(f"{source} does not fit the model: {line.rstrip('.')}.") from error
    missing = [name for name in result.missing_keys if name in wanted]
    if missing or result.unexpected_keys:
        first = f"{original(missing[0])} is missing" if missing else f"{original(result.unexpected_keys[0])} is unknown"
        count = len(missing) + len(result.unexpected_keys)
        raise AsrDeployError(f"{source} does not fit the model: {first} ({count} names differ).")


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Return tensors as float32 arrays."""
    return {name: tensor.detach().float().contiguous().numpy() for name, tensor in state.items()}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes and float32 values, which does not depend on the file format."""
    summary = hashlib.sha256()
    for name, weights in sorted(as_arrays(state).items()):
        summary.update(f"{name} {weights.shape}\n".encode())
        summary.update(weights.astype("<f4").tobytes())
    return summary.hexdigest()
