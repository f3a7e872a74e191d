"""ONNX export: write a model, quantise it, and add the metadata that other runtimes read."""

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
SCALES = ("_scale", "_zero_point")  # suffixes that our quantiser and onnxruntime's give to the parameters of a weight


def export_onnx(
    recogniser: Recogniser, scheme: Scheme, metadata: dict[str, str], sample_rate: int, calibration: Speech, path: Path
) -> dict[str, int]:
    """Write a model to one ONNX file that accepts inputs of any length.

    Args:
        recogniser: Model in evaluation mode, with weight norm folded.
        scheme: Quantisation scheme.
        metadata: Metadata to store in the file.
        sample_rate: Sample rate of the waveform in hertz.
        calibration: Waveforms, each ``[samples]``, for schemes with static activations. They are read one by one.
        path: File to write.

    Returns:
        The number of weights by kind of quantisation.

    Raises:
        AsrDeployError: If fewer weights were quantised than the scheme demands.
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
            # Leave products to onnxruntime, so that the check finds those that it did not quantise.
            rest = replace(scheme, products="float32", activations="float")
            done |= {what: number for what, number in quantise(model, rest, is_convolution).items() if what.startswith("convolutions")}
        else:
            done = quantise(model, scheme, is_convolution)
        _check_claims(model, scheme, expected)
        _finish(model, metadata)
        onnx.save(model, path)
    return done


def _calibrate(plain: Path, path: Path, scheme: Scheme, calibration: Speech, weights: list[str]) -> dict[str, int]:
    """Quantise matrix products with onnxruntime's static quantiser, which reads one recording at a time and keeps only ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    recordings = iter(calibration)
    first = next(recordings, None)
    if first is None:
        raise AsrDeployError(f"{scheme.name} requires recordings for calibration, but there are none. Name a data set with --calibrate.")

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
    """Refuse a file in which weights that the scheme quantises are still in float32."""
    stored = {weight.name: weight.kind for weight in stored_weights(model) if weight.kind != "scales"}
    left = [name for name in expected if stored.get(name, "float32") == "float32"]
    if left:
        raise AsrDeployError(
            f"{scheme.name} quantised {len(expected) - len(left)} of {len(expected)} weights: {left[0]} is still in float32. "
            "Nothing was written. Choose another scheme with --quant."
        )


def write_tokens(labels: Sequence[str], path: Path) -> None:
    """Write labels for sherpa-onnx and similar runtimes: one line ``symbol index`` each, ``<blk>`` for the blank, ``\u2581`` for the space.

    Args:
        labels: Labels by index, the blank first, ``|`` for the space. An empty label is named after its index.
        path: File to write. The engines of this project read the manifest instead.
    """
    names = ["<blk>", *(label.replace("|", "\u2581") or f"<{index}>" for index, label in enumerate(labels[1:], 1))]
    write_text(path, "".join(f"{name} {index}\n" for index, name in enumerate(names)))


def stored_weights(model: onnx.ModelProto) -> list[StoredWeight]:
    """List the constants of a model as stored. Quantised weights have the names of the float weights."""
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
    """Count the operators of a graph. Names outside the standard start with their domain."""
    names = (f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type for node in model.graph.node)
    return dict(Counter(names).most_common())


def _finish(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Add our metadata, and remove the exporter's: it holds source paths and stack traces of the exporting machine."""
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
