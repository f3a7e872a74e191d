"""ONNX: the export of a recogniser, its quantisation, and what makes the file at home elsewhere."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import torch

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser
from exporters.schemes import Scheme

OPSET = 20  # read by onnxruntime from 1.18 on, on phones and on the JVM too
INPUT, OUTPUT = "input_values", "logits"  # the names that other clients of such models expect
EXAMPLE_SECONDS = 2


def export_onnx(recogniser: Recogniser, scheme: Scheme, metadata: dict[str, str], sample_rate: int, path: Path) -> dict[str, int]:
    """Write a recogniser as one ONNX file of dynamic length and return how many operators were quantised.

    Args:
        recogniser: in evaluation mode, weight norm folded.
        scheme: the quantisation.
        metadata: strings for the file's own metadata.
        sample_rate: of the waveform, in hertz.
        path: the file to write.

    Raises:
        AsrDeployError: the scheme quantised less than it claims.
    """
    waveform = torch.zeros(1, sample_rate * EXAMPLE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="asrdeploy-onnx-", dir=path.parent) as folder:
        plain = Path(folder) / "plain.onnx"
        with _quiet():
            program = torch.onnx.export(
                recogniser,
                (waveform,),
                dynamo=True,
                dynamic_shapes={"waveform": {1: torch.export.Dim("samples", min=2 * sample_rate // 10)}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
            if program is None:
                raise AsrDeployError("torch.onnx.export gave no program.")
            program.save(str(plain))
            del program
        quantised = QUANTISERS[scheme.name](plain, path)
    _finish(path, metadata)
    return quantised


def _keep(plain: Path, path: Path) -> dict[str, int]:
    plain.replace(path)
    return {}


def _int8_dynamic(plain: Path, path: Path) -> dict[str, int]:
    """Quantise matrix products with constant weights: int8 per channel, activations uint8 while running."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = onnx.load(plain)
    expected = count_weight_products(before)
    del before
    with _quiet():
        # Convolutions stay in float: quantised ones are slower, and they are the fragile part of these models.
        quantize_dynamic(plain, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)
    after = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    done = after["MatMulInteger"] + after["DynamicQuantizeMatMul"]
    if done < expected:
        raise AsrDeployError(f"int8 quantised {done} of {expected} matrix products with weights; the export is refused.")
    return {"matrix products in int8": done, "convolutions in float": after["Conv"]}


QUANTISERS: dict[str, Callable[[Path, Path], dict[str, int]]] = {"fp32": _keep, "int8": _int8_dynamic}


def count_weight_products(model: onnx.ModelProto) -> int:
    """Count matrix products with a constant weight."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return sum(node.op_type in ("MatMul", "Gemm") and node.input[1] in constants for node in model.graph.node)


def _finish(path: Path, metadata: dict[str, str]) -> None:
    """Put our facts in, and take the exporter's notes out: source paths and stack traces of the machine that exported."""
    model = onnx.load(path)
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
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantiser's chatter off the screen: it names no action for a user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
