"""Anchor models: a test case's network together with its weights, and where they come from."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of, write_text
from exporters.recogniser import Recogniser, fold_weight_norm, minimum_samples
from toolchain.download import download
from toolchain.networks import build, build_on_meta, bundle_of
from toolchain.testcases import TestCase, find_test_case, names_own_model
from toolchain.weight_files import digest_of_file, load_into, owned, read_state, read_tuned_on, weights_in

BUNDLED_WEIGHTS = Path(__file__).parent / "assets" / "digits_asr_tiny" / "model.safetensors"
WEIGHTS_URL = "https://download.pytorch.org/torchaudio/models"
# HuBERT's checkpoint has no published sha256 that we could compare with: its first download is recorded beside it.
WEIGHTS_SHA256 = {"WAV2VEC2_ASR_BASE_960H": "488fd4f16de84438ffc945334278c1b9fb9b7159a806c1080b16111a958c945d"}
# Rows that fairseq's dictionary put behind the blank and that no ASR label uses.
UNUSED_ROWS = (1, 2, 3)
FOLDED = "encoder.transformer.pos_conv_embed.conv.weight"  # the weight that TorchAudio stores as norm and direction


@dataclass(frozen=True)
class AnchorModel:
    """A test case's network in evaluation mode, its weight norm folded, and where its weights come from.

    ``trained`` is False for random weights: they serve size and latency, never a word error rate. ``tuned_on``: ids of the utterances that
    a codec was calibrated with, whose reconstruction this is.
    """

    case: TestCase
    network: nn.Module
    weights: str
    trained: bool
    tuned_on: tuple[str, ...] = ()

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
        """Send a factory's model to another process without its classes, which pickle would look for before anybody says where."""
        if self.case.network is None or self.case.network.factory is None:
            return super().__reduce_ex__(protocol)
        return _made_again, (self.case, self.state(), self.weights, self.trained, self.tuned_on)

    def state(self) -> dict[str, Tensor]:
        """Return the weights by name, as codecs see them."""
        return weights_in(self.network)

    def with_state(
        self, state: Mapping[str, Tensor], weights: str, *, trained: bool | None = None, tuned_on: tuple[str, ...] = ()
    ) -> "AnchorModel":
        """Return this model around other weights, which are not copied; this one stays as it is.

        Args:
            state: float32 weights by name, the weight norm folded.
            weights: where they come from.
            trained: None: as this model.
            tuned_on: see ``AnchorModel``.

        Raises:
            AsrDeployError: the weights do not fit.
        """
        network = copy.deepcopy(self.network, memo={id(each): each for each in self.network.parameters()})
        load_into(network, {name: tensor.to(torch.float32) for name, tensor in state.items()}, weights, assign=True)
        return replace(finish(self.case, network, weights, trained=self.trained if trained is None else trained), tuned_on=tuned_on)


def model_with(case: TestCase, state: Mapping[str, Tensor], weights: str, *, trained: bool, tuned_on: tuple[str, ...] = ()) -> AnchorModel:
    """Return a test case's model around weights that are not copied: it needs no more memory than they do.

    Args:
        case: one whose network we can build; no code of the user's is run.
        state: float32 weights by name, the weight norm folded.
        weights: where they come from.
        trained: False for what comes from random weights.
        tuned_on: see ``AnchorModel``.

    Raises:
        AsrDeployError: a factory makes the case's network, or weights that do not fit.
    """
    network = build_on_meta(case, folded=True)
    load_into(network, {key: tensor.to(torch.float32) for key, tensor in state.items()}, weights, assign=True)
    return replace(finish(case, network, weights, trained=trained), tuned_on=tuned_on)


def _made_again(case: TestCase, state: dict[str, Tensor], weights: str, trained: bool, tuned_on: tuple[str, ...]) -> AnchorModel:
    from toolchain.own_models import from_factory

    return from_factory(case).with_state(state, weights, trained=trained, tuned_on=tuned_on)


