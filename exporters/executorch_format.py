"""ExecuTorch: XNNPACK lowering of a recogniser in one pass, and what is in the file that comes out."""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from exporters.onnx_format import quiet
from exporters.schemes import Scheme
from exporters.weights import StoredWeight

EXAMPLE_SECONDS = 2
NARROW = 64  # inputs of an output channel: so few has only the first convolution, on the waveform
GROUPS = (128, 64, 32)  # what XNNPACK's 4-bit kernels take: multiples of 32
# Weights by XNNPACK's name for how they are stored, with their bits.
STORED = {"fp32": ("float32", 32), "fp16": ("float16", 16), "qcint8": ("int8", 8), "qint8": ("int8", 8), "qbint4": ("int4", 4)}
KINDS = {"stored8": "int8"}  # how a file stores what a scheme calls otherwise
# Torch's scalar types in ExecuTorch's schema: constants outside the delegate.
SCALARS = {"CHAR": ("int8", 1), "HALF": ("float16", 2), "FLOAT": ("float32", 4)}


@dataclass(frozen=True)
class ExecutorchReport:
    """What an export made.

    Args:
        quantised: weights by what was done to them.
        planned_bytes: memory that ExecuTorch plans for activations of the longest input; XNNPACK's own workspace comes on top.
        delegated: operators in XNNPACK, by number.
        portable: operators left to portable kernels, by number.
        weight_names: the file's keys of constants to the names of the module's weights.
    """

    quantised: dict[str, int]
    planned_bytes: int
    delegated: dict[str, int]
    portable: dict[str, int]
    weight_names: dict[str, str]


class Stored8(nn.Module):
    """A linear layer or convolution with an int8 weight and a scale per output channel, computed in float.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv1d``.
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12).reshape(-1, *[1] * (weight.ndim - 1)) / 127
        integers = torch.round(weight / scale).to(torch.int8)
        self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups) if isinstance(layer, nn.Conv1d) else None
        # XNNPACK takes a weight that is computed in batched products only, as [in, out].
        self.register_buffer("weight", integers if self.convolution else integers.t().contiguous())
        self.register_buffer("scale", scale if self.convolution else scale.t().contiguous())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer does."""
        weight = self.weight.to(x.dtype) * self.scale  # type: ignore[operator]
        if self.convolution:
            stride, padding, dilation, groups = self.convolution
            return nn.functional.conv1d(x, weight, self.bias, stride, padding, dilation, groups)
        result = torch.bmm(x[None] if x.ndim == 2 else x, weight[None])
        result = result[0] if x.ndim == 2 else result
        return result if self.bias is None else result + self.bias


class Half(nn.Module):
    """A network in half precision between a waveform and logits in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()  # the anchor's own weights are shared with the network

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits ``[batch, frames, labels]`` of a waveform ``[batch, samples]``."""
        logits: Tensor = self.network(waveform.half())
        return logits.float()


