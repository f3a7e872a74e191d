"""Transcribers: an artifact or a model, ready to transcribe, with the facts that a result needs about it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from device_runner.artifact import Artifact, open_artifact
from device_runner.audio import resample
from device_runner.engines import Engine, Logits, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts
from device_runner.files import shown
from device_runner.home import in_home
from device_runner.labels import select_labels
from device_runner.waveforms import check_samples
from device_runner.windows import OnWindow, Windows
from device_runner.words import Word, frame_times, has_separator, words_of
from toolchain.accuracy import long_recordings
from toolchain.data.recordings import Needs
from toolchain.data.scripts import unspaced
from toolchain.extras import asrdeploy_command, installed
from toolchain.models.test_cases import (
    CHECKPOINTS,
    DESCRIPTION,
    TestCase,
    case_of,
    find_test_case,
    holds_models,
    is_artifact,
    names_custom_model,
    names_hub_model,
    with_language,
)

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel  # imports torch, which artifacts do without


@dataclass(frozen=True)
class Transcriber:
    """An artifact or a PyTorch model, ready to transcribe.

    Example:
        >>> transcriber = asrdeploy.load("artifacts/tiny")  # doctest: +SKIP
        >>> transcriber.transcribe(waveform, 16_000)  # doctest: +SKIP
        'SEVEN TWO NINE'

    Args:
        configuration: Name of the test configuration.
        case: Test case of the model.
        identity: What decides the transcripts: the sha256 of an artifact or bitstream, or name and weights of an anchor.
        trained: False for random weights.
        labels: Labels by index, the blank first.
        sample_rate: Sample rate of the model, in hertz.
        transmitted_bits: Bits that reach the UE.
        artifact_bytes: Size of the artifact; None for a PyTorch model.
        engine: What computes the logits; None if a device runs the artifact.
        warning: What a user should know about results from this machine.
        opener: Opens the engine with another number of threads.
        minimum_samples: Length of the shortest waveform, which gives one frame.
        maximum_samples: Length of the longest waveform; None if unlimited.
        threads: Threads of the engine.
        artifact: The artifact; None for a PyTorch model.
        model: The model; None for an artifact.
        torch_device: PyTorch device of a model.
        half: The model computes in half precision.
        tuned_on: Ids of the utterances that codec or scheme were calibrated with; see ``toolchain.data.splits``.
        windows: How long recordings are divided; None if all are transcribed whole.
    """

    configuration: str
    case: TestCase
    identity: str
    trained: bool
    labels: tuple[str, ...]
    sample_rate: int
    transmitted_bits: int
    artifact_bytes: int | None
    engine: Engine | None
    warning: str | None = None
    opener: Callable[[int], Engine] | None = None
    minimum_samples: int = 1
    maximum_samples: int | None = None
    threads: int = 1
    artifact: Artifact | None = None
    model: "AnchorModel | None" = None
    torch_device: str = "cpu"
    half: bool = False
    tuned_on: frozenset[str] = frozenset()
    windows: Windows | None = None

    @property
    def running(self) -> Engine:
        """The engine.

        Raises:
            ValueError: There is none, because a device runs the artifact.
        """
        if self.engine is None:
            raise ValueError(f"{self.configuration} runs on a device")
        return self.engine

    @property
    def needs(self) -> Needs:
        """What the model requires of a recording."""
        return Needs(self.sample_rate, self.minimum_samples, self.maximum_samples)

    @property
    def shareable(self) -> bool:
        """Whether threads can share the engine and gain from it. ExecuTorch plans memory for one call and holds Python's lock."""
        return self.artifact is None or self.artifact.manifest.format != "executorch"

    @property
    def saturates(self) -> bool:
        """Whether transcripts depend on how the processor adds 8-bit products."""
        return self.artifact is not None and _saturates(self.artifact)

    def transcribe(self, waveform: Waveform, sample_rate: int | None = None) -> str:
        """Return the transcript of a waveform; see ``logits`` for arguments and errors."""
        return select_labels(self.logits(waveform, sample_rate), self.labels)

    def logits(self, waveform: Waveform, sample_rate: int | None = None) -> Logits:
        """Return the logits ``[frames, labels]`` of a waveform.

        Args:
            waveform: Samples ``[samples]`` in -1 to 1, mono, as an array of float32. A list or a PyTorch tensor is converted.
            sample_rate: Sample rate of the waveform in hertz (default: the model's). Another rate is resampled.

        Raises:
            AsrDeployError: The waveform is not mono float samples, has samples that are NaN, infinite or absurdly large, is too short
                or too long, or cannot be resampled.
            ValueError: A device runs the artifact; see ``running``.
        """
        return self.running.logits(self._samples(waveform, sample_rate))

    def words(self, waveform: Waveform, sample_rate: int | None = None) -> tuple[Word, ...]:
        """Return the words of a waveform with their times and a confidence; see ``logits`` for arguments and errors.

        Their texts, joined by spaces, are the transcript with one space between words. In scripts without spaces between words (most
        letters of the transcript decide) and for labels without a separator, every character is a word. Start and end are in seconds.

        Example:
            >>> for word in asrdeploy.load("artifacts/tiny").words(waveform, 16_000):  # doctest: +SKIP
            ...     print(f"{word.start:.2f} {word.end:.2f} {word.text} {word.confidence:.2f}")
        """
        return self.timed(waveform, sample_rate)[1]

    def timed(self, waveform: Waveform, sample_rate: int | None = None) -> tuple[str, tuple[Word, ...], str]:
        """Return the transcript, its words, and what lies between words (a space or nothing); see ``transcribe`` and ``words``."""
        samples = self._samples(waveform, sample_rate)
        logits = self.running.logits(samples)
        text = select_labels(logits, self.labels)
        characters = not has_separator(self.labels) or unspaced([text])
        times = frame_times(len(logits), samples.size, self.sample_rate, self.minimum_samples)
        return text, words_of(logits, self.labels, times, characters=characters), "" if characters else " "

    def _samples(self, waveform: Waveform, sample_rate: int | None) -> Waveform:
        """Return a waveform as samples at the model's rate; see ``logits``."""
        samples = _as_array(waveform)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise AsrDeployError(
                f"The waveform has shape {samples.shape} and type {samples.dtype}. Give one channel of float32 samples in -1 to 1."
            )
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            # A copy only if it is needed: runtimes take neither strides nor read-only memory, and an hour is 230 MB.
            samples = np.require(samples, np.float32, ["C", "W", "A"])
        check_samples(samples)
        if sample_rate is not None and sample_rate != self.sample_rate:
            if not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
                raise AsrDeployError(f"The sample rate {sample_rate!r} is not valid. Give a whole number of hertz.")
            samples = resample(samples, int(sample_rate), self.sample_rate)
        return samples

    def with_threads(self, threads: int) -> "Transcriber":
        """Return this transcriber with an engine of another number of threads.

        Raises:
            AsrDeployError: ``threads`` is below 1.
        """
        if threads == self.threads or self.opener is None:
            return self
        return replace(self, engine=self.opener(threads), threads=threads)

    def windowed(
        self, window: float = long_recordings.WINDOW, overlap: float = long_recordings.OVERLAP, progress: OnWindow | None = None
    ) -> "Transcriber":
        """Return a transcriber that runs on overlapping windows of a recording, so that its length does not decide the memory.

        The logits of the windows are joined at the centres of the overlaps. Recordings that fit into a window stay whole.

        Example:
            >>> asrdeploy.load("artifacts/tiny").windowed(10, 1).transcribe(hour, 16_000)  # doctest: +SKIP
            'SEVEN TWO NINE …'

        Args:
            window: Length of the windows in seconds.
            overlap: Smallest overlap of neighbouring windows in seconds.
            progress: Called after every window with the finished and all seconds of a recording that is divided.

        Raises:
            AsrDeployError: The overlap is not less than the window, the window is too short for one frame beside the overlap or longer
                than the artifact accepts, a device runs the artifact, or the transcriber has windows already.
        """
        return long_recordings.windowed(self, window, overlap, progress)


