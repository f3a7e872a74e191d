"""What an artifact really holds, read from its file: weights by kind and module, operators, and what it asks of a runtime."""

from dataclasses import dataclass
from typing import Any

import onnx

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from exporters import weights as accounting
from exporters.onnx.exporter import operators, stored_weights
from exporters.schemes import EXECUTORCH, ONNX
from exporters.weights import BITS, StoredWeight

# First onnxruntime that reads an IR version (onnxruntime's docs/Versioning.md).
RUNTIME_OF_IR = {8: "1.14", 9: "1.15", 10: "1.18", 11: "1.22"}


@dataclass(frozen=True)
class Operator:
    """One kind of operator in a model: how often, and where it runs."""

    name: str
    number: int
    runs_in: str


@dataclass(frozen=True)
class Inspection:
    """What was found in an artifact.

    Args:
        artifact: that was read.
        weights: its constants as stored.
        operators: its operators.
        runtime: the runtime that it needs.
        lacking: operators that reduced mobile builds do not have; empty: none.
    """

    artifact: Artifact
    weights: tuple[StoredWeight, ...]
    operators: tuple[Operator, ...]
    runtime: str
    lacking: str

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of weights by type, largest first, and what is no weight."""
        kinds = accounting.bytes_by_kind(self.weights)
        return kinds | {"graph and format": self.artifact.size_bytes - sum(kinds.values())}

    @property
    def elements_by_bits(self) -> dict[int, int]:
        """How many weights are stored in how many bits."""
        return accounting.elements_by_bits(self.weights)

    @property
    def overhead(self) -> float:
        """Share of the file that is not weights."""
        stored = sum(weight.bytes for weight in self.weights if weight.kind in BITS)
        return 1 - stored / self.artifact.size_bytes

    @property
    def nominal_bits(self) -> int:
        """The scenario's numParam x 8 x N (N bytes a parameter), N as stored, for its cases a and b."""
        return sum(bits * number for bits, number in self.elements_by_bits.items())

    def bytes_by_module(self, depth: int) -> dict[str, int]:
        """Bytes by module path of ``depth`` parts, largest first."""
        return accounting.bytes_by_module(self.weights, depth)

    def figures(self, depth: int) -> dict[str, Any]:
        """Return all of it as plain values, for files; see ``bytes_by_module`` for ``depth``."""
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
        AsrDeployError: a format that is not known here, or a file that cannot be read.
    """
    readers = {ONNX: _onnx, EXECUTORCH: _executorch}
    reader = readers.get(artifact.manifest.format)
    if reader is None:
        raise AsrDeployError(f"No reader for the format “{artifact.manifest.format}”; known: {', '.join(readers)}.")
    return reader(artifact)


def _onnx(artifact: Artifact) -> Inspection:
    try:
        model = onnx.load(artifact.model_path)
    except Exception as error:  # protobuf's own errors, which onnx does not wrap
        raise AsrDeployError(f"{artifact.model_path} cannot be read as ONNX: it is cut, or something else.") from error
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
    # Program control (prim, sym_size) is in every runtime; the kernels have to be linked in.
    lacking = ", ".join(name for name in manifest.portable if "prim" not in name and name != "sym_size")
    weights = stored_in(artifact.model_path, manifest.weight_names)
    runtime = f"ExecuTorch {version} or newer with the XNNPACK backend"
    return Inspection(artifact, weights, tuple(rows), runtime, f"portable kernels to link in: {lacking}" if lacking else "")
