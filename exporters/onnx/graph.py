"""Export a module to plain float32 ONNX.

Tracing takes most of the time and does not depend on the weights, so a process traces each architecture once.
"""

import hashlib
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch import nn

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, not_exported
from exporters.suppressed_output import suppressed_output

OPSET = 20  # supported by onnxruntime 1.18 and newer, also on phones and the JVM
INPUT, OUTPUT = "input_values", "logits"  # names that other programs expect of such models
EXAMPLE_SECONDS = 2
KEPT = 4  # traced architectures kept in memory

_graphs: dict[str, bytes] = {}
_OF_EVERY_MODULE = vars(nn.Module()).keys()


def export_plain_onnx(recogniser: Recogniser, sample_rate: int, path: Path) -> None:
    """Write a module in float32 for inputs of any length, without our metadata.

    The graph is the one that ``torch.onnx.export`` writes. The file is byte-identical whether or not the architecture was traced before.

    Args:
        recogniser: Model in evaluation mode.
        sample_rate: Sample rate of the waveform in hertz.
        path: File to write.

    Raises:
        AsrDeployError: If PyTorch cannot export the network.
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
        program.optimize()  # folds constants including weights, so the weights must be present
        program.save(str(path))


def architecture(recogniser: nn.Module, sample_rate: int) -> str | None:
    """Return a digest of everything that determines a module's graph except the values of its weights.

    Args:
        recogniser: The module.
        sample_rate: Sample rate of the waveform in hertz.

    Returns:
        A digest of classes, attributes, and names, shapes and types of weights. None if an attribute has an unknown type.
    """
    digest = hashlib.sha256(f"{torch.__version__} {sample_rate} {OPSET}".encode())
    state = recogniser.state_dict()
    try:
        for name, module in recogniser.named_modules():
            plain = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
            facts = _fact({"training": module.training} | plain)
            digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {facts}\n".encode())
        for name, tensor in recogniser.named_buffers():
            if name not in state:  # becomes a constant of the graph, not a weight
                digest.update(f"{name} {_fact(tensor)}\n".encode())
    except TypeError:
        return None
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return digest.hexdigest()


def _fact(value: object) -> object:
    """Return a complete printable form of an attribute's value. Raise TypeError for unknown types."""
    if value is None or isinstance(value, bool | int | float | str | type | torch.dtype):
        return value
    if isinstance(value, list | tuple | torch.Size):
        return [_fact(each) for each in value]
    if isinstance(value, dict):
        return [(key, _fact(each)) for key, each in sorted(value.items())]
    if isinstance(value, torch.Tensor):
        # A tensor that is not a weight becomes a constant of the graph.
        return (str(value.dtype), tuple(value.shape), value.detach().double().numpy().tobytes())
    raise TypeError(type(value).__name__)


def _trace(recogniser: Recogniser, sample_rate: int) -> bytes:
    """Return the graph without weights, before constants are folded."""
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
    except Exception as error:  # tracing a custom network can raise anything
        raise not_exported(error, "ONNX") from error
    if program is None:
        raise AsrDeployError("torch.onnx.export returned no program for this model.")
    model = program.model_proto
    weights = recogniser.state_dict().keys()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    return bytes(model.SerializeToString())
