"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from device_runner.artifact import Artifact
from exporters.export import MAX_SECONDS, Facts, check_choice, export
from exporters.schemes import ONNX
from toolchain.data.speech import CalibrationSpeech, bundled_speech, calibration_speech
from toolchain.models.anchor_model import AnchorModel

PARITY_SECONDS = [1.0, 3.0, 8.0]


class Exported(NamedTuple):
    """What an export made.

    Args:
        artifact: The artifact.
        seconds: Duration of the export without the comparison with PyTorch.
    """

    artifact: Artifact
    seconds: float


def export_model(
    model: AnchorModel,
    folder: str | Path,
    *,
    format: str = ONNX,
    quant: str = "fp32",
    max_seconds: float = MAX_SECONDS,
    calibration: CalibrationSpeech | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Export a model to an artifact and compare it with PyTorch on bundled speech of three lengths.

    If the model was decompressed from a bitstream, the manifest records the codec and the transmitted bytes.

    Example:
        >>> artifact = asrdeploy.export(model, "artifacts/tiny", quant="int8").artifact  # doctest: +SKIP

    Args:
        model: An anchor, a custom model, or a model decompressed from a bitstream.
        folder: Folder of the artifact. An older artifact there is replaced.
        format: ``onnx`` or ``executorch``.
        quant: Quantisation scheme.
        max_seconds: Longest audio that the artifact takes. ExecuTorch plans memory for it.
        calibration: Recordings for schemes with calibrated activations (default: the bundled dev-clean).
        progress: Called with the name of each step.

    Raises:
        AsrDeployError: See ``exporters.export.export``.
    """
    case, tuned_on = model.case, model.tuned_on
    speech = bundled_speech(PARITY_SECONDS, case.sample_rate)
    if calibration is None:
        calibration = calibration_speech("digits", "dev-clean", case.sample_rate)
    if check_choice(format, quant).calibrated:
        tuned_on = tuple(dict.fromkeys(tuned_on + calibration.ids))
    facts = Facts(
        model=case.name,
        weights=model.weights,
        trained=model.trained,
        labels=case.labels,
        sample_rate=case.sample_rate,
        parameters=case.anchor.num_param,
        minimum_samples=model.minimum_samples,
        codec=None if model.received is None else model.received.codec,
        transmitted_bytes=None if model.received is None else model.received.size_bytes,
        tuned_on=tuned_on,
    )
    artifact, seconds = export(
        model.recogniser,
        facts,
        format_name=format,
        scheme_name=quant,
        folder=Path(folder),
        speech=list(speech.values()),
        max_seconds=max_seconds,
        calibration=calibration,
        progress=progress,
    )
    return Exported(artifact, seconds)
