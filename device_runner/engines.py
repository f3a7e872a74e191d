"""Engines that run an artifact in this process, one for each artifact format."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from device_runner.files import readable_by_libraries

Waveform = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded model that turns a waveform into logits."""

    def logits(self, waveform: Waveform) -> Logits:
        """Run the model.

        Args:
            waveform: Samples ``[samples]`` in -1..1 at the artifact's sample rate.

        Returns:
            Logits ``[frames, labels]``.
        """
        ...


MakeEngine = Callable[[Artifact, int, str], Engine]
ENGINES: dict[str, MakeEngine] = {}
MOST_THREADS = 1024
PROVIDERS = {"cpu": "CPUExecutionProvider", "xnnpack": "XnnpackExecutionProvider", "nnapi": "NnapiExecutionProvider"}


def engine_for(format_name: str) -> Callable[[MakeEngine], MakeEngine]:
    """Return a decorator that registers an engine for an artifact format."""

    def register(make: MakeEngine) -> MakeEngine:
        ENGINES[format_name] = make
        return make

    return register


def open_engine(artifact: Artifact, threads: int = 1, provider: str = "cpu") -> Engine:
    """Load an artifact with the engine for its format.

    Args:
        artifact: Artifact to load.
        threads: Number of runtime threads.
        provider: Execution provider of ONNX Runtime, a key of ``PROVIDERS``. Other runtimes accept only ``cpu``.

    Raises:
        AsrDeployError: If there is no engine for the format, ``threads`` is below 1, the provider is not available, or the
            runtime cannot load the file.
    """
    check_threads(threads)
    make = ENGINES.get(artifact.manifest.format)
    if make is None:
        raise AsrDeployError(
            f"No engine on this device runs the format “{artifact.manifest.format}”. Supported formats: {', '.join(sorted(ENGINES))}."
        )
    return make(artifact, threads, provider)


def check_threads(threads: int) -> None:
    """Raise AsrDeployError if ``threads`` is below 1; runtimes would take 0 for all available threads."""
    if threads < 1:
        raise AsrDeployError(f"--threads must be 1 or more, not {threads}.")
    if threads > MOST_THREADS:  # runtimes crash where the system gives them no more
        raise AsrDeployError(f"--threads {threads} is more than {MOST_THREADS}. Give about as many as this machine has cores.")


def check_length(waveform: Waveform, minimum: int, maximum: int | None = None) -> None:
    """Raise AsrDeployError if a waveform is too short for one frame of logits or longer than the artifact accepts.

    Args:
        waveform: Samples ``[samples]``.
        minimum: Smallest number of samples.
        maximum: Largest number of samples; None if unlimited.
    """
    if waveform.ndim != 1 or waveform.size < minimum:
        raise AsrDeployError(f"The audio has {waveform.size} samples, but the model requires at least {minimum}. Use a longer recording.")
    if maximum is not None and waveform.size > maximum:
        raise AsrDeployError(
            f"The audio has {waveform.size} samples, but the artifact accepts at most {maximum}. "
            "Shorten the audio, or export the model with a larger --max-seconds."
        )


