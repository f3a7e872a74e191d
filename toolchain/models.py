"""Anchor models: the test cases' networks and where their weights come from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchaudio
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of, write_text
from exporters.recogniser import Recogniser, fold_weight_norm, minimum_samples, not_finite
from toolchain.digits_model import digits_asr_tiny
from toolchain.download import download
from toolchain.testcases import TestCase, find_test_case

BUNDLED_WEIGHTS = Path(__file__).parent / "assets" / "digits_asr_tiny" / "model.safetensors"
WEIGHTS_URL = "https://download.pytorch.org/torchaudio/models"
# HuBERT's checkpoint has no published sha256 that we could compare with: its first download is recorded beside it.
WEIGHTS_SHA256 = {"WAV2VEC2_ASR_BASE_960H": "488fd4f16de84438ffc945334278c1b9fb9b7159a806c1080b16111a958c945d"}
# Rows that fairseq's dictionary put behind the blank and that no ASR label uses.
UNUSED_ROWS = (1, 2, 3)
TUNED_ON = "asrdeploy.tuned_on"  # in the metadata of .safetensors files
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
        return Recogniser(self.network, normalised_waveform=self.case.anchor.normalised_waveform).eval()

    @property
    def minimum_samples(self) -> int:
        """The fewest samples that give a frame."""
        return minimum_samples(self.network)

    def state(self) -> dict[str, Tensor]:
        """Return the weights by name, as codecs see them."""
        return dict(self.network.state_dict())

    def with_state(self, state: Mapping[str, Tensor], weights: str) -> "AnchorModel":
        """Return this model with a copy of other weights; this one stays as it is.

        Raises:
            AsrDeployError: the weights do not fit.
        """
        copies = {name: tensor.clone() for name, tensor in state.items()}
        return model_with(self.case.name, copies, weights, trained=self.trained)


def model_with(name: str, state: Mapping[str, Tensor], weights: str, *, trained: bool, tuned_on: tuple[str, ...] = ()) -> AnchorModel:
    """Return a test case's model around weights that are not copied: it needs no more memory than they do.

    Args:
        name: of the test case or its anchor.
        state: float32 weights by name, the weight norm folded.
        weights: where they come from.
        trained: False for what comes from random weights.
        tuned_on: see ``AnchorModel``.

    Raises:
        AsrDeployError: an unknown name, or weights that do not fit.
    """
    case = find_test_case(name)
    with torch.device("meta"), _NoNorms():
        network = _architecture(case)
        fold_weight_norm(network)
    _load(network, {key: tensor.to(torch.float32) for key, tensor in state.items()}, weights, assign=True)
    return replace(_finish(case, network, weights, trained=trained), tuned_on=tuned_on)


class _NoNorms(TorchFunctionMode):
    """Weight norms without computing: on the meta device torch would import its compiler for them, 1.3 s and 150 MB."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.norm_except_dim:
            weight, _, dim = args
            return weight.new_empty([size if place == dim % weight.ndim else 1 for place, size in enumerate(weight.shape)])
        if func is torch._weight_norm:
            return args[0].new_empty(args[0].shape)
        return func(*args, **(kwargs or {}))


