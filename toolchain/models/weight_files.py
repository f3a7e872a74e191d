"""Weights from files into networks: read without running anything in them, one copy in memory, every complaint with its reason."""

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
    """Return the sha256 of a file of weights; AsrDeployError where there is none."""
    if not path.is_file():
        raise AsrDeployError(f"Weights file {path} does not exist.")
    return sha256_of(path)


def read_state(path: Path) -> State:
    """Return the tensors of a file by name: .safetensors, else what ``torch.save`` wrote, of which only tensors are taken.

    Raises:
        AsrDeployError: it cannot be read, or holds something else.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever torch's reader stumbles over; nothing in it is executed
        raise _unreadable(path) from error
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) and _is_dense(each) for key, each in state.items()):
        raise AsrDeployError(f"{path} is not a state dict (names to tensors).")
    return state


def _unreadable(path: Path) -> AsrDeployError:
    return AsrDeployError(f"{path} cannot be read as weights (.safetensors, or .pt/.pth with tensors only): it is cut, or something else.")


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def read_tuned_on(path: Path) -> tuple[str, ...] | None:
    """Return the ids of the utterances that a file's weights were calibrated with, as ``asrdeploy decompress`` writes them into it.

    None: it is no file of ``decompress``.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(TUNED_ON)
    except Exception as error:  # safetensors has a class of errors of its own, and passes on the system's
        raise _unreadable(path) from error
    if written is None:
        return None
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(written)
    except ValidationError as error:
        raise AsrDeployError(f"{path}: its entry {TUNED_ON} is no list of utterance ids; decompress the bitstream again.") from error


def owned(state: State) -> State:
    """Return weights in float32 with a contiguous memory each; only views of a memory, as .safetensors files give them, are copied."""
    found, seen = {}, set()
    for name, tensor in state.items():
        memory = tensor.untyped_storage()
        whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        found[name] = (tensor if whole else tensor.clone(memory_format=torch.contiguous_format)).to(torch.float32)
    return found


def weights_in(network: nn.Module) -> State:
    """Return a network's weights by name, as codecs see them: what it holds in floating point."""
    return {name: each for name, each in network.state_dict().items() if isinstance(each, Tensor) and each.is_floating_point()}


def load_into(
    network: nn.Module, state: State, source: str, *, assign: bool = False, original: Callable[[str], str] = lambda name: name
) -> None:
    """Put weights into a network.

    Args:
        network: it is changed.
        state: all of its weights by name.
        source: where they come from, for messages.
        assign: the network takes these very tensors.
        original: gives the name that a weight has in its file.

    Raises:
        AsrDeployError: weights that are missing, unknown, of another shape, or not finite.
    """
    broken = not_finite({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
    if broken:
        raise AsrDeployError(f"{source} holds NaN or infinite weights, first in {original(broken[0])}.")
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
    """Return torch's tensors as float32 arrays."""
    return {name: tensor.detach().float().contiguous().numpy() for name, tensor in state.items()}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, shapes and float32 values: the same for the same weights, whatever file they came in."""
    summary = hashlib.sha256()
    for name, weights in sorted(as_arrays(state).items()):
        summary.update(f"{name} {weights.shape}\n".encode())
        summary.update(weights.astype("<f4").tobytes())
    return summary.hexdigest()
