"""Inspect an artifact's model file: weights by type and module, operators, and the runtime that it requires."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from device_runner.artifact import Artifact, open_artifact
from device_runner.errors import AsrDeployError
from exporters import weights as accounting
from exporters.onnx.exporter import operators, stored_weights
from exporters.schemes import EXECUTORCH, ONNX
from exporters.weights import BITS, StoredWeight

# First onnxruntime that reads an IR version (onnxruntime's docs/Versioning.md).
RUNTIME_OF_IR = {8: "1.14", 9: "1.15", 10: "1.18", 11: "1.22"}


@dataclass(frozen=True)
class Operator:
    """An operator type in a model: its name, how often it occurs and where it runs."""

    name: str
    number: int
    runs_in: str


@dataclass(frozen=True)
class Inspection:
    """Contents of an artifact.

    Args:
        artifact: The artifact.
        weights: Constants as stored.
        operators: Operators of the graph.
        runtime: Runtime that the artifact requires.
        lacking: Operators that reduced mobile builds lack, or an empty string.
    """

    artifact: Artifact
    weights: tuple[StoredWeight, ...]
    operators: tuple[Operator, ...]
    runtime: str
    lacking: str

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of weights by type, largest first, then the bytes of the rest of the file."""
        kinds = accounting.bytes_by_kind(self.weights)
        return kinds | {"graph and format": self.artifact.size_bytes - sum(kinds.values())}

    @property
    def elements_by_bits(self) -> dict[int, int]:
        """Number of weights by bits per weight."""
        return accounting.elements_by_bits(self.weights)

    @property
    def overhead(self) -> float:
        """Fraction of the file that is not weights, from 0 to 1."""
        stored = sum(weight.bytes for weight in self.weights if weight.kind in BITS)
        return 1 - stored / self.artifact.size_bytes

    @property
    def nominal_bits(self) -> int:
        """The scenario's numParam x 8 x N (N: bytes per parameter as stored), for its cases a and b."""
        return sum(bits * number for bits, number in self.elements_by_bits.items())

    def bytes_by_module(self, depth: int) -> dict[str, int]:
        """Return bytes by the first ``depth`` parts of the module path, largest first."""
        return accounting.bytes_by_module(self.weights, depth)

    def figures(self, depth: int) -> dict[str, Any]:
        """Return all figures as plain values for a file. See ``bytes_by_module`` for ``depth``."""
        return {
            "manifest": self.artifact.manifest,
            "bytes": self.artifact.size_bytes,
            "bytes_by_kind": self.bytes_by_kind,
            "bytes_by_module": self.bytes_by_module(depth),
            "weights_by_bits": self.elements_by_bits,
            "nominal_bits": self.nominal_bits,
            "operators": self.operators,
            "runtime": self.runtime,
            "lacking": self.lacking or None,
        }


def inspect(artifact: Artifact) -> Inspection:
    """Read an artifact's model file.

    Raises:
        AsrDeployError: If the format is not supported or the file cannot be read.
    """
    readers = {ONNX: _onnx, EXECUTORCH: _executorch}
    reader = readers.get(artifact.manifest.format)
    if reader is None:
        raise AsrDeployError(
            f"{artifact.folder} has the format “{artifact.manifest.format}”, which cannot be inspected. Supported: {', '.join(readers)}."
        )
    return reader(artifact)


def inspect_artifact(folder: str | Path) -> Inspection:
    """Inspect the artifact in a folder: stored weights by type and module, operators, and the runtime that it requires.

    Example:
        >>> inspection = asrdeploy.inspect_artifact("artifacts/tiny")  # doctest: +SKIP
        >>> inspection.bytes_by_kind  # doctest: +SKIP

    Args:
        folder: Folder of the artifact.

    Returns:
        The contents of the artifact.

    Raises:
        AsrDeployError: If the folder is not an artifact, the artifact is damaged, or its format is not supported.
    """
    return inspect(open_artifact(Path(folder)))


def _onnx(artifact: Artifact) -> Inspection:
    try:
        model = onnx.load(artifact.model_path)
    except Exception as error:  # onnx does not wrap the errors of protobuf
        raise AsrDeployError(f"{artifact.model_path} cannot be read as ONNX: it is truncated or damaged. Export it again.") from error
    counted = operators(model)
    found = tuple(Operator(name, number, "onnxruntime") for name, number in counted.items())
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    runtime = f"onnxruntime {RUNTIME_OF_IR.get(model.ir_version, 'of today')} or newer (opset {opset}, IR {model.ir_version})"
    contributed = [name for name in counted if "." in name]
    return Inspection(artifact, tuple(stored_weights(model)), found, runtime, ", ".join(contributed))


def _executorch(artifact: Artifact) -> Inspection:
    from exporters.executorch.exporter import stored_in

    manifest = artifact.manifest
    rows = [Operator(name, number, "portable kernels") for name, number in manifest.portable.items()]
    rows += [Operator(name, number, "XNNPACK") for name, number in manifest.delegated.items()]
    version = manifest.versions.get("executorch", "?")
    # Every runtime has program control (prim, sym_size). Kernels must be linked in.
    lacking = ", ".join(name for name in manifest.portable if "prim" not in name and name != "sym_size")
    weights = stored_in(artifact.model_path, manifest.weight_names)
    runtime = f"ExecuTorch {version} or newer with the XNNPACK backend"
    return Inspection(artifact, weights, tuple(rows), runtime, f"portable kernels to link in: {lacking}" if lacking else "")