def export_executorch(
    network: nn.Module,
    scheme: Scheme,
    *,
    sample_rate: int,
    minimum_samples: int,
    maximum_samples: int,
    path: Path,
    progress: Callable[[str], None],
    is_convolution: Callable[[str], bool],
) -> ExecutorchReport:
    """Write a network as one .pte file, lowered to XNNPACK, of dynamic length between two bounds.

    Args:
        network: waveform ``[1, samples]`` to logits ``[1, frames, labels]``; it is changed.
        scheme: the quantisation.
        sample_rate: in hertz.
        minimum_samples: the shortest input.
        maximum_samples: the longest input; memory for it is planned.
        path: the file to write.
        progress: told the name of each step.
        is_convolution: tells by its name whether a module is a convolution, as a linear layer too.

    Raises:
        AsrDeployError: the scheme quantised less than it claims.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from torch.fx.experimental import _config

    patched: Any = _config  # torch hangs `patch` on the module at run time
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)}
    expected, shapes = _quantise(network, layers, scheme, is_convolution)
    if scheme.products == "float16":
        network = Half(network)
    length = torch.export.Dim("samples", min=minimum_samples, max=maximum_samples)
    example = torch.zeros(1, min(max(EXAMPLE_SECONDS * sample_rate, minimum_samples), maximum_samples))
    # The projection's view of a transposed tensor would guard `1 % frames`; under this flag no size is taken for 0 or 1.
    with quiet(), torch.no_grad(), patched.patch(backed_size_oblivious=True):
        progress("tracing for executorch")
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=({1: length},), strict=False)
        progress("lowering to XNNPACK")
        # Torch's own operators for choosing 8-bit ranges are outside ExecuTorch's set until the delegate has taken them.
        edge = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
        )
        rows = get_delegation_info(edge.exported_program().graph_module).delegation_by_operator
        progress("writing the .pte file")
        made = edge.to_executorch(ExecutorchBackendConfig())
        with path.open("wb") as file:
            made.write_to_file(file)
    plan = made.executorch_program.execution_plan[0]
    names = _named(path, shapes, expected)
    done = _count(stored_in(path, names), expected, scheme)
    return ExecutorchReport(
        quantised=done,
        planned_bytes=sum(plan.non_const_buffer_sizes),
        delegated={_short(name): row.delegated for name, row in rows.items() if row.delegated},
        portable=dict(_portable(plan)),
        weight_names=names,
    )


def _quantise(
    network: nn.Module, layers: Mapping[str, nn.Module], scheme: Scheme, is_convolution: Callable[[str], bool]
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Quantise layers in place; return how each is to be stored, and the shapes of the weights, in the order of computation."""
    with quiet():
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup

    expected = {name: _storage(name, layer, scheme, is_convolution) for name, layer in layers.items()}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}  # type: ignore[arg-type]
    for name, layer in layers.items():
        how = expected[name]
        if how == "stored8":
            assert isinstance(layer, nn.Linear | nn.Conv1d)
            network.set_submodule(name, Stored8(layer))
        elif how in ("int8", "int4"):
            assert isinstance(layer, nn.Linear)
            granularity: Any = PerAxis(0) if how == "int8" else PerGroup(_group(layer, scheme))
            weight_type = getattr(torch, how)  # torch's stubs lack int4
            config = Int8DynamicActivationIntxWeightConfig(weight_dtype=weight_type, weight_granularity=granularity)
            quantize_(layer, config)
    return expected, shapes


def _storage(name: str, layer: nn.Module, scheme: Scheme, is_convolution: Callable[[str], bool]) -> str:
    if scheme.keeps(name):
        return "float32"
    convolution = isinstance(layer, nn.Conv1d) or is_convolution(name)
    wanted = scheme.convolutions if convolution else scheme.products
    # The waveform itself would drown in 8 bits, and kernels for quantised convolutions ask for more than they give.
    if wanted in ("int8", "int4") and (not isinstance(layer, nn.Linear) or layer.in_features <= NARROW):
        return "stored8" if scheme.stores_small else "float32"
    if wanted == "int4" and isinstance(layer, nn.Linear) and not any(layer.in_features % group == 0 for group in GROUPS):
        return "int8"
    return wanted


def _group(layer: nn.Linear, scheme: Scheme) -> int:
    return next(group for group in GROUPS if group <= (scheme.group or GROUPS[0]) and layer.in_features % group == 0)


def _count(stored: Iterable[StoredWeight], expected: Mapping[str, str], scheme: Scheme) -> dict[str, int]:
    found = {weight.name: weight.kind for weight in stored if weight.kind != "scales"}
    wrong = [name for name, how in expected.items() if how != "float32" and found.get(f"{name}.weight") != KINDS.get(how, how)]
    if wrong:
        right = sum(how != "float32" for how in expected.values()) - len(wrong)
        raise AsrDeployError(f"{scheme.name} stored {right} of {right + len(wrong)} layers as it claims ({wrong[0]} is not).")
    words = {"float32": "in float", "float16": "in half precision", "stored8": "stored in int8", "int8": "in int8", "int4": "in int4"}
    return dict(Counter(f"layers {words[how]}" for how in expected.values()))


