"""ExecuTorch export: lower a model to XNNPACK and read back what the .pte file contains."""

import copy
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from exporters.outcome import ExportOutcome
from exporters.recogniser import not_exported
from exporters.rewrites import is_convolution
from exporters.schemes import DONE, NARROW, Scheme
from exporters.suppressed_output import suppressed_output
from exporters.weights import StoredWeight

EXAMPLE_SECONDS = 2
GROUPS = (128, 64, 32)  # XNNPACK's 4-bit kernels require multiples of 32
# XNNPACK's names of storage types.
STORED = {"fp32": "float32", "fp16": "float16", "qcint8": "int8", "qint8": "int8", "qbint4": "int4"}
KINDS = {"stored8": "int8"}  # storage type in the file, where the scheme uses another name
# Scalar types in ExecuTorch's schema, for constants outside the delegate: our name and bytes per element.
SCALARS = {"CHAR": ("int8", 1), "HALF": ("float16", 2), "FLOAT": ("float32", 4)}


class Constant(NamedTuple):
    """A constant in a .pte file. ``uses`` is the number of layers that share it, ``scales`` the key of its scales."""

    key: str
    kind: str
    elements: int
    bytes: int
    uses: int = 1
    scales: str = ""


class Stored8(nn.Module):
    """A linear layer or convolution with an int8 weight and a scale per output channel, computed in float.

    Args:
        layer: Layer to quantise.
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12).reshape(-1, *[1] * (weight.ndim - 1)) / 127
        integers = torch.round(weight / scale).to(torch.int8)
        self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups) if isinstance(layer, nn.Conv1d) else None
        # XNNPACK accepts a weight computed at run time only in batched products, as [in, out].
        self.register_buffer("weight", integers if self.convolution else integers.t().contiguous())
        self.register_buffer("scale", scale if self.convolution else scale.t().contiguous())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        weight = self.weight.to(x.dtype) * self.scale  # type: ignore[operator]
        if self.convolution:
            stride, padding, dilation, groups = self.convolution
            return nn.functional.conv1d(x, weight, self.bias, stride, padding, dilation, groups)
        result = torch.bmm(x[None] if x.ndim == 2 else x, weight[None])
        result = result[0] if x.ndim == 2 else result
        return result if self.bias is None else result + self.bias


class Half(nn.Module):
    """A network in half precision whose waveform and logits stay in float32.

    The first convolution and its normalisation stay in float32, because sums over all samples overflow half precision. Layer norms in
    float32 do not work: ExecuTorch 1.4.1 drops the cast before them and the program does not run. The parity check refuses an export
    that is wrong in half precision.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()  # the network shares its weights with the anchor
        self.starts_in_float = False
        for name, module in list(self.network.named_modules()):
            if name.endswith("feature_extractor.conv_layers"):
                assert isinstance(module, nn.ModuleList)
                module[0] = InFloat(module[0])
                self.starts_in_float = True

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits ``[batch, frames, labels]`` for a waveform ``[batch, samples]``."""
        logits: Tensor = self.network(waveform if self.starts_in_float else waveform.half())
        return logits.float()


class InFloat(nn.Module):
    """A float32 module inside a half-precision network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.float()

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output in half precision."""
        result: Tensor = self.module(x).half()
        return result


def export_executorch(
    network: nn.Module,
    scheme: Scheme,
    *,
    sample_rate: int,
    minimum_samples: int,
    maximum_samples: int,
    path: Path,
    progress: Callable[[str], None],
) -> ExportOutcome:
    """Write a network to one .pte file, lowered to XNNPACK, for inputs of any length within two bounds.

    Args:
        network: Network from a waveform ``[1, samples]`` to logits ``[1, frames, labels]``. It is modified.
        scheme: Quantisation scheme.
        sample_rate: Sample rate in hertz.
        minimum_samples: Length of the shortest input, in samples.
        maximum_samples: Length of the longest input, in samples. The runtime plans memory for it.
        path: File to write.
        progress: Callback that receives the name of each step.

    Returns:
        The quantised layers, planned memory, operators and names of weights.

    Raises:
        AsrDeployError: If PyTorch cannot trace the network, or fewer layers were quantised than the scheme demands.
    """
    with suppressed_output():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from torch.fx.experimental import _config

    patched: Any = _config  # torch adds `patch` to the module at run time
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)}
    expected, shapes = _quantise(network, layers, scheme)
    if scheme.products == "float16":
        network = Half(network)
    length = torch.export.Dim("samples", min=minimum_samples, max=maximum_samples)
    example = torch.zeros(1, min(max(EXAMPLE_SECONDS * sample_rate, minimum_samples), maximum_samples))
    # The projection's view of a transposed tensor would guard `1 % frames`. With this flag, no size is specialised to 0 or 1.
    with suppressed_output(), torch.no_grad(), patched.patch(backed_size_oblivious=True), remembered_numbers():
        progress("tracing for ExecuTorch")
        try:
            program = torch.export.export(network.eval(), (example,), dynamic_shapes=({1: length},), strict=False)
        except Exception as error:  # tracing a custom network can raise anything
            raise not_exported(error, "ExecuTorch") from error
        progress("lowering to XNNPACK")
        # PyTorch's operators that choose 8-bit ranges are not in ExecuTorch's set until the delegate has taken them.
        edge = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
        )
        rows = get_delegation_info(edge.exported_program().graph_module).delegation_by_operator
        progress("writing the .pte file")
        made = edge.to_executorch(ExecutorchBackendConfig())
        with path.open("wb") as file:
            made.write_to_file(file)
    plan = made.executorch_program.execution_plan[0]
    constants = _constants(path)
    _check_claims(constants, shapes, expected, scheme)
    return ExportOutcome(
        quantised=dict(Counter(f"layers {DONE[how]}" for how in expected.values())),
        planned_bytes=sum(plan.non_const_buffer_sizes),
        delegated={_short(name): row.delegated for name, row in rows.items() if row.delegated},
        portable=dict(_portable(plan)),
        weight_names=_named(constants, shapes, expected),
    )


@contextmanager
def remembered_numbers() -> Iterator[None]:
    """Let sympy remember which expressions are numbers.

    PyTorch asks it millions of times about the few expressions of a dynamic length, and sympy walks through the whole expression each time:
    a fifth of the processor time of an export. The file does not change.
    """
    from sympy.core.expr import Expr  # type: ignore[import-untyped]

    plain: Any = Expr.is_number
    known: dict[Any, bool] = {}

    def is_number(expression: Any) -> bool:
        found = known.get(expression)
        if found is None:
            found = known[expression] = plain.fget(expression)
        return found

    Expr.is_number = property(is_number)
    try:
        yield
    finally:
        Expr.is_number = plain


def _quantise(network: nn.Module, layers: Mapping[str, nn.Module], scheme: Scheme) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Quantise layers in place and return the storage type and the weight's shape by layer, in the order of computation."""
    with suppressed_output():
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup

    expected = {name: _storage(name, layer, scheme) for name, layer in layers.items()}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}  # type: ignore[arg-type]
    for name, layer in layers.items():
        how = expected[name]
        if how == "stored8":
            assert isinstance(layer, nn.Linear | nn.Conv1d)
            network.set_submodule(name, Stored8(layer))
        elif how in ("int8", "int4"):
            assert isinstance(layer, nn.Linear)
            granularity: Any = PerAxis(0) if how == "int8" else PerGroup(_group(name, layer, scheme))
            weight_type = getattr(torch, how)  # torch's stubs lack int4
            config = Int8DynamicActivationIntxWeightConfig(weight_dtype=weight_type, weight_granularity=granularity)
            quantize_(layer, config)
    return expected, shapes


