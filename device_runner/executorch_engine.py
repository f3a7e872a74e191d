"""ExecuTorch in this process, behind the engines' protocol."""

from typing import Any

import numpy as np

from device_runner.artifact import Artifact
from device_runner.engines import Logits, Waveform, check_length, engine_for
from device_runner.errors import AsrDeployError


@engine_for("executorch")
class ExecutorchEngine:
    """A .pte program with XNNPACK on a fixed number of threads.

    XNNPACK's threads are the process's own: the engine that was opened last sets their number for all.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        import torch  # lazily: a laptop that only drives phones has no torch
        from executorch.extension.pybindings import _portable_lib as runtime

        self._tensor = torch.from_numpy
        self._path = artifact.model_path
        runtime._unsafe_reset_threadpool(threads)
        try:
            self._module: Any = runtime._load_for_executorch(str(self._path), program_verification=runtime.Verification.InternalConsistency)
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
