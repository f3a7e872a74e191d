"""From a recogniser to an artifact: export in a format, check against torch, write the manifest."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from device_runner.artifact import MANIFEST, Artifact, Manifest, Parity, describe_file, write_manifest
from device_runner.engines import Engine, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import package_versions
from device_runner.files import atomic_folder
from device_runner.suggestions import nearest
from exporters.onnx.exporter import TOKENS, Speech, export_onnx, write_tokens
from exporters.outcome import ExportOutcome
from exporters.recogniser import Recogniser
from exporters.rewrites import for_device
from exporters.schemes import EXECUTORCH, ONNX, Scheme, find_scheme


@dataclass(frozen=True)
class Order:
    """What an exporter is asked for: a rewritten recogniser, how to store it, and the lengths that it must take."""

    recogniser: Recogniser
    scheme: Scheme
    metadata: dict[str, str]
    labels: tuple[str, ...]
    sample_rate: int
    minimum_samples: int
    maximum_samples: int
    calibration: Speech
    progress: Callable[[str], None]


def _onnx(order: Order, path: Path) -> ExportOutcome:
    write_tokens(order.labels, path.with_name(TOKENS))
    return ExportOutcome(export_onnx(order.recogniser, order.scheme, order.metadata, order.sample_rate, order.calibration, path))


def _executorch(order: Order, path: Path) -> ExportOutcome:
    from exporters.executorch.exporter import export_executorch  # seconds of import time that ONNX needs not pay

    return export_executorch(
        order.recogniser,
        order.scheme,
        sample_rate=order.sample_rate,
        minimum_samples=order.minimum_samples,
        maximum_samples=order.maximum_samples,
        path=path,
        progress=order.progress,
    )


@dataclass(frozen=True)
class Format:
    """An artifact format: its exporter, its model file and the shortest input that it can take."""

    export: Callable[[Order, Path], ExportOutcome]
    file_name: str
    minimum_seconds: float = 0.0


FORMATS: dict[str, Format] = {
    ONNX: Format(_onnx, "model.onnx"),
    # A shorter lower bound makes torch.export specialise on one frame.
    EXECUTORCH: Format(_executorch, "model.pte", 0.1),
}
LONGEST = 300
MAX_SECONDS = 35.0  # LibriSpeech's longest utterance is 34.955 s
# Float exports differ from torch by rounding only; more than this is a wrong graph. Quantised ones report their distance.
FP32_LARGEST = 1e-3
# 4 bits on random weights are wrong by a fifth; half is another model.
LARGEST_RELATIVE = 0.5


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
    tuned_on: tuple[str, ...] = ()


def export(
    recogniser: Recogniser,
    facts: Facts,
    *,
    format_name: str,
    scheme_name: str,
    folder: Path,
    speech: Sequence[npt.NDArray[np.float32]],
    max_seconds: float = MAX_SECONDS,
    calibration: Speech = (),
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
        max_seconds: the longest audio that the artifact takes; ExecuTorch plans memory for it.
        calibration: recordings ``[samples]`` for schemes with calibrated activations; read one by one.
        progress: told the name of each step.

    Returns:
        The artifact and the seconds that the export took without the parity check.

    Raises:
        AsrDeployError: unknown format or scheme, a model without labels, bounds that leave no length, or an export that differs
            from torch.
    """
    scheme = check_choice(format_name, scheme_name)
    _check_labels(recogniser, facts)
    form = FORMATS[format_name]
    minimum = max(facts.minimum_samples, math.ceil(form.minimum_seconds * facts.sample_rate))
    maximum = _maximum_samples(max_seconds, minimum, facts.sample_rate)
    facts = replace(facts, minimum_samples=minimum)
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
            rewritten, rewrites = for_device(recogniser, format_name)
            order = Order(rewritten, scheme, metadata, facts.labels, facts.sample_rate, minimum, maximum, calibration, progress)
            made = form.export(order, temporary / form.file_name)
            del rewritten, order
        seconds = time.perf_counter() - started
        manifest = Manifest(
            **vars(facts),
            format=format_name,
            scheme=scheme.name,
            files=(describe_file(temporary / form.file_name),),
            normalised_waveform=recogniser.normalised_waveform,
            maximum_samples=maximum,
            rewrites=rewrites,
            **vars(made),
            versions=package_versions(),
        )
        progress("comparing with torch")
        engine = open_engine(Artifact(temporary, manifest))
        fitting = [waveform for waveform in speech if minimum <= len(waveform) <= maximum]
        parity = tuple(compare(recogniser, engine, waveform, facts.sample_rate) for waveform in fitting)
        worst = max((each.largest for each in parity), default=0.0)
        if not math.isfinite(worst):
            raise AsrDeployError("The exported model gives logits that are not finite; nothing was written.")
        if scheme.exact and worst > FP32_LARGEST:
            raise AsrDeployError(f"The exported model differs from torch by {worst:.2g} in its logits; nothing was written.")
        relative = max((each.relative for each in parity), default=0.0)
        if relative > LARGEST_RELATIVE:
            raise AsrDeployError(f"The exported model's logits are wrong by {relative:.0%} of torch's; nothing was written.")
        del engine
        manifest = manifest.model_copy(update={"parity": parity})
        write_manifest(temporary, manifest)
    return Artifact(folder, manifest), seconds


def _maximum_samples(seconds: float, minimum: int, sample_rate: int) -> int:
    if not math.isfinite(seconds) or seconds * sample_rate < minimum:
        raise AsrDeployError(
            f"--max-seconds {seconds:g} is below the shortest audio of the model ({minimum / sample_rate:g} s); give more."
        )
    if seconds > LONGEST:
        raise AsrDeployError(f"--max-seconds {seconds:g} is beyond {LONGEST} s: attention's memory grows with the square of the length.")
    return math.floor(seconds * sample_rate)


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
