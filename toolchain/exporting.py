"""Exports of anchor models: the facts that their manifests need, and real speech for the parity check."""

from collections.abc import Callable
from pathlib import Path

from device_runner.artifact import Artifact
from device_runner.engines import Waveform
from device_runner.latency import real_speech
from exporters.export import Facts, export
from toolchain.datasets import open_data
from toolchain.models import AnchorModel

PARITY_SECONDS = [1.0, 3.0, 8.0]


def export_model(
    model: AnchorModel,
    *,
    format_name: str,
    scheme_name: str,
    folder: Path,
    codec: str | None = None,
    transmitted_bytes: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Artifact, float]:
    """Export an anchor (or a codec's reconstruction of it), checked on the bundled dev-clean speech of three lengths.

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
        progress=progress,
    )


def bundled_speech(seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return bundled dev-clean speech of exactly these lengths."""
    return real_speech([utterance.path for utterance in open_data("digits", "dev-clean").utterances], seconds, sample_rate)