def _storage(name: str, layer: nn.Module, scheme: Scheme) -> str:
    convolution = isinstance(layer, nn.Conv1d) or is_convolution(name)
    if isinstance(layer, nn.Conv1d):
        takes_waveform = layer.in_channels == 1
    else:
        takes_waveform = isinstance(layer, nn.Linear) and layer.in_features <= NARROW
    how = scheme.stores(name, convolution=convolution, first=convolution and takes_waveform)
    if how == "float16" and convolution and takes_waveform:
        return "float32"  # see Half
    if how in ("int8", "int4") and not isinstance(layer, nn.Linear):
        raise AsrDeployError(
            f"{scheme.name} cannot quantise {name}: ExecuTorch computes only linear layers in 8 bits, and this is a convolution. "
            "Choose another scheme with --quant."
        )
    return how


def _group(name: str, layer: nn.Linear, scheme: Scheme) -> int:
    fitting = [group for group in GROUPS if group <= (scheme.group or GROUPS[0]) and layer.in_features % group == 0]
    if not fitting:
        raise AsrDeployError(
            f"{scheme.name} cannot quantise {name}: its {layer.in_features} inputs are not a multiple of 32, the smallest group. "
            "Choose another scheme with --quant."
        )
    return fitting[0]


def _check_claims(
    constants: Iterable[Constant], shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, str], scheme: Scheme
) -> None:
    """Refuse a file that lacks weights of the sizes and types that the scheme demands."""
    wanted = Counter((int(np.prod(shapes[name])), KINDS.get(how, how)) for name, how in expected.items() if how != "float32")
    found: Counter[tuple[int, str]] = Counter()
    for each in constants:
        found[each.elements, each.kind] += each.uses
    missing = wanted - found
    if missing:
        total, (size, kind) = wanted.total(), next(iter(missing))
        raise AsrDeployError(
            f"{scheme.name} quantised {total - missing.total()} of {total} layers: "
            f"a layer with {size} weights is not stored as {kind}. Choose another scheme with --quant."
        )


