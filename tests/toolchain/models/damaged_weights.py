"""Shared by the tests of models and weights: files with the bundled state dict, and refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from device_runner.errors import AsrDeployError
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model

State = dict[str, Tensor]


def refused(name: str, weights: Path | str | None = None) -> str:
    with pytest.raises(AsrDeployError) as caught:
        load_model(name, None if weights is None else str(weights))
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def bundled() -> State:
    return load_file(BUNDLED_WEIGHTS)


def saved(path: Path, state: State) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path
