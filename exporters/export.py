"""Export a model to an artifact, check its logits against PyTorch and write the manifest."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from exporters.layouts import LAYOUTS, Contents, find_layout, frame_stride, written_files
from exporters.onnx.exporter import Speech, export_onnx
from exporters.onnx.log_probabilities import add_log_probabilities
from exporters.outcome import ExportOutcome
from exporters.recogniser import Recogniser
from exporters.replacing import check_own_files, check_replaced
from exporters.rewrites import for_device
from exporters.schemes import EXECUTORCH, ONNX, Scheme, find_scheme


@dataclass(frozen=True)
class Order:
    """An exporter's input: the rewritten model, the scheme and the range of input lengths."""

    recogniser: Recogniser
    scheme: Scheme
    metadata: dict[str, str]
    sample_rate: int
    minimum_samples: int
    maximum_samples: int
    calibration: Speech
    progress: Callable[[str], None]


def _onnx(order: Order, path: Path) -> ExportOutcome:
    return ExportOutcome(export_onnx(order.recogniser, order.scheme, order.metadata, order.sample_rate, order.calibration, path))


def _executorch(order: Order, path: Path) -> ExportOutcome:
    from exporters.executorch.exporter import export_executorch  # takes seconds to import, which ONNX does not need

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
    """An artifact format: its exporter, the name of its model file and its shortest input in seconds."""

    export: Callable[[Order, Path], ExportOutcome]
    file_name: str
    minimum_seconds: float = 0.0


FORMATS: dict[str, Format] = {
    ONNX: Format(_onnx, "model.onnx"),
    # With a shorter lower bound, torch.export specialises to one frame.
    EXECUTORCH: Format(_executorch, "model.pte", 0.1),
}
LONGEST = 300
MAX_SECONDS = 35.0  # LibriSpeech's longest utterance is 34.955 s
# A float32 export differs from PyTorch by rounding only. A larger difference means a wrong graph.
FP32_LARGEST = 1e-3
# 4-bit exports of random weights differ by about a fifth. At half, the graph is wrong.
LARGEST_RELATIVE = 0.5


