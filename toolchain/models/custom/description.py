"""A TorchAudio-shaped checkpoint that a TOML file describes: ``FILE.toml``, or the checkpoint with it beside."""

import inspect
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchaudio
from pydantic import ValidationError

from device_runner.bitstream.network import Architecture
from device_runner.errors import AsrDeployError, first_problem
from device_runner.suggestions import nearest
from toolchain.models import digits_model
from toolchain.models.custom.labels import check_labels, index_of_blank
from toolchain.models.networks import WITHOUT_DROPOUT
from toolchain.models.test_cases import CHECKPOINTS, DESCRIPTION

KEYS = ("name", "weights", "architecture", "labels", "blank", "word_separator", "sample_rate", "normalised_waveform")
NEEDED = ("architecture", "labels", "sample_rate")


@dataclass(frozen=True)
class Described:
    """What a TOML file says."""

    path: Path
    name: str
    weights: Path
    architecture: Architecture
    labels: list[str]
    blank: int
    word_separator: str | None
    sample_rate: Any
    normalised_waveform: bool


def description_of(path: Path) -> Path:
    """Return the TOML file of a model that is named by it or by its weights."""
    return path.with_suffix(DESCRIPTION)


def read_description(path: Path) -> Described:
    """Read a TOML file of a model.

    Raises:
        AsrDeployError: no such file, no TOML, something unknown or missing in it, or no weights.
    """
    plain = _plain(path)
    unknown = next((key for key in plain if key not in KEYS), None)
    if unknown is not None:
        raise AsrDeployError(f"{path}: {nearest(unknown, KEYS, 'entry')}")
    missing = [key for key in NEEDED if key not in plain]
    if missing:
        raise AsrDeployError(f"{path}: {' and '.join(missing)} must be said; docs/custom-models.md shows such a file.")
    name, normalised, separator = (
        _typed(plain, path, key, kind, default)
        for key, kind, default in (("name", str, path.stem), ("normalised_waveform", bool, False), ("word_separator", str, "|"))
    )
    labels = check_labels(plain["labels"], str(path))
    if "word_separator" in plain and not (separator and any(separator in label for label in labels)):
        raise AsrDeployError(
            f"{path}: the word_separator “{separator}” is in none of the labels; give the label that stands for the space."
        )
    return Described(
        path=path,
        name=name,
        weights=_weights(plain, path),
        architecture=_architecture(plain["architecture"], path),
        labels=labels,
        blank=index_of_blank(plain.get("blank", 0), labels, str(path)),
        word_separator=separator,
        sample_rate=plain["sample_rate"],
        normalised_waveform=normalised,
    )


def _plain(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AsrDeployError(
            f"There is no {path}, which describes a model of your own (architecture, labels, sample rate); docs/custom-models.md shows one."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AsrDeployError(f"{path} is not TOML: {str(error).rstrip('.')}.") from error


def _typed(plain: dict[str, Any], path: Path, key: str, kind: type, default: Any) -> Any:
    value = plain.get(key, default)
    if not isinstance(value, kind):
        raise AsrDeployError(f"{path}: {key} is {value!r}; give {'true or false' if kind is bool else 'a text'}.")
    return value


def _weights(plain: dict[str, Any], path: Path) -> Path:
    named = _typed(plain, path, "weights", str, "")
    if named:
        if not (path.parent / named).is_file():
            raise AsrDeployError(f"{path}: its weights {named} are not there; the name is relative to the TOML file.")
        return path.parent / named
    beside = [each for suffix in CHECKPOINTS if (each := path.with_suffix(suffix)).is_file()]
    if len(beside) != 1:
        found = f"there are {len(beside)}" if beside else f"there is no {path.with_suffix(CHECKPOINTS[0]).name} beside it"
        raise AsrDeployError(f'{path} does not say which weights it is of, and {found}; add weights = "FILE".')
    return beside[0]


def _architecture(value: Any, path: Path) -> Architecture:
    if isinstance(value, str):
        value = _by_name(value, path)
    if not isinstance(value, dict):
        raise AsrDeployError(f"{path}: architecture is a name or a table of parameters of torchaudio.models.wav2vec2_model.")
    known = set(inspect.signature(torchaudio.models.wav2vec2_model).parameters)
    unknown = next((key for key in value if key not in known), None)
    if unknown is not None:
        raise AsrDeployError(f"{path}: {nearest(unknown, known, 'parameter of torchaudio.models.wav2vec2_model')}")
    missing = [key for key in Architecture.model_fields if key not in value]
    if missing:
        raise AsrDeployError(f"{path}: the architecture lacks {', '.join(missing)}; torchaudio.models.wav2vec2_model says what they are.")
    try:
        # What acts in training alone, and the outputs, which the labels tell.
        return Architecture.model_validate({key: each for key, each in value.items() if key not in (*WITHOUT_DROPOUT, "aux_num_out")})
    except ValidationError as error:
        raise AsrDeployError(f"{path}: in architecture, {first_problem(error)}.") from error


def _by_name(name: str, path: Path) -> dict[str, Any]:
    """Return the parameters of a bundle of TorchAudio's, of a builder of the same name in small letters, or of the bundled model."""
    pipelines = vars(torchaudio.pipelines)
    known = {key: each._params for key, each in pipelines.items() if getattr(each, "_model_type", "") == "Wav2Vec2"}
    known["DIGITS_ASR_TINY"] = digits_model.PARAMETERS
    if name.upper() not in known:
        raise AsrDeployError(f"{path}: {nearest(name, known, 'architecture')}")
    return dict(known[name.upper()])