def load_model(name: str, weights: str | None = None, seed: int = 0) -> AnchorModel:
    """Load a test case's anchor by number or name, or an own model.

    Args:
        name: ``0``, ``DIGITS_ASR_TINY``, ``1``, ``WAV2VEC2_ASR_BASE_960H``, ``2``, ``HUBERT_ASR_LARGE``; or see ``own_models.load_own``.
        weights: None for the bundled or the bundle's own weights (torch's cache, else downloaded), ``random``, or a file.
        seed: of random weights.

    Raises:
        AsrDeployError: unknown name, no weights to be had, or weights that do not fit.
    """
    if names_own_model(name):
        from toolchain.own_models import load_own

        return load_own(name, weights, seed)
    case = find_test_case(name)
    if weights == "random":
        return with_random_weights(case, seed)
    if weights is not None:
        return _from_file(case, Path(weights), f"file, sha256 {digest_of_file(Path(weights))[:16]}")
    if case.number == 0:
        return _from_file(case, BUNDLED_WEIGHTS, f"bundled, sha256 {digest_of_file(BUNDLED_WEIGHTS)[:16]}")
    return _from_bundle(case)


def with_random_weights(case: TestCase, seed: int) -> AnchorModel:
    """Return a test case's model with seeded random weights."""
    if not 0 <= seed < 2**63:
        raise AsrDeployError(f"--seed {seed} is out of range; give 0 to 2^63 - 1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(case)
    return finish(case, network, f"random, seed {seed}", trained=False)


def around(case: TestCase, state: dict[str, Tensor], source: str, **more: Any) -> nn.Module:
    """Return a test case's network around a checkpoint's weights, of which only one copy is ever in memory; see ``load_into``."""
    network = build_on_meta(case, folded=FOLDED in state)  # our own files hold the weight itself
    load_into(network, owned(state), source, assign=True, **more)
    return network


def _from_file(case: TestCase, path: Path, source: str) -> AnchorModel:
    network = around(case, _without_unused_rows(read_state(path), case), str(path))
    return replace(finish(case, network, source, trained=True), tuned_on=read_tuned_on(path) or ())


def _from_bundle(case: TestCase) -> AnchorModel:
    """Return the model with the bundle's own weights, downloaded where torch's cache lacks them."""
    file = bundle_of(case)._path
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    record = path.with_suffix(".sha256")
    expected = os.environ.get("ASRDEPLOY_WEIGHTS_SHA256") or WEIGHTS_SHA256.get(case.name)
    if expected is None and record.exists():
        expected = record.read_text().strip()
    base = os.environ.get("ASRDEPLOY_WEIGHTS_URL") or WEIGHTS_URL
    download(f"{base.rstrip('/')}/{file}", path, sha256=expected)
    found = expected or sha256_of(path)
    try:
        model = _from_file(case, path, f"downloaded from the TorchAudio bundle, sha256 {found[:16].lower()}")
    except AsrDeployError as error:
        if expected is None:
            raise AsrDeployError(f"{str(error).rstrip('.')}; remove {path} to have it downloaded again.") from error
        raise
    if expected is None:  # only now: the page of some portal, recorded, would have the true file refused for good
        write_text(record, found + "\n")
    return model


def finish(case: TestCase, network: nn.Module, source: str, *, trained: bool) -> AnchorModel:
    """Return a network with its weights as a model: evaluation mode, weight norm folded, nothing to be trained."""
    fold_weight_norm(network)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return AnchorModel(case, network.eval(), source, trained)


def _without_unused_rows(state: dict[str, Tensor], case: TestCase) -> dict[str, Tensor]:
    extra = len(case.labels) + len(UNUSED_ROWS)
    keep = [row for row in range(extra) if row not in UNUSED_ROWS]
    return {
        name: tensor[keep] if name in ("aux.weight", "aux.bias") and tensor.shape[:1] == (extra,) else tensor
        for name, tensor in state.items()
    }
