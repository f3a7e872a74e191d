"""What can be run and scored: an artifact's folder, or the name of an anchor or a custom model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from device_runner.artifact import MANIFEST, Artifact, open_artifact
from device_runner.engines import Engine, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts
from device_runner.labels import select_labels
from toolchain.models.test_cases import CHECKPOINTS, CONFIG, DESCRIPTION, TestCase, case_of, find_test_case, names_custom_model

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel  # it brings torch in, which artifacts can do without


@dataclass(frozen=True)
class Transcriber:
    """A recogniser, with what a result must say of it.

    Args:
        configuration: name of the test configuration.
        case: its test case.
        identity: what decides the transcripts: the sha256 of an artifact, or name and weights of an anchor.
        transmitted_bits: what reaches the UE.
        engine: None: it runs on a device.
        opener: opens the engine anew with a number of threads.
        threads: of the engine.
        artifact: None: it is a model in torch.
        model: None: it is an artifact.
        half: the engine computes in half precision.
        torch_device: what a model in torch runs on.
        tuned_on: ids of the utterances that codec or scheme were calibrated with; see ``toolchain.data.splits``.
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
    threads: int = 1
    artifact: Artifact | None = None
    model: "AnchorModel | None" = None
    torch_device: str = "cpu"
    half: bool = False
    tuned_on: frozenset[str] = frozenset()

    @property
    def running(self) -> Engine:
        """The engine.

        Raises:
            ValueError: the transcriber is only described here and runs on a device.
        """
        if self.engine is None:
            raise ValueError(f"{self.configuration} runs on a device")
        return self.engine

    @property
    def shareable(self) -> bool:
        """Whether several threads may use the engine at once, and gain by it: ExecuTorch plans memory for one, and holds Python's lock."""
        return self.artifact is None or self.artifact.manifest.format != "executorch"

    @property
    def saturates(self) -> bool:
        """Whether what is heard depends on how the processor adds 8-bit products."""
        return self.artifact is not None and _saturates(self.artifact)

    def transcribe(self, waveform: Waveform) -> str:
        """Return what is heard in a waveform ``[samples]``.

        Raises:
            AsrDeployError: it is too short or too long.
            ValueError: see ``running``.
        """
        return select_labels(self.running.logits(waveform), self.labels)

    def with_threads(self, threads: int) -> "Transcriber":
        """Return this transcriber with an engine on other threads.

        Raises:
            AsrDeployError: fewer than one thread.
        """
        if threads == self.threads or self.opener is None:
            return self
        return replace(self, engine=self.opener(threads), threads=threads)


def open_transcriber(
    name: str, *, weights: str | None = None, seed: int = 0, threads: int = 1, torch_device: str = "cpu", half: bool = False
) -> Transcriber:
    """Open an artifact's folder, or an anchor by number or name, or a custom model, as the torch reference.

    Args:
        name: see above.
        weights: of a model.
        seed: of random weights.
        threads: of the engine.
        torch_device: what a model runs on, in torch's words: ``cpu``, ``cuda``, ``cuda:1``.
        half: a model computes in half precision.

    Raises:
        AsrDeployError: it is neither, or cannot be opened.
    """
    path = Path(name)
    if _names_artifact(name):
        if weights is not None:
            raise AsrDeployError("--weights is for models; an artifact has its own.")
        if torch_device != "cpu" or half:
            raise AsrDeployError("--torch-device and --half are for models in torch; an artifact runs as it was exported.")
        if not path.exists():
            raise AsrDeployError(f"{path} does not exist; give an artifact's folder, a model's name, or your custom model.")
        artifact = open_artifact(path)
        return describe(artifact, open_engine(artifact, threads), threads)
    if not names_custom_model(name):
        find_test_case(name)  # an unknown name is answered before torch is imported
    from toolchain.models.loading import load_model

    model = load_model(name, weights, seed)
    return transcriber_of(model, model.case.name, f"{model.case.name}, {model.weights}", None, threads, torch_device, half=half)


def _names_artifact(name: str) -> bool:
    path = Path(name)
    if path.is_dir():
        return (path / MANIFEST).is_file() or not (path / CONFIG).is_file()
    return (path.exists() or "/" in name) and path.suffix not in (DESCRIPTION, *CHECKPOINTS)


def describe(artifact: Artifact, engine: Engine | None = None, threads: int = 1) -> Transcriber:
    """Return an artifact as a transcriber; without an engine where a device runs it."""
    manifest = artifact.manifest
    return Transcriber(
        configuration=artifact.folder.resolve().name,
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
        threads=threads,
        artifact=artifact,
        tuned_on=frozenset(manifest.tuned_on),
    )


def transcriber_of(
    model: "AnchorModel",
    configuration: str,
    identity: str,
    transmitted_bits: int | None,
    threads: int,
    torch_device: str = "cpu",
    *,
    half: bool = False,
) -> Transcriber:
    """Return a model in torch as a transcriber; ``transmitted_bits`` None: the anchor's own size."""
    from toolchain.accuracy.torch_engine import TorchEngine

    def opener(number: int) -> Engine:
        return TorchEngine(model, number, torch_device, half=half)

    return Transcriber(
        configuration=configuration,
        case=model.case,
        identity=identity,
        trained=model.trained,
        labels=model.case.labels,
        sample_rate=model.case.sample_rate,
        transmitted_bits=model.case.anchor.size_bits if transmitted_bits is None else transmitted_bits,
        artifact_bytes=None,
        engine=opener(threads),
        opener=opener,
        threads=threads,
        model=model,
        torch_device=torch_device,
        half=half,
        tuned_on=frozenset(model.tuned_on),
    )


def inexact(artifact: Artifact, *, exact: bool | None) -> str | None:
    """Return a sentence where 8-bit products were computed by a processor that saturates them.

    Args:
        artifact: what was run.
        exact: what the processor does; None: not known.
    """
    if not _saturates(artifact) or exact is not False:
        return None
    return (
        "This CPU has no dot-product instructions (VNNI): its 8-bit products saturate, so the word error rate is not a phone's; "
        f"export with --quant {artifact.manifest.scheme}+reduce_range."
    )


def _saturates(artifact: Artifact) -> bool:
    """Tell whether an artifact has 8-bit products that saturate where the processor has no dot-product instructions."""
    manifest = artifact.manifest
    computed = any(what in manifest.quantised for what in ("matrix products in int8", "convolutions in int8"))
    return computed and manifest.format == "onnx" and "reduce_range" not in manifest.scheme