def stored_in(path: Path, names: Mapping[str, str]) -> tuple[StoredWeight, ...]:
    """List the constants of a .pte file as they are stored, by the names that ``names`` gives to their keys."""
    weights = []
    for key, kind, elements, size, _ in _constants(path):
        weights.append(StoredWeight(names.get(key, f"other.{key}"), kind, elements, size))
    return tuple(weights)


def _named(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, str]) -> dict[str, str]:
    """Give the file's constants the names of the layers: both lists are in the order of computation, for each size and kind."""
    waiting: dict[tuple[int, str], list[str]] = {}
    for name, shape in shapes.items():
        waiting.setdefault((int(np.prod(shape)), KINDS.get(expected[name], expected[name])), []).append(name)
    names: dict[str, str] = {}
    for key, kind, elements, _, scales in _constants(path):
        if waiting.get((elements, kind)):
            names[key] = waiting[elements, kind].pop(0) + ".weight"
            names |= {scales: names[key]} if scales else {}
    return names


def _constants(path: Path) -> list[tuple[str, str, int, int, str]]:
    """Return (key, kind, elements, bytes, key of its scales) of every constant: the delegates' first, each in the order of computation."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # the reader trips over whatever a damaged file holds
        raise AsrDeployError(f"{path} cannot be read as an ExecuTorch program: it is cut, or something else.") from error
    program, found, seen = file.program, [], set()
    sizes = {}
    if file.named_data is not None:
        sizes = {key: len(file.named_data.buffers[entry.buffer_index]) for key, entry in file.named_data.pte_data.items()}
    plan = program.execution_plan[0]
    for delegate in plan.delegates:
        graph = _xnnpack_graph(program.backend_delegate_data[delegate.processed.index].data)
        keys = [each["named_key"] for each in graph["constant_data"]]
        for value in graph["xvalues"]:
            plain = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
            key = keys[plain["constant_buffer_idx"]] if plain["constant_buffer_idx"] else ""
            if not key or key in seen:
                continue
            seen.add(key)
            kind, _ = STORED.get(plain["datatype"].removeprefix("xnn_datatype_"), ("other", 0))
            # Group scales are in bfloat16, channel scales in float32: both name the buffer that holds them.
            scales = (value["xvalue_union"].get("quant_params") or {}).get("scale_buffer_idx", 0)
            found.append((key, kind, int(np.prod(plain["dims"])), sizes[key], keys[scales] if 0 < scales < len(keys) else ""))
    found += [(key, "scales", size // 4, size, "") for key, size in sizes.items() if key not in seen]
    for index, value in enumerate(plan.values):
        tensor = value.val
        buffer = getattr(tensor, "data_buffer_idx", 0)
        if buffer and getattr(tensor, "allocation_info", None) is None and program.constant_buffer[buffer].storage:
            kind, width = SCALARS.get(tensor.scalar_type.name, ("other", 1))
            size = len(program.constant_buffer[buffer].storage)
            elements = int(np.prod(tensor.sizes))
            found.append((f"constant_{index}", kind if elements * width <= size else "other", elements, size, ""))
    return found


def _xnnpack_graph(payload: bytes) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize import _flatbuffer

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory(prefix="asrdeploy-pte-") as folder:
        schema, binary = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatbuffer._flatc_decompile(folder, str(schema), str(binary))
        graph: dict[str, Any] = json.loads((Path(folder) / "graph.json").read_text())
    return graph


def _portable(plan: Any) -> Counter[str]:
    """Count the calls of kernels outside the delegate in a program."""
    calls: Counter[str] = Counter()
    for chain in plan.chains:
        for instruction in chain.instructions:
            index = getattr(instruction.instr_args, "op_index", None)
            if index is not None:
                calls[_short(f"{plan.operators[index].name}")] += 1
    return calls


def _short(name: str) -> str:
    name = name.removeprefix("aten::").removeprefix("aten_").removeprefix("torchao_").removeprefix("dim_order_ops::")
    return name.removesuffix("_default").removesuffix("_tensor").removesuffix("_int")