def load_model(name: str, weights: str | None = None, seed: int = 0) -> AnchorModel:
    """Load a test case's anchor by number or name.

    Args:
        name: ``0``, ``DIGITS_ASR_TINY``, ``1``, ``WAV2VEC2_ASR_BASE_960H``, ``2``, ``HUBERT_ASR_LARGE``.
        weights: None for the bundled or the bundle's own weights (torch's cache, else downloaded), ``random``, or a file.
        seed: of random weights.

    Raises:
        AsrDeployError: unknown name, no weights to be had, or weights that do not fit.
    """
    case = find_test_case(name)
    if weights == "random":
        if not 0 <= seed < 2**63:
            raise AsrDeployError(f"--seed {seed} is out of range; give 0 to 2^63 - 1.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _architecture(case)
        return _finish(case, network, f"random, seed {seed}", trained=False)
    if weights is not None:
        return _from_file(case, Path(weights), f"file, sha256 {_digest(Path(weights))[:16]}")
    if case.number == 0:
        return _from_file(case, BUNDLED_WEIGHTS, f"bundled, sha256 {_digest(BUNDLED_WEIGHTS)[:16]}")
    return _from_bundle(case)


def _from_file(case: TestCase, path: Path, source: str) -> AnchorModel:
    """Return the model with a file's weights, of which only one copy is ever in memory."""
    state = _own(_without_unused_rows(_read_state(path), case))
    with torch.device("meta"), _NoNorms():
        network = _architecture(case)
        if FOLDED in state:  # our own files hold the weight itself
            fold_weight_norm(network)
    _load(network, state, str(path), assign=True)
    return replace(_finish(case, network, source, trained=True), tuned_on=_tuned_on(path))


def _tuned_on(path: Path) -> tuple[str, ...]:
    """Return the ids of the utterances that a file's weights were calibrated with, as ``asrdeploy decompress`` writes them into it."""
    if path.suffix != ".safetensors":
        return ()
    with safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get(TUNED_ON, "[]")
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(written)
    except ValidationError as error:
        raise AsrDeployError(f"{path}: its entry {TUNED_ON} is no list of utterance ids; decompress the bitstream again.") from error


def _from_bundle(case: TestCase) -> AnchorModel:
    """Return the model with the bundle's own weights, downloaded where torch's cache lacks them."""
    file = _bundle(case)._path
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


def _architecture(case: TestCase) -> nn.Module:
    network: nn.Module
    if case.number == 0:
        network = digits_asr_tiny()
    else:
        # The bundle's own parameters, so that an anchor is what torchaudio.pipelines says, not what we believe.
        network = torchaudio.models.wav2vec2_model(**_bundle(case)._params)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters != case.anchor.num_param:
        raise AsrDeployError(
            f"{case.name} has {parameters:,} parameters instead of {case.anchor.num_param:,}; install the pinned torchaudio."
        )
    return network


def _bundle(case: TestCase) -> Any:
    bundle = getattr(torchaudio.pipelines, case.name)
    if tuple(bundle.get_labels()) != case.labels or bundle._normalize_waveform != case.anchor.normalised_waveform:
        raise AsrDeployError(f"This torchaudio's {case.name} differs from the scenario's; install the pinned torchaudio.")
    return bundle


def _finish(case: TestCase, network: nn.Module, source: str, *, trained: bool) -> AnchorModel:
    fold_weight_norm(network)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return AnchorModel(case, network.eval(), source, trained)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise AsrDeployError(f"Weights file {path} does not exist.")
    return sha256_of(path)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever torch's reader stumbles over; nothing in it is executed
        raise AsrDeployError(
            f"{path} cannot be read as weights (.safetensors, or .pt/.pth with tensors only): it is cut, or something else."
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) and _is_dense(each) for key, each in state.items()):
        raise AsrDeployError(f"{path} is not a state dict (names to tensors).")
    return state


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _without_unused_rows(state: dict[str, Tensor], case: TestCase) -> dict[str, Tensor]:
    extra = len(case.labels) + len(UNUSED_ROWS)
    keep = [row for row in range(extra) if row not in UNUSED_ROWS]
    return {
        name: tensor[keep] if name in ("aux.weight", "aux.bias") and tensor.shape[:1] == (extra,) else tensor
        for name, tensor in state.items()
    }


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32 with a contiguous memory each; only views of a memory, as .safetensors files give them, are copied."""
    owned, seen = {}, set()
    for name, tensor in state.items():
        memory = tensor.untyped_storage()
        whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        owned[name] = (tensor if whole else tensor.clone(memory_format=torch.contiguous_format)).to(torch.float32)
    return owned


def _load(network: nn.Module, state: dict[str, Tensor], source: str, *, assign: bool = False) -> None:
    broken = not_finite({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
    if broken:
        raise AsrDeployError(f"{source} holds NaN or infinite weights, first in {broken[0]}.")
    try:
        result = network.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        line = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), str(error).splitlines()[-1])
        raise AsrDeployError(f"{source} does not fit the model: {line.rstrip('.')}.") from error
    if result.missing_keys or result.unexpected_keys:
        first = f"{result.missing_keys[0]} is missing" if result.missing_keys else f"{result.unexpected_keys[0]} is unknown"
        count = len(result.missing_keys) + len(result.unexpected_keys)
        raise AsrDeployError(f"{source} does not fit the model: {first} ({count} names differ).")
