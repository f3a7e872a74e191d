"""Build the networks of test cases and of custom models, without weights."""

from typing import Any

import torch
import torchaudio
from torch import nn
from torch.overrides import TorchFunctionMode

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError
from exporters.recogniser import fold_weight_norm
from toolchain.models.custom.labels import our_labels
from toolchain.models.digits_model import digits_asr_tiny
from toolchain.models.test_cases import UNUSED_ROWS, Anchor, TestCase
from toolchain.models.variants import vary

# Used only in training.
WITHOUT_DROPOUT = dict.fromkeys(
    (
        "encoder_projection_dropout",
        "encoder_attention_dropout",
        "encoder_ff_interm_dropout",
        "encoder_dropout",
        "encoder_layer_drop",
    ),
    0.0,
)


def build(case: TestCase) -> nn.Module:
    """Return a test case's network with random weights.

    Raises:
        AsrDeployError: If a factory makes the network, or its number of parameters differs from the test case.
    """
    network: nn.Module
    if case.network is not None:
        if case.network.architecture is None:
            raise AsrDeployError(f"The factory {case.network.factory} makes the network of {case.name}. Give the factory with --model.")
        network = build_architecture(case.network.architecture, len(case.labels))
    elif case.number == 0:
        network = digits_asr_tiny()
    else:
        # Parameters from torchaudio.pipelines, so that they are not copied here.
        network = torchaudio.models.wav2vec2_model(**bundle_of(case)._params)
    parameters = count_parameters(network)
    if parameters != case.anchor.num_param:
        advice = "Install the torchaudio version that asrdeploy requires" if case.network is None else "Its description is damaged"
        raise AsrDeployError(f"{case.name} has {parameters:,} parameters instead of {case.anchor.num_param:,}. {advice}.")
    return network


def build_architecture(architecture: Architecture, labels: int) -> nn.Module:
    """Return the network of an architecture with random weights.

    Args:
        architecture: Parameters of the network.
        labels: Number of logits per frame.
    """
    parameters = architecture.model_dump(exclude={"variant"}) | WITHOUT_DROPOUT | {"aux_num_out": labels}
    network: nn.Module = torchaudio.models.wav2vec2_model(**parameters)
    vary(network, architecture)
    return network


def build_on_meta(case: TestCase, *, folded: bool) -> nn.Module:
    """Return a test case's network on the meta device, without memory for its weights.

    Args:
        case: Test case; see ``build``.
        folded: Whether to fold the weight norm.
    """
    with torch.device("meta"), _NoNorms():
        network = build(case)
        if folded:
            fold_weight_norm(network)
    return network


def count_on_meta(architecture: Architecture, labels: int) -> int:
    """Count the parameters of the network of an architecture, without memory for its weights; see ``build_architecture``."""
    with torch.device("meta"), _NoNorms():
        return count_parameters(build_architecture(architecture, labels))


def count_parameters(network: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def bundle_case(name: str) -> TestCase:
    """Return the test case of a CTC model that torchaudio publishes and the scenario does not have. Its WER is measured.

    Args:
        name: Name of the bundle in ``torchaudio.pipelines``.
    """
    bundle = getattr(torchaudio.pipelines, name)
    with torch.device("meta"), _NoNorms():
        parameters = count_parameters(torchaudio.models.wav2vec2_model(**bundle._params))
    anchor = Anchor(parameters, None, normalised_waveform=bundle._normalize_waveform)
    return TestCase(None, name, anchor, _labels(bundle, name), int(bundle.sample_rate))


def bundle_of(case: TestCase) -> Any:
    """Return TorchAudio's bundle of a test case.

    Raises:
        AsrDeployError: If the bundle differs from the test case.
    """
    bundle = getattr(torchaudio.pipelines, case.name)
    if _labels(bundle, case.name) != case.labels or bundle._normalize_waveform != case.anchor.normalised_waveform:
        raise AsrDeployError(f"torchaudio's {case.name} differs from the scenario. Install the torchaudio version that asrdeploy requires.")
    return bundle


def unused_rows(case: TestCase) -> tuple[int, ...]:
    """Return the rows that the head of a built-in model's published checkpoint has and that no label uses."""
    return UNUSED_ROWS if case.number == 0 else tuple(bundle_of(case)._remove_aux_axis)


def _labels(bundle: Any, name: str) -> tuple[str, ...]:
    return our_labels(bundle.get_labels(), 0, name)


class _NoNorms(TorchFunctionMode):
    """Return empty weight norms: on the meta device, torch would import its compiler for them (1.3 s and 150 MB)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.norm_except_dim:
            weight, _, dim = args
            return weight.new_empty([size if place == dim % weight.ndim else 1 for place, size in enumerate(weight.shape)])
        if func is torch._weight_norm:
            return args[0].new_empty(args[0].shape)
        return func(*args, **(kwargs or {}))
