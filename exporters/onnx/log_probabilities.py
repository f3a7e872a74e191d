"""The graph that onnx-asr expects: the length of the waveform as an input, log probabilities as an output."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx.graph import INPUT, OUTPUT

LENGTHS, LOG_PROBABILITIES = "input_lengths", "logprobs"


def add_log_probabilities(path: Path) -> None:
    """Add the input ``input_lengths`` and the output ``logprobs`` to an ONNX file, and keep its ``logits``.

    The new input has a default, so that programs which do not know it run the file as before. The batch stays one recording.

    Args:
        path: The file, which is rewritten.
    """
    model = onnx.load(path)
    graph = model.graph
    whole, start, axis = f"{INPUT}_whole", f"{LENGTHS}_start", f"{LENGTHS}_axis"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == INPUT:
                node.input[place] = whole
    everything = np.array([np.iinfo(np.int64).max], dtype=np.int64)  # Slice ends at the end of the waveform
    for name, value in ((LENGTHS, everything), (start, np.zeros(1, np.int64)), (axis, np.ones(1, np.int64))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    graph.input.append(helper.make_tensor_value_info(LENGTHS, TensorProto.INT64, [1]))
    graph.node.insert(0, helper.make_node("Slice", [INPUT, start, LENGTHS, axis], [whole], name="cut_to_length"))
    graph.node.append(helper.make_node("LogSoftmax", [OUTPUT], [LOG_PROBABILITIES], axis=-1, name="log_probabilities"))
    output = graph.output.add()
    output.CopyFrom(next(each for each in graph.output if each.name == OUTPUT))
    output.name = LOG_PROBABILITIES
    onnx.checker.check_model(model)
    onnx.save(model, path)
