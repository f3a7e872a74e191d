"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.engines import Waveform
from device_runner.errors import AsrDeployError
from device_runner.latency import real_speech
from exporters.export import MAX_SECONDS, Facts, export
from toolchain.datasets import DataSet, open_data
from toolchain.models import AnchorModel

PARITY_SECONDS = [1.0, 3.0, 8.0]
CALIBRATION_UTTERANCES, CALIBRATION_SECONDS = 32, 15


def export_model(
    model: AnchorModel,
    *,
    format_name: str,
    scheme_name: str,
    folder: Path,
    codec: str | None = None,
    transmitted_bytes: int | None = None,
    max_seconds: float = MAX_SECONDS,
    calibration: Iterable[Waveform] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Artifact, float]:
    """Export an anchor (or a codec's reconstruction of it), checked on the bundled dev-clean speech of three lengths.

    ``calibration``: recordings for calibrated schemes; None takes the bundled dev-clean's. ``max_seconds``: see ``exporters.export``.

    Returns:
        The artifact, and the seconds of the export.

    Raises:
        AsrDeployError: see ``exporters.export.export``.
    """
    case = model.case
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
    )
    speech = bundled_speech(PARITY_SECONDS, case.sample_rate)
    return export(
        model.recogniser,
        facts,
        format_name=format_name,
        scheme_name=scheme_name,
        folder=folder,
        speech=list(speech.values()),
        max_seconds=max_seconds,
        calibration=calibration_speech("digits", "dev-clean") if calibration is None else calibration,
        progress=progress,
    )


def bundled_speech(seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return bundled dev-clean speech of exactly these lengths."""
    return real_speech([utterance.path for utterance in open_data("digits", "dev-clean").utterances], seconds, sample_rate)


def calibration_speech(data: str, split: str, sample_rate: int = 16_000) -> Iterator[Waveform]:
    """Yield recordings for calibration, one at a time: few, spread over the split, none longer than a bound.

    Raises:
        AsrDeployError: the split is one that word error rates are measured on, or cannot be opened.
    """
    if split.startswith("test"):
        raise AsrDeployError(f"Calibration on {split} would measure on what was tuned with; use dev-clean.")
    return _read_some(open_data(data, split), sample_rate)


def _read_some(chosen: DataSet, sample_rate: int) -> Iterator[Waveform]:
    step = max(1, len(chosen.utterances) // CALIBRATION_UTTERANCES)
    for utterance in chosen.utterances[::step][:CALIBRATION_UTTERANCES]:
        yield read_audio(utterance.path, sample_rate)[: CALIBRATION_SECONDS * sample_rate]
