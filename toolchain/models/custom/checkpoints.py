"""Own models with torchaudio's architecture: a Hugging Face folder, or a checkpoint that a TOML file describes."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device_runner.bitstream.network import EPSILON, HIGHEST_RATE, LOWEST_RATE, Architecture, Network
from device_runner.errors import AsrDeployError
from toolchain.models.anchor_model import AnchorModel, around, finish
from toolchain.models.custom import description, hugging_face
from toolchain.models.custom.labels import blank_first, our_labels
from toolchain.models.networks import count_on_meta
from toolchain.models.test_cases import CONFIG, TestCase, custom_case
from toolchain.models.weight_files import State, digest_of, read_state

HEAD = ("aux.weight", "aux.bias")


@dataclass(frozen=True)
class Found:
    """What a folder or a file says of a model with torchaudio's architecture.

    Args:
        source: where it is, for messages.
        name: of the model.
        architecture: its parameters.
        labels: as they are written there, and their meaning: the index of the blank, what is silent, what separates words.
        sample_rate: as it is written there.
        state: weights by torchaudio's names.
        prefix: of Hugging Face's names of weights, for messages; None: they have torchaudio's names.
    """

    source: str
    name: str
    architecture: Architecture
    labels: list[str]
    blank: int
    separator: str | None
    sample_rate: Any
    normalised_waveform: bool
    state: State
    epsilon: float = EPSILON
    silent: frozenset[int] = frozenset()
    prefix: str | None = None


def from_folder(path: Path) -> AnchorModel:
    """Return the model of a Hugging Face folder; AsrDeployError where something in it does not fit."""
    if not (path / CONFIG).is_file():
        raise AsrDeployError(f"{path} has no {CONFIG}, so it is no Hugging Face folder; docs/custom-models.md says what a model may be.")
    folder = hugging_face.read_folder(path)
    found = Found(
        source=str(path),
        name=re.sub(r"[^\w.+-]+|^[^\w]+", "-", path.resolve().name).strip("-"),
        architecture=folder.architecture,
        labels=folder.labels,
        blank=folder.blank,
        separator=folder.separator,
        sample_rate=folder.sample_rate,
        normalised_waveform=folder.normalised_waveform,
        state=folder.weights(),
        epsilon=hugging_face.EPSILON,
        silent=folder.silent,
        prefix=folder.prefix,
    )
    return _checked(found)


def from_toml(path: Path, weights: Path | None) -> AnchorModel:
    """Return the model of a TOML file; ``weights``: what the user named instead. AsrDeployError where something in it does not fit."""
    described = description.read_description(path)
    if weights is not None and weights.resolve() != described.weights.resolve():
        raise AsrDeployError(f"{path} describes the weights {described.weights.name}, not {weights.name}; give {path} as the model.")
    found = Found(
        source=str(described.weights),
        name=described.name,
        architecture=described.architecture,
        labels=described.labels,
        blank=described.blank,
        separator=described.word_separator,
        sample_rate=described.sample_rate,
        normalised_waveform=described.normalised_waveform,
        state=read_state(described.weights),
    )
    return _checked(found)


def _checked(found: Found) -> AnchorModel:
    """Return the model of what was found, its outputs in our order; nothing but the head's rows is moved."""
    head = found.state.get(HEAD[0])
    if head is not None and head.ndim == 2 and head.shape[0] != len(found.labels):
        raise AsrDeployError(f"{found.source} gives {head.shape[0]} logits a frame, and there are {len(found.labels)} labels.")
    network = Network(
        architecture=found.architecture,
        labels=our_labels(found.labels, found.blank, found.source, separator=found.separator, silent=found.silent),
        sample_rate=sample_rate_of(found.sample_rate, found.source),
        normalised_waveform=found.normalised_waveform,
        epsilon=found.epsilon if found.normalised_waveform else EPSILON,
        num_param=count_on_meta(found.architecture, len(found.labels)),
    )
    case = custom_case(found.name, network)
    order = blank_first(len(found.labels), found.blank)
    state = dict(found.state)
    if found.blank:
        state |= {name: state[name][order] for name in HEAD if name in state and state[name].shape[:1] == (len(order),)}
    prefix = found.prefix
    names = {} if prefix is None else {"original": lambda name: hugging_face.their_name(name, prefix)}
    module = around(case, state, found.source, **names)
    return identified(finish(case, module, found.source, trained=True))


def sample_rate_of(value: Any, source: str) -> int:
    """Return a sample rate in hertz; AsrDeployError where it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise AsrDeployError(f"{source}: the sample rate {value!r} is none; give hertz, {LOWEST_RATE} to {HIGHEST_RATE}.")
    return value


def identified(model: AnchorModel, code: str = "") -> AnchorModel:
    """Return a model whose ``weights`` tell it from every other one: results of two models are never mixed."""
    described = described_of(model.case).model_dump_json()
    digest = hashlib.sha256(f"{described} {digest_of(model.state())} {code}".encode()).hexdigest()
    return replace(model, weights=f"own, sha256 {digest[:16]}")


def description_of(case: TestCase) -> str:
    """Return what tells a custom model's description from every other one, for names of weights that do not come with it."""
    return f"description {hashlib.sha256(described_of(case).model_dump_json().encode()).hexdigest()[:16]}"


def described_of(case: TestCase) -> Network:
    """Return the description of a custom model's case."""
    assert case.network is not None, "a custom model has a description"
    return case.network
