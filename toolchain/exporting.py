"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.engines import Waveform
from device_runner.errors import AsrDeployError
from device_runner.latency import real_speech
from exporters.export import MAX_SECONDS, Facts, check_choice, export
from toolchain.datasets import Utterance, open_data
from toolchain.models import AnchorModel
from toolchain.splits import check_tuning_data

PARITY_SECONDS = [1.0, 3.0, 8.0]
CALIBRATION_UTTERANCES, CALIBRATION_SECONDS = 32, 15


@dataclass(frozen=True)
class CalibrationSpeech:
    """Recordings for calibration: read one at a time, each time that they are gone through, none longer than a bound."""

    utterances: tuple[Utterance, ...]
    sample_rate: int = 16_000

    @property
    def ids(self) -> tuple[str, ...]:
        """What a manifest or a bitstream keeps of them, so that no word error rate is measured on them."""
        return tuple(each.id for each in self.utterances)

    def __iter__(self) -> Iterator[Waveform]:
        for utterance in self.utterances:
            yield read_audio(utterance.path, self.sample_rate)[: CALIBRATION_SECONDS * self.sample_rate]


def export_model(
    model: AnchorModel,
    *,
    format_name: str,
    scheme_name: str,
    folder: Path,
    codec: str | None = None,
    transmitted_bytes: int | None = None,
    max_seconds: float = MAX_SECONDS,
    calibration: CalibrationSpeech | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Artifact, float]:
    """Export an anchor (or a codec's reconstruction of it), checked on the bundled dev-clean speech of three lengths.

    ``calibration``: recordings for calibrated schemes; None takes the bundled dev-clean's. ``max_seconds``: see ``exporters.export``. The
    manifest has the ids of the recordings that the scheme, and those that the codec was calibrated with.

    Returns:
        The artifact, and the seconds of the export.

    Raises:
        AsrDeployError: see ``exporters.export.export``.
    """
    case, tuned_on = model.case, model.tuned_on
    speech = bundled_speech(PARITY_SECONDS, case.sample_rate)
    if calibration is None:
        calibration = calibration_speech("digits", "dev-clean")
    if check_choice(format_name, scheme_name).calibrated:
        tuned_on = tuple(dict.fromkeys(tuned_on + calibration.ids))
    facts = Facts(
        model=case.name,
        weights=model.weights,
        trained=model.trained,
        labels=case.labels,
        sample_rate=case.sample_rate,
        parameters=case.anchor.num_param,
        minimum_samples=model.minimum_samples,
        codec=codec,
        transmitted_bytes=transmitted_bytes,
        tuned_on=tuned_on,
    )
    return export(
        model.recogniser,
        facts,
        format_name=format_name,
        scheme_name=scheme_name,
        folder=folder,
        speech=list(speech.values()),
        max_seconds=max_seconds,
        calibration=calibration,
        progress=progress,
    )


def bundled_speech(seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return bundled dev-clean speech of exactly these lengths."""
    return real_speech([utterance.path for utterance in open_data("digits", "dev-clean").utterances], seconds, sample_rate)


def calibration_speech(data: str, split: str, sample_rate: int = 16_000) -> CalibrationSpeech:
    """Return recordings for calibration: few, spread over the split.

    Raises:
        AsrDeployError: the split holds utterances of a set that word error rates are reported on (see ``toolchain.splits``), or is named
            like one, or cannot be opened.
    """
    if split.startswith("test"):
        raise AsrDeployError(f"Calibration on {split} would measure on what was tuned with; use dev-clean.")
    chosen = open_data(data, split)
    check_tuning_data(chosen)
    step = max(1, len(chosen.utterances) // CALIBRATION_UTTERANCES)
    return CalibrationSpeech(chosen.utterances[::step][:CALIBRATION_UTTERANCES], sample_rate)
