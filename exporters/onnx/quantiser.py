"""Quantise ONNX graphs: dynamic int8, 4-bit groups, and weights stored in few bits but computed in float.

Only calibrated int8 (`int8-static`) uses onnxruntime's quantiser. Its dynamic int8 quantises every slice of a window separately; this one
quantises the common input once and slices the 8-bit values.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_runner.errors import AsrDeployError
from exporters.schemes import DONE, NARROW, Scheme

MOVES = ("Slice", "Reshape", "Concat", "Transpose", "Unsqueeze", "Squeeze")  # operators that move values without changing them
CONTRIBUTED = "com.microsoft"
GROUPS = (16, 32, 64, 128, 256)  # group sizes that MatMulNBits supports
SEARCH = np.linspace(0.7, 1.0, 13, dtype=np.float32)  # candidate ranges of a 4-bit scale, relative to the largest weight
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """A constant weight in a graph and the node that uses it.

    Args:
        name: Name of the initialiser.
        node: Node that uses the weight.
        product: Whether the weight is the second factor of a matrix product.
        convolution: Whether the weight belongs to a convolution.
        first: Whether that convolution reads the waveform.
    """

    name: str
    node: onnx.NodeProto
    product: bool
    convolution: bool
    first: bool


def weights_of(graph: onnx.GraphProto, is_convolution: Callable[[str], bool]) -> list[Weight]:
    """List the weights of matrix products and convolutions in the order of computation.

    Args:
        graph: A float32 graph.
        is_convolution: Predicate on a weight's name: whether it belongs to a convolution.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found: dict[str, Weight] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in shapes or len(shapes[name]) < 2 or (min(shapes[name]) < 2 and node.op_type != "Conv"):
                continue
            product = node.op_type == "MatMul" and place == 1 and name not in found
            convolution = node.op_type == "Conv" or is_convolution(name)
            takes_waveform = shapes[name][1] == 1 if node.op_type == "Conv" else shapes[name][-2] <= NARROW
            found[name] = Weight(name, node, product, convolution, first=convolution and takes_waveform)
    return list(found.values())


def quantise(model: onnx.ModelProto, scheme: Scheme, is_convolution: Callable[[str], bool]) -> dict[str, int]:
    """Quantise a graph in place.

    Args:
        model: A float32 model whose constants are initialisers.
        scheme: Scheme without calibration.
        is_convolution: Predicate on a weight's name: whether it belongs to a convolution.

    Returns:
        The number of weights by kind of quantisation.
    """
    graph = Graph(model)
    done: Counter[str] = Counter()
    for weight in weights_of(model.graph, is_convolution):
        kind = "convolutions" if weight.convolution else "matrix products"
        how = storage(weight, scheme)
        if how == "int8":
            graph.product_in_int8(weight, 63 if scheme.reduce_range else 127)
        elif how == "int4":
            graph.product_in_int4(weight, scheme.group or 128)
        elif how == "float16":
            graph.store_half(weight)
        elif how == "stored8":
            graph.store_int8(weight)
        done[f"{kind} {DONE[how]}"] += 1
    graph.finish()
    return dict(done)


def storage(weight: Weight, scheme: Scheme) -> str:
    """Return how a scheme stores a weight.

    Raises:
        AsrDeployError: If the scheme computes it in few bits but it is not the second factor of a matrix product.
    """
    how = scheme.stores(weight.name, convolution=weight.convolution, first=weight.first)
    if how in ("int8", "int4") and not weight.product:
        raise AsrDeployError(
            f"{scheme.name} cannot quantise {weight.name}: it is not the second factor of a matrix product (operator "
            f"{weight.node.op_type}). Choose another scheme with --quant."
        )
    return how


