"""A module as torch exports it to ONNX. Tracing takes most of an export and knows no weights: a process traces an architecture once."""

import hashlib
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch import nn

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, not_exported
from exporters.suppressed_output import suppressed_output

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
        AsrDeployError: torch cannot export the network, or gives no program.
    """
    key = architecture(recogniser, sample_rate)
    graph = _graphs.get(key) if key else None
    if graph is None:
        graph = _trace(recogniser, sample_rate)
        if key:
            while len(_graphs) >= KEPT:
                del _graphs[next(iter(_graphs))]
            _graphs[key] = graph
    model = onnx_ir.from_proto(onnx.ModelProto.FromString(graph))
    state = recogniser.state_dict()
    for name, value in model.graph.initializers.items():
        if name in state:
            value.const_value = onnx_ir.tensor(state[name].contiguous().numpy(), name=name)
    with suppressed_output():
        program = torch.onnx.ONNXProgram(model, None)
        program.optimize()  # folds constants, weights among them: after they are in
        program.save(str(path))


def architecture(recogniser: nn.Module, sample_rate: int) -> str | None:
    """Return what decides a module's graph, its weights apart: classes, attributes, and names, shapes and types of the weights.

    None: an attribute is of a kind that is not understood, so that nothing can be said.
    """
    digest = hashlib.sha256(f"{torch.__version__} {sample_rate} {OPSET}".encode())
    state = recogniser.state_dict()
    try:
        for name, module in recogniser.named_modules():
            plain = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
            facts = _fact({"training": module.training} | plain)
            digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {facts}\n".encode())
        for name, tensor in recogniser.named_buffers():
            if name not in state:  # no weight that is put in: a constant of the graph
                digest.update(f"{name} {_fact(tensor)}\n".encode())
    except TypeError:
        return None
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return digest.hexdigest()


def _fact(value: object) -> object:
    """Return what tells an attribute's value, whole; TypeError where that is not known."""
    if value is None or isinstance(value, bool | int | float | str | type | torch.dtype):
        return value
    if isinstance(value, list | tuple | torch.Size):
        return [_fact(each) for each in value]
    if isinstance(value, dict):
        return [(key, _fact(each)) for key, each in sorted(value.items())]
    if isinstance(value, torch.Tensor):
        # A tensor that is no weight becomes a constant of the graph.
        return (str(value.dtype), tuple(value.shape), value.detach().double().numpy().tobytes())
    raise TypeError(type(value).__name__)


def _trace(recogniser: Recogniser, sample_rate: int) -> bytes:
    """Return the graph before any constant is folded, its weights left out."""
    try:
        with suppressed_output():
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
    except Exception as error:  # whatever torch stumbles over in a network of somebody's own
        raise not_exported(error, "ONNX") from error
    if program is None:
        raise AsrDeployError("torch.onnx.export gave no program.")
    model = program.model_proto
    weights = recogniser.state_dict().keys()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    return bytes(model.SerializeToString())
