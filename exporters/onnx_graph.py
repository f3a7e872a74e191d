"""A module as torch exports it to ONNX. Tracing takes most of an export and knows no weights: a process traces an architecture once."""

import hashlib
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch import nn

from device_runner.errors import AsrDeployError
from exporters.quiet import quiet
from exporters.recogniser import Recogniser

OPSET = 20  # read by onnxruntime from 1.18 on, on phones and on the JVM too
INPUT, OUTPUT = "input_values", "logits"  # the names that other clients of such models expect
EXAMPLE_SECONDS = 2
KEPT = 4  # architectures

_graphs: dict[str, bytes] = {}
_OF_EVERY_MODULE = vars(nn.Module()).keys()


def export_plain_onnx(recogniser: Recogniser, sample_rate: int, path: Path) -> None:
    """Write a module in float32 and dynamic length, without our metadata.

    The graph is the one that ``torch.onnx.export`` would write; its bytes are the same whether the architecture was traced before or not.

    Raises:
        AsrDeployError: torch gives no program.
    """
    key = architecture(recogniser, sample_rate)
    if key not in _graphs:
        while len(_graphs) >= KEPT:
            del _graphs[next(iter(_graphs))]
        _graphs[key] = _trace(recogniser, sample_rate)
    model = onnx_ir.from_proto(onnx.ModelProto.FromString(_graphs[key]))
    state = recogniser.state_dict()
    for name, value in model.graph.initializers.items():
        if name in state:
            value.const_value = onnx_ir.tensor(state[name].contiguous().numpy(), name=name)
    with quiet():
        program = torch.onnx.ONNXProgram(model, None)
        program.optimize()  # folds constants, weights among them: after they are in
        program.save(str(path))


def architecture(recogniser: nn.Module, sample_rate: int) -> str:
    """Return what decides a module's graph, weights apart: classes, plain attributes, and names, shapes and types of the weights."""
    digest = hashlib.sha256(f"{torch.__version__} {sample_rate} {OPSET}".encode())
    for name, module in recogniser.named_modules():
        plain = {key: _fact(value) for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
        digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {sorted(plain.items())}\n".encode())
    for name, tensor in recogniser.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return digest.hexdigest()


def _fact(value: object) -> object:
    """Return what tells an attribute's value; a tensor that is no weight becomes a constant of the graph, so all of it counts."""
    return (value.dtype, tuple(value.shape), value.detach().numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def _trace(recogniser: Recogniser, sample_rate: int) -> bytes:
    """Return the graph before any constant is folded, its weights left out."""
    with quiet():
        program = torch.onnx.export(
            recogniser,
            (torch.zeros(1, sample_rate * EXAMPLE_SECONDS),),
            dynamo=True,
            dynamic_shapes={"waveform": {1: torch.export.Dim("samples", min=2 * sample_rate // 10)}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            optimize=False,
        )
    if program is None:
        raise AsrDeployError("torch.onnx.export gave no program.")
    model = program.model_proto
    weights = recogniser.state_dict().keys()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    return bytes(model.SerializeToString())
