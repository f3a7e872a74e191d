"""Load custom models of wav2vec 2.0 or HuBERT architecture from a Hugging Face folder, or from a checkpoint with a TOML file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runner.bitstream.network import EPSILON, Architecture, Network
from device_runner.errors import AsrDeployError
from toolchain.models.anchor_model import AnchorModel, around, finish
from toolchain.models.custom import description, hugging_face
from toolchain.models.custom.identity import identified
from toolchain.models.custom.labels import blank_first, check_sample_rate, our_labels
from toolchain.models.networks import count_on_meta
from toolchain.models.test_cases import CONFIG, custom_case
from toolchain.models.weight_files import State, read_state

HEAD = ("aux.weight", "aux.bias")


@dataclass(frozen=True)
class Found:
    """Content of a Hugging Face folder, or of a checkpoint with a TOML file.

    Args:
        source: Path, for messages.
        name: Name of the model.
        architecture: Parameters of the network.
        labels: Labels by output, in the spelling of the source.
        blank: Index of the blank.
        separator: Label that stands for the space between words, or None.
        sample_rate: Sample rate as written in the source, not checked yet.
        normalised_waveform: Whether the waveform gets zero mean and unit variance first.
        state: Weights by torchaudio's names.
        epsilon: Epsilon of that normalisation.
        silent: Indices of the labels that print nothing.
        prefix: Prefix of Hugging Face's weight names, for messages; None for torchaudio's names.
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
    """Load the model of a Hugging Face folder.

    Raises:
        AsrDeployError: If a file is missing or not valid, or the model is not supported.
    """
    if not (path / CONFIG).is_file():
        raise AsrDeployError(f"{path} is not a Hugging Face folder: it has no {CONFIG}. docs/custom-models.md lists the supported models.")
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
    """Load the model that a TOML file describes.

    Args:
        path: TOML file.
        weights: Checkpoint, if the user named it instead of the TOML file.

    Raises:
        AsrDeployError: If the TOML file or the checkpoint is not valid, or they do not match.
    """
    described = description.read_description(path)
    if weights is not None and weights.resolve() != described.weights.resolve():
        raise AsrDeployError(f"{path} describes the weights {described.weights.name}, not {weights.name}. Give {path} as the model.")
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
    """Return the model with the blank as its first output, by reordering the rows of its head."""
    head = found.state.get(HEAD[0])
    if head is not None and head.ndim == 2 and head.shape[0] != len(found.labels):
        raise AsrDeployError(f"{found.source} has {head.shape[0]} outputs, but {len(found.labels)} labels. Give one label for each output.")
    network = Network(
        architecture=found.architecture,
        labels=our_labels(found.labels, found.blank, found.source, separator=found.separator, silent=found.silent),
        sample_rate=check_sample_rate(found.sample_rate, found.source),
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
