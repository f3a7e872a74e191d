"""Load custom models of wav2vec 2.0 or HuBERT architecture from a Hugging Face folder, or from a checkpoint with a TOML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from device_runner.bitstream.network import EPSILON, Architecture, Network
from device_runner.errors import AsrDeployError
from toolchain.models.anchor_model import AnchorModel, around, finish
from toolchain.models.custom import description, hugging_face
from toolchain.models.custom.checkpoint_names import Named, under_our_names
from toolchain.models.custom.folders import model_folder, name_of
from toolchain.models.custom.identity import identified
from toolchain.models.custom.labels import blank_first, check_sample_rate, our_labels
from toolchain.models.custom.outputs import rows_by_order, say_unnamed
from toolchain.models.networks import count_on_meta
from toolchain.models.test_cases import CONFIG, custom_case
from toolchain.models.weight_files import read_checkpoint

HEAD = ("aux.weight", "aux.bias")


@dataclass(frozen=True)
class Found:
    """Content of a Hugging Face folder, or of a checkpoint with a TOML file.

    Args:
        source: Path, for messages.
        name: Name of the model.
        architecture: Parameters of the network.
        labels: Labels in the order of the outputs, in the spelling of the source.
        blank: Index of the blank in ``labels``.
        separator: Label that stands for the space between words, or None.
        sample_rate: Sample rate as written in the source, not checked yet.
        normalised_waveform: Whether the waveform gets zero mean and unit variance first.
        weights: Weights by torchaudio's names.
        rows: Index of the output of each label; None if the source only has the labels in their order.
        outputs: Number of outputs that the source gives; None if it gives none.
        unused: Indices of the outputs that the source says have no label.
        epsilon: Epsilon of that normalisation.
        silent: Indices in ``labels`` of those that print nothing.
    """

    source: str
    name: str
    architecture: Architecture
    labels: list[str]
    blank: int
    separator: str | None
    sample_rate: Any
    normalised_waveform: bool
    weights: Named
    rows: Sequence[int] | None = None
    outputs: int | None = None
    unused: frozenset[int] = frozenset()
    epsilon: float = EPSILON
    silent: frozenset[int] = frozenset()


def from_folder(path: Path, language: str | None = None) -> AnchorModel:
    """Load the model of a Hugging Face folder.

    Args:
        path: The folder.
        language: Language of a model of several; see ``read_folder``.

    Raises:
        AsrDeployError: If a file is missing or not valid, or the model is not supported.
    """
    path = model_folder(path)
    folder = hugging_face.read_folder(path, language)
    state, remarks = folder.weights()
    found = Found(
        source=str(path),
        name=name_of(path) + (f"-{folder.language}" if folder.language else ""),
        architecture=folder.architecture,
        labels=folder.labels,
        blank=folder.blank,
        separator=folder.separator,
        sample_rate=folder.sample_rate,
        normalised_waveform=folder.normalised_waveform,
        weights=under_our_names(state, str(path), remarks, usual=True, prefix=folder.prefix),
        rows=folder.rows,
        outputs=folder.outputs,
        epsilon=hugging_face.EPSILON,
        silent=folder.silent,
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
    state, remarks = read_checkpoint(described.weights)
    found = Found(
        source=str(described.weights),
        name=described.name,
        architecture=described.architecture,
        labels=described.labels,
        blank=described.blank,
        separator=described.word_separator,
        sample_rate=described.sample_rate,
        normalised_waveform=described.normalised_waveform,
        weights=under_our_names(state, str(described.weights), remarks),
        unused=described.unused_outputs,
    )
    return _checked(found)


def _checked(found: Found) -> AnchorModel:
    """Return the model with the blank as its first output, by reordering the rows of its head.

    Rows of outputs without a label are removed, so that no runner can select these outputs.
    """
    state = dict(found.weights.state)
    head = state.get(HEAD[0])
    rows = _rows(found, head)
    network = Network(
        architecture=found.architecture,
        labels=our_labels(found.labels, found.blank, found.source, separator=found.separator, silent=found.silent),
        sample_rate=check_sample_rate(found.sample_rate, found.source),
        normalised_waveform=found.normalised_waveform,
        epsilon=found.epsilon if found.normalised_waveform else EPSILON,
        num_param=count_on_meta(found.architecture, len(found.labels)),
    )
    case = custom_case(found.name, network)
    order = [rows[index] for index in blank_first(len(found.labels), found.blank)]
    if head is not None and order != list(range(len(head))):
        state |= {name: state[name][order] for name in HEAD if name in state and state[name].shape[:1] == head.shape[:1]}
    module = around(case, state, found.source, original=found.weights.original)
    return identified(finish(case, module, found.source, trained=True))


def _rows(found: Found, head: Tensor | None) -> Sequence[int]:
    """Return the index of the output of each label, and warn of outputs without a label."""
    labels = len(found.labels)
    if head is None or head.ndim != 2:  # ``load_into`` tells what is wrong with it
        return range(labels)
    outputs = head.shape[0]
    if found.outputs not in (None, outputs):
        raise AsrDeployError(
            f"{found.source} has {outputs} outputs, but vocab_size in {CONFIG} is {found.outputs}. Give the {CONFIG} of these weights."
        )
    rows = rows_by_order(head, found.labels, found.blank, found.unused, found.source) if found.rows is None else found.rows
    if not found.unused:
        say_unnamed(found.source, outputs, rows)
    return rows