@dataclass(frozen=True)
class Facts:
    """Facts about a model for its manifest; see ``device_runner.artifact.Manifest``."""

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
    layout_name: str = "asrdeploy",
    replace_other: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Artifact, float]:
    """Export a model to ``folder`` and compare its logits with PyTorch's. No files remain if a step fails.

    Args:
        recogniser: Model in evaluation mode, with weight norm folded.
        facts: Facts for the manifest.
        format_name: Key of ``FORMATS``.
        scheme_name: Name of a scheme that supports the format.
        folder: Folder of the artifact. An existing artifact of the same model, format, scheme and layout is replaced.
        speech: Real speech, each ``[samples]``, of several lengths, for the parity check.
        max_seconds: Longest audio in seconds that the artifact accepts. ExecuTorch plans memory for it.
        calibration: Recordings, each ``[samples]``, for schemes with calibrated activations. They are read one by one.
        layout_name: Key of ``LAYOUTS``, or several separated by commas. The artifact lies at the layout's ``place`` in ``folder``.
        replace_other: Whether to replace the artifact of another model, format, scheme or layout, too.
        progress: Callback that receives the name of each step.

    Returns:
        The artifact, and the duration of the export in seconds without the parity check.

    Raises:
        AsrDeployError: If the format, scheme or layout is unknown, the model has no labels, ``max_seconds`` is out of range, ``folder``
            holds another artifact, or the exported model differs from PyTorch.
    """
    scheme = check_choice(format_name, scheme_name)
    layout = find_layout(layout_name, format_name)
    made_from = vars(facts) | {"format": format_name, "scheme": scheme.name, "layout": layout.name}
    places = [folder / each for each in sorted({each.place for each in LAYOUTS.values()})]
    if not replace_other:
        for place in places:
            check_replaced(place, made_from)
    written = written_files(each.file_name for each in FORMATS.values())
    check_own_files(folder, places, written)
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
    contents = Contents(facts.model, facts.labels, facts.sample_rate, facts.minimum_samples, recogniser.normalised_waveform)
    layout.check(contents)

    def owned(old: Path) -> bool:
        return any((old / place.relative_to(folder) / MANIFEST).is_file() for place in places)

    with atomic_folder(folder, owned=owned) as temporary:
        path = temporary / layout.model_file(form.file_name, scheme)
        path.parent.mkdir(exist_ok=True)
        started = time.perf_counter()
        progress(f"exporting {facts.model} to {format_name}, {scheme.name}")
        with torch.inference_mode(False), torch.no_grad():
            rewritten, rewrites = for_device(recogniser, format_name)
            order = Order(rewritten, scheme, metadata, facts.sample_rate, minimum, maximum, calibration, progress)
            made = form.export(order, path)
            del rewritten, order
        if layout.log_probabilities:
            add_log_probabilities(path)
        seconds = time.perf_counter() - started
        manifest = Manifest(
            **vars(facts),
            format=format_name,
            scheme=scheme.name,
            layout=layout.name,
            files=(describe_file(path),),
            normalised_waveform=recogniser.normalised_waveform,
            maximum_samples=maximum,
            rewrites=rewrites,
            **vars(made),
            versions=package_versions(),
        )
        progress("comparing with PyTorch")
        engine = open_engine(Artifact(path.parent, manifest))
        fitting = [waveform for waveform in speech if minimum <= len(waveform) <= maximum]
        parity = tuple(compare(recogniser, engine, waveform, facts.sample_rate) for waveform in fitting)
        worst = max((each.largest for each in parity), default=0.0)
        if not math.isfinite(worst):
            raise AsrDeployError(f"The model exported with {scheme.name} returns logits that are not finite. Nothing was written.")
        if scheme.exact and worst > FP32_LARGEST:
            raise AsrDeployError(
                f"The exported model's logits differ from PyTorch's by {worst:.2g} (limit: {FP32_LARGEST:g}). Nothing was written."
            )
        relative = max((each.relative for each in parity), default=0.0)
        if relative > LARGEST_RELATIVE:
            raise AsrDeployError(
                f"The exported model's logits differ from PyTorch's by {relative:.0%} (limit: {LARGEST_RELATIVE:.0%}). "
                "Nothing was written. Choose another scheme with --quant."
            )
        if format_name == ONNX:
            layout.write(contents, partial(frame_stride, engine, minimum, facts.sample_rate), temporary)
        del engine
        manifest = manifest.model_copy(update={"parity": parity})
        write_manifest(path.parent, manifest)
        if not replace_other:  # again: another process may have written in the meantime
            for place in places:
                check_replaced(place, made_from)
        check_own_files(folder, places, written)
    return Artifact(folder / layout.place, manifest), seconds


def _maximum_samples(seconds: float, minimum: int, sample_rate: int) -> int:
    if not math.isfinite(seconds) or seconds * sample_rate < minimum:
        raise AsrDeployError(
            f"--max-seconds {seconds:g} is below the model's shortest input of {minimum / sample_rate:g} s. Give a larger number."
        )
    if seconds > LONGEST:
        raise AsrDeployError(
            f"--max-seconds {seconds:g} exceeds {LONGEST} s. Memory for attention grows with the square of the length; give less."
        )
    return math.floor(seconds * sample_rate)


def check_choice(format_name: str, scheme_name: str) -> Scheme:
    """Return a scheme that supports a format.

    Args:
        format_name: Key of ``FORMATS``.
        scheme_name: Name of a scheme.

    Raises:
        AsrDeployError: If the format or scheme is unknown, or the scheme does not support the format.
    """
    if format_name not in FORMATS:
        raise nearest(format_name, FORMATS, "format")
    return find_scheme(scheme_name, format_name)


@torch.inference_mode()
def compare(recogniser: Recogniser, engine: Engine, waveform: npt.NDArray[np.float32], sample_rate: int) -> Parity:
    """Measure the distance between an engine's logits and PyTorch's for a waveform ``[samples]``."""
    expected = recogniser(torch.from_numpy(waveform)[None])[0].numpy()
    found = engine.logits(waveform)
    if found.shape != expected.shape:
        raise AsrDeployError(f"The exported model returns logits of shape {found.shape}, but PyTorch returns {expected.shape}.")
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
        raise AsrDeployError(f"{facts.model} has no labels. A model requires a list of labels that starts with the CTC blank.")
    width = recogniser(torch.zeros(1, facts.minimum_samples)).shape[-1]
    if width != len(facts.labels):
        raise AsrDeployError(f"{facts.model} returns {width} logits per frame, but has {len(facts.labels)} labels. Both must be equal.")
