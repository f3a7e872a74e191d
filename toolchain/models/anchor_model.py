"""Anchor models: a test case's network together with its weights."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, fold_weight_norm, minimum_samples
from toolchain.models.networks import build, build_on_meta
from toolchain.models.test_cases import TestCase
from toolchain.models.weight_files import State, load_into, owned, weights_in

FOLDED = "encoder.transformer.pos_conv_embed.conv.weight"  # TorchAudio stores this weight as norm and direction


@dataclass(frozen=True)
class Received:
    """The bitstream that a model was reconstructed from.

    Args:
        codec: Name and parameters of the codec.
        size_bytes: Bytes that were transmitted.
        identity: SHA-256 of the bitstream.
    """

    codec: str
    size_bytes: int
    identity: str


@dataclass(frozen=True)
class AnchorModel:
    """A test case's network together with its weights: what codecs, exporters and engines take.

    Args:
        case: The test case.
        network: The network in evaluation mode, with the weight norm folded.
        weights: Where the weights come from, for results and messages.
        trained: False for random weights. They serve size and latency, never a WER.
        tuned_on: Ids of the utterances that a codec was calibrated with, if this is its reconstruction.
        made_by: For a factory's model, function that creates the model of a test case again.
        received: The bitstream that the model was reconstructed from; None for a model that was not transmitted.
    """

    case: TestCase
    network: nn.Module
    weights: str
    trained: bool
    tuned_on: tuple[str, ...] = ()
    made_by: "Callable[[TestCase], AnchorModel] | None" = None
    received: Received | None = None

    @property
    def recogniser(self) -> Recogniser:
        """The module from waveform ``[batch, samples]`` to logits ``[batch, frames, labels]``."""
        anchor = self.case.anchor
        return Recogniser(self.network, normalised_waveform=anchor.normalised_waveform, epsilon=anchor.epsilon).eval()

    @property
    def minimum_samples(self) -> int:
        """The fewest samples that give a frame."""
        return minimum_samples(self.network)

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        """Pickle a factory's model without its classes, because the receiving process has not imported their module yet."""
        if self.made_by is None:
            return super().__reduce_ex__(protocol)
        return _made_again, (self.made_by, self.case, self.state(), self.weights, self.trained, self.tuned_on, self.received)

    def state(self) -> dict[str, Tensor]:
        """Return the weights by name, as codecs take them."""
        return weights_in(self.network)

    def with_state(
        self, state: Mapping[str, Tensor], weights: str, *, trained: bool | None = None, tuned_on: tuple[str, ...] = ()
    ) -> "AnchorModel":
        """Return a model like this one with other weights, which are not copied. This model does not change.

        Args:
            state: Weights by name, with the weight norm folded.
            weights: Origin of the weights.
            trained: False for random weights; None for the value of this model.
            tuned_on: Ids of the utterances that a codec was calibrated with.

        Raises:
            AsrDeployError: If the weights do not fit the network.
        """
        network = copy.deepcopy(self.network, memo={id(each): each for each in self.network.parameters()})
        load_into(network, {name: tensor.to(torch.float32) for name, tensor in state.items()}, weights, assign=True)
        made = finish(self.case, network, weights, trained=self.trained if trained is None else trained)
        return replace(made, tuned_on=tuned_on, made_by=self.made_by)


def model_with(case: TestCase, state: Mapping[str, Tensor], weights: str, *, trained: bool, tuned_on: tuple[str, ...] = ()) -> AnchorModel:
    """Return a test case's model with given weights, which are not copied, so that it needs no further memory.

    Args:
        case: Test case whose network is built from parameters. No user code runs.
        state: Weights by name, with the weight norm folded.
        weights: Origin of the weights.
        trained: False for random weights.
        tuned_on: Ids of the utterances that a codec was calibrated with.

    Raises:
        AsrDeployError: If a factory makes the network, or the weights do not fit it.
    """
    network = build_on_meta(case, folded=True)
    load_into(network, {key: tensor.to(torch.float32) for key, tensor in state.items()}, weights, assign=True)
    return replace(finish(case, network, weights, trained=trained), tuned_on=tuned_on)


def _made_again(
    made_by: Callable[[TestCase], AnchorModel],
    case: TestCase,
    state: State,
    weights: str,
    trained: bool,
    tuned_on: tuple[str, ...],
    received: Received | None,
) -> AnchorModel:
    return replace(made_by(case).with_state(state, weights, trained=trained, tuned_on=tuned_on), received=received)


def with_random_weights(case: TestCase, seed: int) -> AnchorModel:
    """Return a test case's model with random weights from a seed.

    Raises:
        AsrDeployError: If the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise AsrDeployError(f"--seed {seed} is out of range. Give a number from 0 to 2^63 - 1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(case)
    return finish(case, network, f"random, seed {seed}", trained=False)


def around(case: TestCase, state: dict[str, Tensor], source: str, **more: Any) -> nn.Module:
    """Return a test case's network with the weights of a checkpoint, with one copy in memory.

    Args:
        case: Test case.
        state: Weights of the checkpoint by name.
        source: Origin of the weights, for messages.
        **more: Passed to ``load_into``.
    """
    network = build_on_meta(case, folded=FOLDED in state)  # files of `asrdeploy decompress` contain the folded weight
    load_into(network, owned(state), source, assign=True, **more)
    return network


def finish(case: TestCase, network: nn.Module, source: str, *, trained: bool) -> AnchorModel:
    """Return a network as a model in evaluation mode, with the weight norm folded and gradients disabled."""
    fold_weight_norm(network)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return AnchorModel(case, network.eval(), source, trained)