def _as_array(waveform: Any) -> npt.NDArray[Any]:
    """Return a waveform as an array, from whatever holds samples."""
    try:
        if hasattr(waveform, "detach"):  # a PyTorch tensor: with gradients, on a GPU, or of a type that numpy lacks
            waveform = waveform.detach().cpu()
            waveform = waveform.float() if waveform.is_floating_point() else waveform
        return np.asarray(waveform)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AsrDeployError(
            f"The waveform is a {type(waveform).__name__} that has no samples. Give one channel of float32 samples in -1 to 1."
        ) from error


def open_transcriber(
    name: str | int | Path, *, weights: str | None = None, seed: int = 0, threads: int = 1, torch_device: str = "cpu", half: bool = False
) -> Transcriber:
    """Load an artifact, or a model as the PyTorch reference.

    Example:
        >>> asrdeploy.load("artifacts/tiny", threads=2).transcribe(waveform, 16_000)  # doctest: +SKIP
        'SEVEN TWO NINE'

    Args:
        name: Folder of an artifact, a test case by number or name, or a custom model.
        weights: Weights of a model; see ``load_model``.
        seed: Seed of random weights.
        threads: Threads of the engine.
        torch_device: PyTorch device of a model: ``cpu``, ``cuda`` or ``cuda:N``.
        half: Run a model in half precision.

    Raises:
        AsrDeployError: Unknown name, or something that cannot be loaded.
    """
    name = in_home(str(name))
    path = Path(name)
    if _names_artifact(name):
        if weights is not None:
            raise AsrDeployError(
                f"--weights applies to models, and {path} is an artifact, which contains its weights. Leave --weights out."
            )
        if torch_device != "cpu" or half:
            raise AsrDeployError(f"--torch-device and --half apply to PyTorch models, and {path} is an artifact. Leave them out.")
        if not path.exists():
            raise AsrDeployError(f"{path} does not exist. Give the folder of an artifact, a test case, or a custom model.")
        artifact = open_artifact(path)
        return artifact_transcriber(artifact, open_engine(artifact, threads), threads)
    if names_hub_model(name) and installed("huggingface_hub") is None:
        raise AsrDeployError(
            f"{path} does not exist here. To load the model of this name from the Hub, install the extra toolchain: "
            f"`{asrdeploy_command('toolchain')}`."
        )
    if not names_custom_model(name):
        find_test_case(name)  # an unknown name is answered before torch is imported
    from toolchain.models.loading import load_model

    return model_transcriber(load_model(name, weights, seed), threads=threads, torch_device=torch_device, half=half)