def stored_in(path: Path, names: Mapping[str, str]) -> tuple[StoredWeight, ...]:
    """List the constants of a .pte file as stored.

    Args:
        path: The .pte file.
        names: Names of the weights by the keys of their constants.
    """
    return tuple(StoredWeight(names.get(each.key, f"other.{each.key}"), each.kind, each.elements, each.bytes) for each in _constants(path))


def _named(constants: Iterable[Constant], shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, str]) -> dict[str, str]:
    """Match constants to layers: within each size and type both are in the order of computation. The first layer names a shared one."""
    waiting: dict[tuple[int, str], list[str]] = {}
    for name, shape in shapes.items():
        waiting.setdefault((int(np.prod(shape)), KINDS.get(expected[name], expected[name])), []).append(name)
    names: dict[str, str] = {}
    for each in constants:
        candidates = waiting.get((each.elements, each.kind))
        if candidates:
            names[each.key] = f"{candidates[0]}.weight"
            del candidates[: each.uses]
            names |= {each.scales: names[each.key]} if each.scales else {}
    return names


def _constants(path: Path) -> list[Constant]:
    """Return all constants of a .pte file in the order of computation, those of the delegates first."""
    with suppressed_output():
        from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # a damaged file can raise anything in the reader
        raise AsrDeployError(f"{path} cannot be read as an ExecuTorch program: it is truncated or damaged. Export it again.") from error
    program, sizes = file.program, {}
    found: dict[str, Constant] = {}
    if file.named_data is not None:
        sizes = {key: len(file.named_data.buffers[entry.buffer_index]) for key, entry in file.named_data.pte_data.items()}
    plan = program.execution_plan[0]
    for delegate in plan.delegates:
        graph = _xnnpack_graph(program.backend_delegate_data[delegate.processed.index].data)
        keys = [each["named_key"] for each in graph["constant_data"]]
        for value in graph["xvalues"]:
            plain = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
            key = keys[plain["constant_buffer_idx"]] if plain["constant_buffer_idx"] else ""
            if key in found:
                found[key] = found[key]._replace(uses=found[key].uses + 1)
            elif key:
                kind = STORED.get(plain["datatype"].removeprefix("xnn_datatype_"), "other")
                scales = (value["xvalue_union"].get("quant_params") or {}).get("scale_buffer_idx", 0)
                scales_key = keys[scales] if 0 < scales < len(keys) else ""
                found[key] = Constant(key, kind, int(np.prod(plain["dims"])), sizes[key], scales=scales_key)
    rest = [Constant(key, "scales", size // 4, size) for key, size in sizes.items() if key not in found]
    for index, value in enumerate(plan.values):
        tensor = value.val
        buffer = getattr(tensor, "data_buffer_idx", 0)
        if buffer and getattr(tensor, "allocation_info", None) is None and program.constant_buffer[buffer].storage:
            kind, width = SCALARS.get(tensor.scalar_type.name, ("other", 1))
            size = len(program.constant_buffer[buffer].storage)
            elements = int(np.prod(tensor.sizes))
            rest.append(Constant(f"constant_{index}", kind if elements * width <= size else "other", elements, size))
    return [*found.values(), *rest]


def _xnnpack_graph(payload: bytes) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize import _flatbuffer

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory(prefix="asrdeploy-pte-") as folder:
        schema, binary = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatbuffer._flatc_decompile(folder, str(schema), str(binary))
        # flatc writes the open bound of a clamp, such as ReLU's, as `inf`, which is not JSON.
        text = re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", (Path(folder) / "graph.json").read_text())
        graph: dict[str, Any] = json.loads(text)
    return graph


def _portable(plan: Any) -> Counter[str]:
    """Count a program's calls of kernels outside the delegate."""
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
