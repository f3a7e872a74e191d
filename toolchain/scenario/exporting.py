"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from device_runner.artifact import MANIFEST, PLAIN_LAYOUT, Artifact
from device_runner.files import unshared
from exporters.export import MAX_SECONDS, Facts, check_choice, export
from exporters.layouts import find_layout
from exporters.replacing import digest_of_input, other_artifact
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
    layout: str = "asrdeploy",
    replace: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Export a model to an artifact and compare it with PyTorch on bundled speech of three lengths.

    If the model was decompressed from a bitstream, the manifest records the codec and the transmitted bytes.

    Example:
        >>> artifact = asrdeploy.export(model, "artifacts/tiny", quant="int8").artifact  # doctest: +SKIP

    Args:
        model: An anchor, a custom model, or a model decompressed from a bitstream.
        folder: Folder of the artifact. An older artifact of the same weights, format, scheme and layout is replaced.
        format: ``onnx`` or ``executorch``.
        quant: Quantisation scheme.
        max_seconds: Longest audio that the artifact takes. ExecuTorch plans memory for it.
        calibration: Recordings for schemes with calibrated activations (default: the bundled dev-clean).
        layout: ``asrdeploy``, or the files that another runtime expects: ``onnx-asr``, ``sherpa-onnx`` or ``transformers``, for which
            the artifact is the folder ``onnx`` in ``folder``. Several are separated by commas.
        replace: Replace an artifact of another model, format, scheme or layout, too.
        progress: Called with the name of each step.

    Raises:
        AsrDeployError: The folder holds another artifact, or something else; see ``exporters.export.export``.
    """
    case, tuned_on = model.case, model.tuned_on
    speech = bundled_speech(PARITY_SECONDS, case.sample_rate)
    if calibration is None:
        calibration = calibration_speech("digits", "dev-clean", case.sample_rate)
    if check_choice(format, quant).calibrated:
        tuned_on = tuple(dict.fromkeys(tuned_on + calibration.ids))
    artifact, seconds = export(
        model.recogniser,
        _facts(model, tuned_on),
        format_name=format,
        scheme_name=quant,
        folder=Path(folder),
        speech=list(speech.values()),
        max_seconds=max_seconds,
        calibration=calibration,
        layout_name=layout,
        replace_other=replace,
        progress=progress,
    )
    return Exported(artifact, seconds)


def default_folder(model: AnchorModel, name: str, format: str, quant: str, layout: str = "asrdeploy") -> Path:
    """Return the folder of an artifact if the user names none: ``artifacts/NAME-FORMAT-QUANT[-LAYOUT]``.

    If another artifact is there, for example that of another folder ``checkpoint-1000``, a digest of the model is appended.

    Args:
        model: Model to export.
        name: Name of the model or of its bitstream.
        format: ``onnx`` or ``executorch``.
        quant: Quantisation scheme.
        layout: Name of the layout, or of several; see ``export_model``.
    """
    chosen = find_layout(layout, format)
    made_from = vars(_facts(model, ())) | {"format": format, "scheme": check_choice(format, quant).name, "layout": chosen.name}
    ending = "" if chosen.name == PLAIN_LAYOUT else f"-{chosen.name.replace(',', '+')}"
    plain = Path("artifacts") / f"{name}-{format}-{quant}{ending}"
    return unshared(plain, digest_of_input(made_from), lambda folder: _holds(folder / chosen.place, made_from))


def _holds(folder: Path, made_from: dict[str, Any]) -> bool:
    return (folder / MANIFEST).is_file() and other_artifact(folder, made_from) is None


def _facts(model: AnchorModel, tuned_on: tuple[str, ...]) -> Facts:
    return Facts(
        model=model.case.name,
        weights=model.weights,
        trained=model.trained,
        labels=model.case.labels,
        sample_rate=model.case.sample_rate,
        parameters=model.case.anchor.num_param,
        minimum_samples=model.minimum_samples,
        codec=None if model.received is None else model.received.codec,
        transmitted_bytes=None if model.received is None else model.received.size_bytes,
        tuned_on=tuned_on,
    )
