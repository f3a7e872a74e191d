"""Load weights from files into networks, without running code from the files and with one copy in memory."""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from device_runner.files import readable_by_libraries, sha256_of
from exporters.recogniser import not_finite
from toolchain.models.not_weights import is_safetensors, why_not_weights
from toolchain.models.weight_bounds import check_archive, check_tensors

TUNED_ON = "asrdeploy.tuned_on"  # in the metadata of .safetensors files
# Where trainers put the weights of the model in their checkpoints, such as PyTorch Lightning (state_dict) and fairseq (model).
NESTED = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
DEEPEST = 4  # such keys within one another
NAMED = 3  # names in a message
State = dict[str, Tensor]


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file of weights.

    Raises:
        AsrDeployError: If the file does not exist.
    """
    if path.is_dir():
        raise AsrDeployError(f"{path} is a folder. Give the file of the weights.")
    if not path.is_file():
        raise AsrDeployError(f"Weights file {path} does not exist.")
    return sha256_of(path)


def read_state(path: Path) -> State:
    """Read the tensors of a file by name; see ``read_checkpoint``."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[State, list[str]]:
    """Read the tensors of a file by name: a .safetensors file, or a file of ``torch.save`` that contains no other objects.

    The content decides which of the two it is, not the suffix. Of a training checkpoint, only the weights of the model are read.

    Returns:
        The tensors, and remarks for the user about what was not taken as it is, each without a full stop.

    Raises:
        AsrDeployError: If the file cannot be read, or contains no state dict.
    """
    try:
        if is_safetensors(path):
            with readable_by_libraries(path) as readable:
                content = load_file(readable)
        else:
            check_archive(path)
            with path.open("rb") as file, warnings.catch_warnings():  # of a path, torch would look at the suffix
                warnings.simplefilter("ignore")  # what torch warns of, such as TorchScript, is refused with a sentence
                content = torch.load(file, map_location="cpu", weights_only=True)
    except AsrDeployError:
        raise
    except Exception as error:  # torch raises many types for damaged files; nothing in the file is executed
        raise _unreadable(path, error) from error
    found, keys = _model_of(content, path)
    remarks = [f"the weights in {'/'.join(f'“{key}”' for key in keys)} are used"] if keys else []
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise _no_state_dict(path)
    state = {key: each for key, each in found.items() if isinstance(each, Tensor)}
    if not state:
        raise _no_state_dict(path)
    unusual = next((key for key, each in state.items() if not _is_dense(each)), None)
    if unusual is not None:
        raise AsrDeployError(f"{path} is not a state dict of floating-point weights: {unusual} is sparse or quantised. Save it dense.")
    check_tensors(path, state)
    if len(state) < len(found):
        remarks.append(f"{listed([key for key in found if key not in state])} is no tensor and is left out")
    return state, remarks


def _model_of(content: object, path: Path) -> tuple[object, list[str]]:
    """Return the state dict in a training checkpoint, and the keys that lead there."""
    keys: list[str] = []
    while isinstance(content, dict) and len(keys) < DEEPEST:
        inside = [key for key in NESTED if _holds_tensors(content.get(key))]
        if len(inside) > 1:
            raise AsrDeployError(f"{path} contains several sets of weights: {listed(inside)}. Save one of them alone with torch.save.")
        if not inside:
            break
        keys += inside
        content = content[inside[0]]
    return content, keys


def _holds_tensors(value: object, depth: int = 0) -> bool:
    if not isinstance(value, dict) or depth > DEEPEST:
        return False
    return any(isinstance(each, Tensor) or _holds_tensors(each, depth + 1) for each in value.values())


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list for a message, and how many others there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"“{each[:100]}”" for each in names[:NAMED]) + more


def _no_state_dict(path: Path) -> AsrDeployError:
    return AsrDeployError(f"{path} is not a state dict. Save the weights with torch.save(model.state_dict(), PATH).")


def _unreadable(path: Path, error: Exception) -> AsrDeployError:
    return AsrDeployError(f"{path} cannot be read as weights: {why_not_weights(path, error)}.")


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized


def read_tuned_on(path: Path) -> tuple[str, ...] | None:
    """Read the ids of the utterances that a file's weights were calibrated with.

    Returns:
        The ids, or None if ``asrdeploy decompress`` did not write the file.

    Raises:
        AsrDeployError: If the file cannot be read.
    """
    try:
        if not is_safetensors(path):
            return None
        with readable_by_libraries(path) as readable, safe_open(readable, "pt") as file:
            written = (file.metadata() or {}).get(TUNED_ON)
    except Exception as error:  # safetensors raises its own errors and those of the system
        raise _unreadable(path, error) from error
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
    if empty := next((name for name, tensor in state.items() if tensor.is_meta), None):
        raise AsrDeployError(
            f"{source} has no values for {original(empty)}: it was saved from PyTorch's meta device. Save the weights themselves."
        )
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