class Graph:
    """Edits of a graph. ``finish`` applies them and sorts the nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self.added: list[onnx.NodeProto] = []
        self.replaced: set[str] = set()
        self.quantised: dict[str, tuple[str, str, str]] = {}
        self.moved: dict[str, str] = {}

    def product_in_int8(self, weight: Weight, largest: int) -> None:
        """Replace a matrix product by one of 8-bit integers: int8 weights per output channel, dynamic uint8 activations.

        Args:
            weight: Second factor of the product.
            largest: Largest integer of the quantised weight.
        """
        values = self._take(weight.name)
        scale = np.maximum(np.abs(values).max(axis=-2, keepdims=True), 1e-12) / largest
        integers = np.rint(values / scale).astype(np.int8)
        name = weight.name
        # Batched weights keep their batch axis. A single matrix gets a scale vector, which runtimes fuse.
        self._constant(f"{name}_int8", integers)
        self._constant(f"{name}_scale", scale[0] if scale.ndim == 2 else scale)
        origin = self._origin(weight.node.input[0])
        _, step, zero = self._quantise_input(origin)
        moved = self._move(weight.node.input[0], origin)
        out = weight.node.output[0]
        self._add("MatMulInteger", [moved, f"{name}_int8", zero], [f"{out}_sum"])
        self._add("Cast", [f"{out}_sum"], [f"{out}_float"], to=TensorProto.FLOAT)
        self._add("Mul", [step, f"{name}_scale"], [f"{out}_step"])
        self._add("Mul", [f"{out}_float", f"{out}_step"], [out])
        self.replaced.add(out)

    def product_in_int4(self, weight: Weight, group: int) -> None:
        """Replace a matrix product by MatMulNBits: 4-bit weights, one scale per group, 8-bit activations inside the kernel.

        Args:
            weight: Second factor of the product.
            group: Largest number of weights that share a scale.
        """
        values = self._take(weight.name).T
        # The last group of a row is padded with zeros: take the largest group that needs the fewest.
        group = min((each for each in GROUPS if each <= group), key=lambda each: (-values.shape[1] % each, -each))
        packed, scales = pack_int4(values, group)
        name, (rows, columns) = weight.name, values.shape
        self._constant(f"{name}_int4", packed)
        self._constant(f"{name}_scale", scales)
        self._add(
            "MatMulNBits",
            [weight.node.input[0], f"{name}_int4", f"{name}_scale"],
            list(weight.node.output),
            domain=CONTRIBUTED,
            K=columns,
            N=rows,
            bits=4,
            block_size=group,
            accuracy_level=4,  # 8-bit arithmetic
        )
        self.replaced.add(weight.node.output[0])

    def store_half(self, weight: Weight) -> None:
        """Store a weight in half precision. Runtimes cast it once, when they load the model."""
        values = self._take(weight.name)
        self._constant(f"{weight.name}_half", values.astype(np.float16))
        self._add("Cast", [f"{weight.name}_half"], [weight.name], to=TensorProto.FLOAT)

    def store_int8(self, weight: Weight) -> None:
        """Store a weight as int8 with a scale per output channel. Runtimes multiply once, when they load the model."""
        values = self._take(weight.name)
        # The output channels are a convolution's first axis and a product's last axis.
        axes = tuple(range(1, values.ndim)) if weight.node.op_type == "Conv" else (values.ndim - 2,)
        scale = np.maximum(np.abs(values).max(axis=axes, keepdims=True), 1e-12) / 127
        self._constant(f"{weight.name}_int8", np.rint(values / scale).astype(np.int8))
        self._constant(f"{weight.name}_scale", scale)
        self._add("Cast", [f"{weight.name}_int8"], [f"{weight.name}_float"], to=TensorProto.FLOAT)
        self._add("Mul", [f"{weight.name}_float", f"{weight.name}_scale"], [weight.name])

    def finish(self) -> None:
        """Insert the new nodes, remove unused nodes and constants, and sort the nodes."""
        nodes = [node for node in self.graph.node if not self.replaced.intersection(node.output)] + self.added
        nodes = _needed(nodes, [each.name for each in self.graph.output])
        used = {name for node in nodes for name in node.input}
        tensors = [tensor for tensor in self.constants.values() if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(_sorted(nodes))
        self.graph.initializer.extend(tensors)
        if any(node.domain == CONTRIBUTED for node in nodes) and CONTRIBUTED not in {each.domain for each in self.model.opset_import}:
            self.model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))

    def _take(self, name: str) -> Array:
        values: Array = numpy_helper.to_array(self.constants.pop(name))
        return values

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)

    def _add(self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        self.added.append(helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes))

    def _origin(self, name: str) -> str:
        """Return the tensor from which a tensor's values were moved without arithmetic."""
        node = self.producers.get(name)
        if node is None or node.op_type not in MOVES:
            return name
        count = len(node.input) if node.op_type == "Concat" else 1
        origins = {self._origin(each) for each in node.input[:count]}
        return origins.pop() if len(origins) == 1 else name

    def _quantise_input(self, origin: str) -> tuple[str, str, str]:
        if origin not in self.quantised:
            names = (f"{origin}_uint8", f"{origin}_step", f"{origin}_zero")
            self._add("DynamicQuantizeLinear", [origin], list(names))
            self.quantised[origin] = names
            self.moved[origin] = names[0]
        return self.quantised[origin]

    def _move(self, name: str, origin: str) -> str:
        """Return the 8-bit counterpart of a float tensor that was moved from a quantised tensor."""
        if name not in self.moved:
            node = self.producers[name]
            count = len(node.input) if node.op_type == "Concat" else 1
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.input[:] = [*(self._move(each, origin) for each in node.input[:count]), *node.input[count:]]
            copied.output[:] = [f"{name}_uint8"]
            copied.name = f"{name}_uint8"
            self.added.append(copied)
            self.moved[name] = copied.output[0]
        return self.moved[name]


