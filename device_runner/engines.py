"""Engines run an artifact in this process: waveform in, logits out. One per format, chosen by name."""

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

Waveform = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """Something that turns a waveform into logits."""

    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]`` in -1..1 at the artifact's sample rate."""
        ...


MakeEngine = Callable[[Artifact, int, str], Engine]
ENGINES: dict[str, MakeEngine] = {}
PROVIDERS = {"cpu": "CPUExecutionProvider", "xnnpack": "XnnpackExecutionProvider", "nnapi": "NnapiExecutionProvider"}


def engine_for(format_name: str) -> Callable[[MakeEngine], MakeEngine]:
    """Register the engine of an artifact format."""

    def register(make: MakeEngine) -> MakeEngine:
        ENGINES[format_name] = make
        return make

    return register


def open_engine(artifact: Artifact, threads: int = 1, provider: str = "cpu") -> Engine:
    """Load an artifact into the engine of its format.

    Args:
        artifact: what to load.
        threads: of the runtime.
        provider: what ONNX Runtime computes with, a key of ``PROVIDERS``; other runtimes decide that at the export and take ``cpu``.

    Raises:
        AsrDeployError: no engine for the format, fewer than one thread, no such provider here, or the runtime refuses the file.
    """
    check_threads(threads)
    make = ENGINES.get(artifact.manifest.format)
    if make is None:
        raise AsrDeployError(f"No engine here runs the format “{artifact.manifest.format}”; known: {', '.join(sorted(ENGINES))}.")
    return make(artifact, threads, provider)


def check_threads(threads: int) -> None:
    """Raise AsrDeployError where there is no thread to run on: runtimes would take 0 for all that there are."""
    if threads < 1:
        raise AsrDeployError(f"--threads {threads} leaves nothing to run on; give 1 or more.")


def check_length(waveform: Waveform, minimum: int, maximum: int | None = None) -> None:
    """Raise AsrDeployError where a waveform is too short for one frame of logits, or longer than the artifact takes."""
    if waveform.ndim != 1 or waveform.size < minimum:
        raise AsrDeployError(f"The audio has {waveform.size} samples; the model needs at least {minimum}: use a longer recording.")
    if maximum is not None and waveform.size > maximum:
        raise AsrDeployError(
            f"The audio has {waveform.size} samples; the artifact takes at most {maximum}: cut it, or export with a larger --max-seconds."
        )


@engine_for("onnx")
class OnnxEngine:
    """ONNX Runtime on the CPU, with a fixed number of threads and no inter-operator parallelism."""

    def __init__(self, artifact: Artifact, threads: int = 1, provider: str = "cpu") -> None:
        import onnxruntime as ort  # a second of import time that not every command needs

        if PROVIDERS.get(provider) not in ort.get_available_providers():
            here = ", ".join(name for name, theirs in PROVIDERS.items() if theirs in ort.get_available_providers())
            raise AsrDeployError(f"onnxruntime {ort.__version__} has no provider {provider} here; it has: {here}.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(artifact.model_path), options, providers=[PROVIDERS[provider]])
        except Exception as error:  # onnxruntime's own exception classes share no base below Exception
            raise AsrDeployError(f"onnxruntime {ort.__version__} cannot load {artifact.model_path}: {_first_line(error)}") from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.name for each in inputs] != ["input_values"] or "logits" not in [each.name for each in outputs]:
            raise AsrDeployError(f"{artifact.model_path} is not a speech recogniser of ours: it needs input_values and gives logits.")
        width, labels = next(each for each in outputs if each.name == "logits").shape[-1:], len(artifact.manifest.labels)
        if isinstance(width[0] if width else None, int) and width[0] != labels:
            raise AsrDeployError(f"{artifact.model_path} gives {width[0]} logits a frame, but its manifest has {labels} labels.")
        self._path = artifact.model_path
        self._minimum, self._maximum = artifact.manifest.minimum_samples, artifact.manifest.maximum_samples

    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]``."""
        check_length(waveform, self._minimum, self._maximum)
        try:
            result: Logits = self.session.run(["logits"], {"input_values": waveform[None]})[0][0]
        except Exception as error:  # onnxruntime's own exception classes share no base below Exception
            raise AsrDeployError(f"{self._path} cannot run {waveform.size} samples: {_first_line(error)}") from error
        if result.ndim != 2 or not result.size:
            raise AsrDeployError(f"{self._path} gives no frame for {waveform.size} samples; its manifest promises one.")
        return result


@engine_for("executorch")
class ExecutorchEngine:
    """A .pte program with XNNPACK on a fixed number of threads.

    XNNPACK's threads are the process's own: the engine that was opened last sets their number for all.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, provider: str = "cpu") -> None:
        if provider != "cpu":
            raise AsrDeployError(f"ExecuTorch's delegate is chosen at the export; a .pte file takes no provider {provider}.")
        try:
            import torch  # lazily: a laptop that only drives phones has no torch
            from executorch.extension.pybindings import _portable_lib as runtime
        except ImportError as error:
            raise AsrDeployError("There is no ExecuTorch here to run a .pte file; on a phone the app has it (--via app).") from error

        self._tensor: Any = torch.from_numpy
        self._path = artifact.model_path
        try:
            with _native_chatter_off():
                runtime._unsafe_reset_threadpool(threads)
                self._module: Any = runtime._load_for_executorch(
                    str(self._path), program_verification=runtime.Verification.InternalConsistency
                )
            meta = self._module.method_meta("forward")
        except Exception as error:  # the binding raises RuntimeError and others
            raise AsrDeployError(f"ExecuTorch cannot load {self._path}: {_first_line(error)}") from error
        if meta.num_inputs() != 1 or meta.num_outputs() != 1:
            raise AsrDeployError(f"{self._path} is not a speech recogniser of ours: it takes one waveform and gives logits.")
        width, labels = meta.output_tensor_meta(0).sizes()[-1], len(artifact.manifest.labels)
        if width != labels:
            raise AsrDeployError(f"{self._path} gives {width} logits a frame, but its manifest has {labels} labels.")
        planned = meta.input_tensor_meta(0).sizes()[-1]
        self._minimum = artifact.manifest.minimum_samples
        self._maximum = min(planned, artifact.manifest.maximum_samples or planned)

    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]``."""
        check_length(waveform, self._minimum, self._maximum)
        try:
            output = self._module.run_method("forward", (self._tensor(np.ascontiguousarray(waveform))[None],))[0]
        except Exception as error:  # the binding raises RuntimeError and others
            raise AsrDeployError(f"{self._path} cannot run {waveform.size} samples: {_first_line(error)}") from error
        # A copy: the next call writes into the same planned memory.
        result: Logits = output[0].numpy().copy()
        return result


@contextlib.contextmanager
def _native_chatter_off() -> Iterator[None]:
    """Keep what native code writes to the standard error's descriptor (notes on the processor) off the screen; exceptions pass."""
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
    return str(error).strip().splitlines()[0]
