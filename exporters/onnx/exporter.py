"""ONNX: the export of a recogniser, its quantisation, and what makes the file at home elsewhere."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from device_runner.errors import AsrDeployError
from device_runner.files import write_text
from exporters.onnx.graph import INPUT, export_plain_onnx
from exporters.onnx.quantiser import quantise, storage, weights_of
from exporters.recogniser import Recogniser
from exporters.rewrites import is_convolution
from exporters.schemes import Scheme
from exporters.suppressed_output import suppressed_output
from exporters.weights import StoredWeight

TOKENS = "tokens.txt"
Speech = Iterable[npt.NDArray[np.float32]]
KINDS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.INT8: "int8"}
SCALES = ("_scale", "_zero_point")  # how our quantiser and onnxruntime's name what a quantised weight needs besides


def export_onnx(
    recogniser: Recogniser, scheme: Scheme, metadata: dict[str, str], sample_rate: int, calibration: Speech, path: Path
) -> dict[str, int]:
    """Write a recogniser as one ONNX file of dynamic length and return how many weights were quantised in which way.

    Args:
        recogniser: in evaluation mode, weight norm folded.
        scheme: the quantisation.
        metadata: strings for the file's own metadata.
        sample_rate: of the waveform, in hertz.
        calibration: waveforms ``[samples]`` for schemes with static activations; read one after the other.
        path: the file to write.

    Raises:
        AsrDeployError: the scheme quantised less than it claims.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-onnx-", dir=path.parent) as folder:
        plain = Path(folder) / "plain.onnx"
        export_plain_onnx(recogniser, sample_rate, plain)
        model = onnx.load(plain)
        weights = weights_of(model.graph, is_convolution)
        expected = [weight.name for weight in weights if storage(weight, scheme) != "float32"]
        if scheme.calibrated:
            del model
            calibrated = Path(folder) / "calibrated.onnx"
            products = [weight.name for weight in weights if weight.name in expected and not weight.convolution]
            done = _calibrate(plain, calibrated, scheme, calibration, products)
            model = onnx.load(calibrated)
            # A product that onnxruntime left alone must stay visible to the check: only the rest is ours.
            rest = replace(scheme, products="float32", activations="float")
            done |= {what: number for what, number in quantise(model, rest, is_convolution).items() if what.startswith("convolutions")}
        else:
            done = quantise(model, scheme, is_convolution)
        _check_claims(model, scheme, expected)
        _finish(model, metadata)
        onnx.save(model, path)
    return done


def _calibrate(plain: Path, path: Path, scheme: Scheme, calibration: Speech, weights: list[str]) -> dict[str, int]:
    """Quantise matrix products by onnxruntime's static quantiser; it sees one recording at a time and keeps ranges only."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    recordings = iter(calibration)
    first = next(recordings, None)
    if first is None:
        raise AsrDeployError(f"{scheme.name} needs recordings to calibrate with, and there was none.")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.waveforms = itertools.chain([first], recordings)
            self.read = 0

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            waveform = next(self.waveforms, None)
            if waveform is None:
                return None
            self.read += 1
            return {INPUT: waveform[None]}

    model = onnx.load(plain, load_external_data=False)
    nodes = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    del model
    reader = Reader()
    with suppressed_output():
        quantize_static(
            plain,
            path,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=scheme.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"], "MatMulConstBOnly": True},
        )
    return {"matrix products in int8": len(nodes), "recordings for calibration": reader.read}


def _check_claims(model: onnx.ModelProto, scheme: Scheme, expected: list[str]) -> None:
    """Refuse a file in which weights that the scheme quantises are still in float."""
    stored = {weight.name: weight.kind for weight in stored_weights(model) if weight.kind != "scales"}
    left = [name for name in expected if stored.get(name, "float32") == "float32"]
    if left:
        raise AsrDeployError(
            f"{scheme.name} quantised {len(expected) - len(left)} of {len(expected)} weights ({left[0]} is not); the export is refused."
        )


def write_tokens(labels: Sequence[str], path: Path) -> None:
    """Write labels as sherpa-onnx and its relatives read them: a line ``symbol index`` each, the blank ``<blk>``, the space ``\u2581``.

    Args:
        labels: by index, the blank first, ``|`` for the space; a label that prints nothing is named after its index, which those need.
        path: the file to write; our own engines read the manifest instead.
    """
    names = ["<blk>", *(label.replace("|", "\u2581") or f"<{index}>" for index, label in enumerate(labels[1:], 1))]
    write_text(path, "".join(f"{name} {index}\n" for index, name in enumerate(names)))


def stored_weights(model: onnx.ModelProto) -> list[StoredWeight]:
    """List the constants of a model as they are stored; quantised weights go by the name that they had in float."""
    found = []
    for tensor in model.graph.initializer:
        size = int(np.prod(tensor.dims, dtype=np.int64))
        name, kind = tensor.name, KINDS.get(tensor.data_type, "other")
        if name.endswith(SCALES):
            kind = "scales"
        elif name.endswith("_int4"):
            kind, size = "int4", 2 * size
        for suffix in (*SCALES, "_int8", "_int4", "_half", "_quantized"):
            name = name.removesuffix(suffix)
        found.append(StoredWeight(name, kind, size, numpy_helper.to_array(tensor).nbytes))
    return found


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count a graph's operators; those outside the standard carry their domain."""
    names = (f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type for node in model.graph.node)
    return dict(Counter(names).most_common())


def _finish(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Put our facts in, and take the exporter's notes out: source paths and stack traces of the machine that exported."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for value in getattr(graph, "value_info", []):
            value.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    for value in [*model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
    model.ClearField("metadata_props")
    for key in sorted(metadata):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, metadata[key]
    model.producer_name, model.producer_version = "asrdeploy", ""