def pack_int4(values: Array, group: int) -> tuple[npt.NDArray[np.uint8], Array]:
    """Quantise rows to 4 bits by groups, in MatMulNBits's layout.

    Each group takes the scale with the smallest squared error. Clipping the largest weights often reduces it.

    Args:
        values: Weights ``[out, in]``.
        group: Number of weights that share a scale.

    Returns:
        Bytes ``[out, groups, group / 2]`` (two weights each, the low one first; 8 means zero), and scales ``[out * groups]``.
    """
    rows, columns = values.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = values
    blocks = padded.reshape(rows, groups, group)
    # The largest weight becomes -8, because the negative side has one more step.
    place = np.abs(blocks).argmax(axis=2)[:, :, None]
    full = np.take_along_axis(blocks, place, axis=2) / -8
    full = np.where(full == 0, np.float32(1e-12), full)
    best, error = full.copy(), np.full_like(full, np.inf)
    for share in SEARCH:
        scale = full * share
        off = ((np.clip(np.rint(blocks / scale), -8, 7) * scale - blocks) ** 2).sum(axis=2, keepdims=True)
        best, error = np.where(off < error, scale, best), np.minimum(off, error)
    integers = (np.clip(np.rint(blocks / best), -8, 7) + 8).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = (integers[:, :, 0::2] | (integers[:, :, 1::2] << 4)).astype(np.uint8)
    return packed, best.reshape(-1).astype(np.float32)


def _needed(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    producers = {name: node for node in nodes for name in node.output}
    waiting, wanted = list(outputs), set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            waiting.extend(node.input)
    return [node for node in nodes if id(node) in wanted]


def _sorted(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes in topological order. The order is deterministic, so repeated exports are byte-identical."""
    producers = {name: index for index, node in enumerate(nodes) for name in node.output}
    order = TopologicalSorter({index: [producers[name] for name in node.input if name in producers] for index, node in enumerate(nodes)})
    for index in order.static_order():
        yield nodes[index]