@engine_for("onnx")
class OnnxEngine:
    """ONNX Runtime on the CPU, with a fixed number of threads and no inter-operator parallelism."""

    def __init__(self, artifact: Artifact, threads: int = 1, provider: str = "cpu") -> None:
        import onnxruntime as ort  # here because the import takes a second

        if PROVIDERS.get(provider) not in ort.get_available_providers():
            here = ", ".join(name for name, theirs in PROVIDERS.items() if theirs in ort.get_available_providers())
            raise AsrDeployError(f"onnxruntime {ort.__version__} has no provider {provider} on this device. Available providers: {here}.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            with readable_by_libraries(artifact.model_path) as path:
                self.session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
        except Exception as error:  # onnxruntime's own exception classes share no base below Exception
            if "max supported IR version" in str(error):
                made = artifact.manifest.versions.get("onnxruntime", "a newer version")
                raise AsrDeployError(
                    f"onnxruntime {ort.__version__} is too old for {artifact.model_path}, which was made with {made}. Install a newer one."
                ) from error
            raise AsrDeployError(f"onnxruntime {ort.__version__} cannot load {artifact.model_path}: {_first_line(error)}.") from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.name for each in inputs] != ["input_values"] or "logits" not in [each.name for each in outputs]:
            raise AsrDeployError(
                f"{artifact.model_path} is not a model that asrdeploy can run: its input must be input_values and its output logits."
            )
        width, labels = next(each for each in outputs if each.name == "logits").shape[-1:], len(artifact.manifest.labels)
        if isinstance(width[0] if width else None, int) and width[0] != labels:
            raise AsrDeployError(
                f"{artifact.model_path} returns {width[0]} logits per frame, but its manifest has {labels} labels. Export the model again."
            )
        self._path = artifact.model_path
        self._minimum, self._maximum = artifact.manifest.minimum_samples, artifact.manifest.maximum_samples

    def logits(self, waveform: Waveform) -> Logits:
        """Run the model; see ``Engine.logits``."""
        check_length(waveform, self._minimum, self._maximum)
        try:
            result: Logits = self.session.run(["logits"], {"input_values": waveform[None]})[0][0]
        except Exception as error:  # onnxruntime's own exception classes share no base below Exception
            raise AsrDeployError(f"{self._path} cannot process {waveform.size} samples: {_first_line(error)}.") from error
        if result.ndim != 2 or not result.size:
            raise AsrDeployError(
                f"{self._path} returns no frame for {waveform.size} samples, although its manifest allows them. Export the model again."
            )
        return result


@engine_for("executorch")
class ExecutorchEngine:
    """ExecuTorch with XNNPACK on a fixed number of threads, for .pte programs.

    All engines of a process share XNNPACK's threads; the engine that is opened last sets their number.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, provider: str = "cpu") -> None:
        if provider != "cpu":
            raise AsrDeployError(f"The provider {provider} does not apply to .pte files, which choose their backend at export. Use cpu.")
        try:
            import torch  # here because a machine that only drives phones has no torch
            from executorch.extension.pybindings import _portable_lib as runtime
        except ImportError as error:
            raise AsrDeployError(
                "ExecuTorch is not installed, but .pte files require it. Install asrdeploy[toolchain]; on a phone, use the app (--via app)."
            ) from error

        self._tensor: Any = torch.from_numpy
        self._path = artifact.model_path
        try:
            with _native_chatter_off(), readable_by_libraries(self._path) as path:
                runtime._unsafe_reset_threadpool(threads)
                self._module: Any = runtime._load_for_executorch(str(path), program_verification=runtime.Verification.InternalConsistency)
            meta = self._module.method_meta("forward")
        except Exception as error:  # the binding raises RuntimeError and others
            raise AsrDeployError(f"ExecuTorch cannot load {self._path}: {_first_line(error)}.") from error
        if meta.num_inputs() != 1 or meta.num_outputs() != 1:
            raise AsrDeployError(
                f"{self._path} is not a model that asrdeploy can run: it must have one input, the waveform, and one output, the logits."
            )
        width, labels = meta.output_tensor_meta(0).sizes()[-1], len(artifact.manifest.labels)
        if width != labels:
            raise AsrDeployError(
                f"{self._path} returns {width} logits per frame, but its manifest has {labels} labels. Export the model again."
            )
        planned = meta.input_tensor_meta(0).sizes()[-1]
        self._minimum = artifact.manifest.minimum_samples
        self._maximum = min(planned, artifact.manifest.maximum_samples or planned)

    def logits(self, waveform: Waveform) -> Logits:
        """Run the model; see ``Engine.logits``."""
        check_length(waveform, self._minimum, self._maximum)
        try:
            output = self._module.run_method("forward", (self._tensor(np.ascontiguousarray(waveform))[None],))[0]
        except Exception as error:  # the binding raises RuntimeError and others
            raise AsrDeployError(f"{self._path} cannot process {waveform.size} samples: {_first_line(error)}.") from error
        # Copy, because the next call overwrites the same memory.
        result: Logits = output[0].numpy().copy()
        return result


@contextlib.contextmanager
def _native_chatter_off() -> Iterator[None]:
    """Suppress what native code writes to standard error, such as notes about the processor."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
