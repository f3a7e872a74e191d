"""From a recogniser to an artifact: export in a format, check against torch, write the manifest."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from device_runner.artifact import MANIFEST, Artifact, Manifest, Parity, describe_file, write_manifest
from device_runner.engines import Engine, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import package_versions
from device_runner.files import atomic_folder
from device_runner.names import nearest
from exporters.onnx_format import export_onnx
from exporters.recogniser import Recogniser
from exporters.schemes import Scheme, find_scheme

Exporter = Callable[[Recogniser, Scheme, dict[str, str], int, Path], dict[str, int]]
# Format name -> (exporter, name of the model file). ExecuTorch comes here.
FORMATS: dict[str, tuple[Exporter, str]] = {"onnx": (export_onnx, "model.onnx")}
# Float exports differ from torch by rounding only; more than this is a wrong graph. Quantised ones report their distance.
FP32_LARGEST = 1e-3


@dataclass(frozen=True)
class Facts:
    """The plain facts that go into a manifest; see ``device_runner.artifact.Manifest``."""

    model: str
    weights: str
    trained: bool
    labels: tuple[str, ...]
    sample_rate: int
    parameters: int
    minimum_samples: int
    codec: str | None = None
    transmitted_bytes: int | None = None


def export(
    recogniser: Recogniser,
    facts: Facts,
    *,
    format_name: str,
    scheme_name: str,
    folder: Path,
    speech: Sequence[npt.NDArray[np.float32]],
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Artifact, float]:
    """Export a recogniser into ``folder`` and check it against torch; nothing is left behind when a step fails.

    Args:
        recogniser: the module, evaluation mode, weight norm folded.
        facts: what the manifest says.
        format_name: a key of ``FORMATS``.
        scheme_name: a scheme that the format has.
        folder: the artifact's folder; an older artifact there is replaced.
        speech: real speech ``[samples]`` of several lengths, for the parity check.
        progress: told the name of each step.

    Returns:
        The artifact and the seconds that the export took without the parity check.

    Raises:
        AsrDeployError: unknown format or scheme, a model without labels, or an export that differs from torch.
    """
    scheme = check_choice(format_name, scheme_name)
    _check_labels(recogniser, facts)
    exporter, file_name = FORMATS[format_name]
    metadata = {
        "labels": json.dumps(facts.labels, ensure_ascii=False),
        "sample_rate": str(facts.sample_rate),
        "model": facts.model,
        "weights": facts.weights,
        "scheme": scheme.name,
        "normalised_waveform": str(recogniser.normalised_waveform).lower(),
    }
    with atomic_folder(folder, owned=lambda old: (old / MANIFEST).is_file()) as temporary:
        started = time.perf_counter()
        progress(f"exporting {facts.model} to {format_name}, {scheme.name}")
        with torch.inference_mode(False), torch.no_grad():
            quantised = exporter(recogniser, scheme, metadata, facts.sample_rate, temporary / file_name)
        seconds = time.perf_counter() - started
        manifest = Manifest(
            **vars(facts),
            format=format_name,
            scheme=scheme.name,
            files=(describe_file(temporary / file_name),),
            normalised_waveform=recogniser.normalised_waveform,
            quantised=quantised,
            versions=package_versions(),
        )
        progress("comparing with torch")
        engine = open_engine(Artifact(temporary, manifest))
        parity = tuple(compare(recogniser, engine, waveform, facts.sample_rate) for waveform in speech)
        worst = max((each.largest for each in parity), default=0.0)
        if not math.isfinite(worst):
            raise AsrDeployError("The exported model gives logits that are not finite; nothing was written.")
        if scheme.weight_bits == 32 and worst > FP32_LARGEST:
            raise AsrDeployError(f"The exported model differs from torch by {worst:.2g} in its logits; nothing was written.")
        del engine
        manifest = manifest.model_copy(update={"parity": parity})
        write_manifest(temporary, manifest)
    return Artifact(folder, manifest), seconds


def check_choice(format_name: str, scheme_name: str) -> Scheme:
    """Return the scheme of a format.

    Raises:
        AsrDeployError: unknown format or scheme, or a scheme that the format lacks.
    """
    if format_name not in FORMATS:
        raise nearest(format_name, FORMATS, "format")
    return find_scheme(scheme_name, format_name)


@torch.inference_mode()
def compare(recogniser: Recogniser, engine: Engine, waveform: npt.NDArray[np.float32], sample_rate: int) -> Parity:
    """Measure the distance of an engine's logits to torch's on a waveform ``[samples]``."""
    expected = recogniser(torch.from_numpy(waveform)[None])[0].numpy()
    found = engine.logits(waveform)
    if found.shape != expected.shape:
        raise AsrDeployError(f"The exported model gives logits of shape {found.shape} instead of {expected.shape}.")
    difference = np.abs(found - expected)
    return Parity(
        seconds=round(len(waveform) / sample_rate, 3),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        relative=float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected)), 1e-12)),
        equal_arg_max=float((found.argmax(1) == expected.argmax(1)).mean()),
    )


@torch.inference_mode()
def _check_labels(recogniser: Recogniser, facts: Facts) -> None:
    if len(facts.labels) < 2:
        raise AsrDeployError(f"{facts.model} has no labels; a recogniser needs its list of labels, the blank first.")
    width = recogniser(torch.zeros(1, facts.minimum_samples)).shape[-1]
    if width != len(facts.labels):
        raise AsrDeployError(f"{facts.model} gives {width} logits a frame but has {len(facts.labels)} labels.")