def as_transcriber(model: "Transcriber | AnchorModel | Artifact | str | int | Path") -> Transcriber:
    """Return a transcriber for a transcriber, a model, an artifact, or the name of one; see ``open_transcriber``."""
    if isinstance(model, Transcriber):
        return model
    if isinstance(model, str | int | Path):
        return open_transcriber(model)
    if isinstance(model, Artifact):
        return artifact_transcriber(model, open_engine(model))
    if not hasattr(model, "received"):  # the type of models imports torch
        raise AsrDeployError(f"{type(model).__name__} cannot be transcribed with. Give a transcriber, a model, an artifact, or a name.")
    return model_transcriber(model)


def _names_artifact(name: str) -> bool:
    path = Path(name)
    if names_hub_model(name):
        return False
    if path.is_dir():
        return is_artifact(path) or not holds_models(path)
    if with_language(name)[1] is not None:
        return False
    return (path.exists() or "/" in name) and path.suffix not in (DESCRIPTION, *CHECKPOINTS)


def artifact_transcriber(artifact: Artifact, engine: Engine | None = None, threads: int = 1) -> Transcriber:
    """Return the transcriber of an artifact.

    Args:
        artifact: The artifact.
        engine: Engine that runs it on this machine; None if a device runs it.
        threads: Threads of the engine.
    """
    manifest = artifact.manifest
    return Transcriber(
        configuration=shown(artifact.name),
        case=case_of(manifest),
        identity=artifact.digest,
        trained=manifest.trained,
        labels=manifest.labels,
        sample_rate=manifest.sample_rate,
        transmitted_bits=artifact.transmitted_bits,
        artifact_bytes=artifact.size_bytes,
        engine=engine,
        warning=None if engine is None else inexact(artifact, exact=machine_facts()["int8_exact"]),
        opener=lambda number: open_engine(artifact, number),
        minimum_samples=manifest.minimum_samples,
        maximum_samples=manifest.maximum_samples,
        threads=threads,
        artifact=artifact,
        tuned_on=frozenset(manifest.tuned_on),
    )


def model_transcriber(
    model: "AnchorModel",
    configuration: str | None = None,
    *,
    identity: str | None = None,
    threads: int = 1,
    torch_device: str = "cpu",
    half: bool = False,
) -> Transcriber:
    """Return the transcriber of a PyTorch model.

    Args:
        model: The model. The transmitted bits are those of its bitstream if it was decompressed from one, otherwise the anchor's size.
        configuration: Name of the test configuration (default: the codec if there is one, else the model).
        identity: See ``Transcriber`` (default: that of the bitstream, else name and weights of the model).
        threads: Threads of the engine.
        torch_device: See ``open_transcriber``.
        half: Run in half precision.
    """
    from toolchain.accuracy.torch_engine import TorchEngine

    def opener(number: int) -> Engine:
        return TorchEngine(model, number, torch_device, half=half)

    received = model.received
    return Transcriber(
        configuration=configuration or (model.case.name if received is None else received.codec),
        case=model.case,
        identity=identity or (f"{model.case.name}, {model.weights}" if received is None else received.identity),
        trained=model.trained,
        labels=model.case.labels,
        sample_rate=model.case.sample_rate,
        transmitted_bits=model.case.anchor.size_bits if received is None else 8 * received.size_bytes,
        artifact_bytes=None,
        engine=opener(threads),
        opener=opener,
        minimum_samples=model.minimum_samples,
        threads=threads,
        model=model,
        torch_device=torch_device,
        half=half,
        tuned_on=frozenset(model.tuned_on),
    )


def inexact(artifact: Artifact, *, exact: bool | None) -> str | None:
    """Return a warning if an artifact with 8-bit products runs on a processor that saturates them, otherwise None.

    Args:
        artifact: Artifact that runs.
        exact: Whether the processor adds 8-bit products exactly; None if unknown.
    """
    if not _saturates(artifact) or exact is not False:
        return None
    return (
        "This CPU has no dot-product instructions (VNNI), so its 8-bit products saturate and the WER is not that of a phone. "
        f"Export with --quant {artifact.manifest.scheme}+reduce_range."
    )


def _saturates(artifact: Artifact) -> bool:
    """Return whether an artifact has 8-bit products that saturate on processors without dot-product instructions."""
    manifest = artifact.manifest
    computed = any(what in manifest.quantised for what in ("matrix products in int8", "convolutions in int8"))
    return computed and manifest.format == "onnx" and "reduce_range" not in manifest.scheme
