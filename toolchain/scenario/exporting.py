"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable
from pathlib import Path

from device_runner.artifact import Artifact
from exporters.export import MAX_SECONDS, Facts, check_choice, export
from toolchain.data.speech import CalibrationSpeech, bundled_speech, calibration_speech
from toolchain.models.anchor_model import AnchorModel

PARITY_SECONDS = [1.0, 3.0, 8.0]


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
        calibration = calibration_speech("digits", "dev-clean", case.sample_rate)
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
