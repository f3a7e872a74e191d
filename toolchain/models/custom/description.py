"""Read the TOML file that describes a checkpoint of torchaudio's architecture."""

import inspect
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchaudio
from pydantic import ValidationError

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError, first_problem
from device_runner.files import is_file
from device_runner.home import in_home
from device_runner.suggestions import nearest
from toolchain.models import digits_model
from toolchain.models.custom.labels import check_labels, index_of_blank
from toolchain.models.custom.text_files import read_toml
from toolchain.models.networks import WITHOUT_DROPOUT
from toolchain.models.test_cases import CHECKPOINTS, DESCRIPTION

KEYS = ("name", "weights", "architecture", "labels", "blank", "word_separator", "unused_outputs", "sample_rate", "normalised_waveform")
NEEDED = ("architecture", "labels", "sample_rate")


@dataclass(frozen=True)
class Described:
    """Content of a TOML file. The sample rate is not checked yet."""

    path: Path
    name: str
    weights: Path
    architecture: Architecture
    labels: list[str]
    blank: int
    word_separator: str | None
    unused_outputs: frozenset[int]
    sample_rate: Any
    normalised_waveform: bool


def file_of(path: Path) -> Path:
    """Return the TOML file of a model, from the path of the TOML file or of the checkpoint."""
    return path.with_suffix(DESCRIPTION)


def read_description(path: Path) -> Described:
    """Read the TOML file of a model.

    Raises:
        AsrDeployError: If the file is missing or not TOML, an entry is unknown, missing or not valid, or the checkpoint is missing.
    """
    plain = read_toml(path)
    unknown = next((key for key in plain if key not in KEYS), None)
    if unknown is not None:
        raise AsrDeployError(f"{path}: {nearest(unknown, KEYS, 'entry')}")
    missing = [key for key in NEEDED if key not in plain]
    if missing:
        raise AsrDeployError(f"{path}: add {' and '.join(missing)}. See docs/custom-models.md for an example.")
    name, normalised, separator = (
        _typed(plain, path, key, kind, default)
        for key, kind, default in (("name", str, path.stem), ("normalised_waveform", bool, False), ("word_separator", str, "|"))
    )
    labels = check_labels(plain["labels"], str(path))
    composed = [unicodedata.normalize("NFC", label) for label in labels]
    if "word_separator" in plain and not (separator and any(unicodedata.normalize("NFC", separator) in label for label in composed)):
        raise AsrDeployError(
            f"{path}: no label contains the word_separator “{separator}”. Give the label that stands for the space between words."
        )
    return Described(
        path=path,
        name=name,
        weights=_weights(plain, path),
        architecture=_architecture(plain["architecture"], path),
        labels=labels,
        blank=index_of_blank(plain.get("blank", 0), labels, str(path)),
        word_separator=separator,
        unused_outputs=_unused(plain, path),
        sample_rate=plain["sample_rate"],
        normalised_waveform=normalised,
    )


def _typed(plain: dict[str, Any], path: Path, key: str, kind: type, default: Any) -> Any:
    value = plain.get(key, default)
    if not isinstance(value, kind):
        raise AsrDeployError(f"{path}: {key} is {value!r}. Give {'true or false' if kind is bool else 'a string'}.")
    return value


def _unused(plain: dict[str, Any], path: Path) -> frozenset[int]:
    value = plain.get("unused_outputs", [])
    whole = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in value)
    if not whole or len(set(value)) < len(value):
        raise AsrDeployError(f"{path}: unused_outputs is {value!r}. Give a list of indices of outputs that have no label.")
    return frozenset(value)


def _weights(plain: dict[str, Any], path: Path) -> Path:
    named = _typed(plain, path, "weights", str, "")
    if named:
        file = path.parent / in_home(named)
        if not is_file(file):
            raise AsrDeployError(f"{path}: the weights {named} do not exist. Give a path relative to the TOML file.")
        return file
    beside = [each for suffix in CHECKPOINTS if (each := path.with_suffix(suffix)).is_file()]
    if len(beside) != 1:
        found = f"{len(beside)} checkpoints have its name" if beside else f"{path.with_suffix(CHECKPOINTS[0]).name} does not exist"
        raise AsrDeployError(f'{path} does not name its weights, and {found}. Add weights = "FILE".')
    return beside[0]


def _architecture(value: Any, path: Path) -> Architecture:
    if isinstance(value, str):
        value = _by_name(value, path)
    if not isinstance(value, dict):
        raise AsrDeployError(f"{path}: architecture must be a name or a table of parameters of torchaudio.models.wav2vec2_model.")
    known = set(inspect.signature(torchaudio.models.wav2vec2_model).parameters)
    unknown = next((key for key in value if key not in known), None)
    if unknown is not None:
        raise AsrDeployError(f"{path}: {nearest(unknown, known, 'parameter of torchaudio.models.wav2vec2_model')}")
    missing = [key for key, field in Architecture.model_fields.items() if field.is_required() and key not in value]
    if missing:
        raise AsrDeployError(f"{path}: the architecture lacks {', '.join(missing)}. They are those of torchaudio.models.wav2vec2_model.")
    try:
        # Ignore parameters for training, and the number of outputs, which follows from the labels.
        return Architecture.model_validate({key: each for key, each in value.items() if key not in (*WITHOUT_DROPOUT, "aux_num_out")})
    except ValidationError as error:
        raise AsrDeployError(f"{path}: in architecture, {first_problem(error)}.") from error


def _by_name(name: str, path: Path) -> dict[str, Any]:
    """Return the parameters of a TorchAudio bundle or of the bundled model by name (in upper or lower case)."""
    pipelines = vars(torchaudio.pipelines)
    known = {key: each._params for key, each in pipelines.items() if getattr(each, "_model_type", "") == "Wav2Vec2"}
    known["DIGITS_ASR_TINY"] = digits_model.PARAMETERS
    if name.upper() not in known:
        raise AsrDeployError(f"{path}: {nearest(name, known, 'architecture')}")
    return dict(known[name.upper()])
