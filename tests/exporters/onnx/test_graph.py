"""One trace for an architecture: the bytes of torch's own export, whatever weights came before."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchaudio.models import wav2vec2_model

from exporters.onnx import exporter, graph
from exporters.onnx.graph import INPUT, OPSET, OUTPUT, architecture, export_plain_onnx
from exporters.recogniser import Recogniser, fold_weight_norm
from exporters.suppressed_output import suppressed_output
from tests.helpers import OneLayer


def small(seed: int, *, layer_norm_first: bool = False, normalised: bool = False, width: int = 16) -> Recogniser:
    torch.manual_seed(seed)
    network = wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(8, 10, 5), (8, 8, 8)],
        extractor_conv_bias=False,
        encoder_embed_dim=width,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2,
        encoder_num_layers=1,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=24,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=layer_norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=5,
    ).eval()
    fold_weight_norm(network)
    return Recogniser(network, normalised_waveform=normalised).eval()


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_graphs", {})


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The modules that were traced."""
    found: list[Any] = []
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda module, *more, **options: found.append(module) or export(module, *more, **options))
    return found


def stripped(path: Path) -> bytes:
    """Return a file without the exporter's notes, which hold the caller's stack, and without names of nodes, which are counted."""
    model = onnx.load(path)
    exporter._finish(model, {})
    for node in model.graph.node:
        node.name = ""
    return bytes(model.SerializeToString())


def by_torch(recogniser: Recogniser, path: Path) -> bytes:
    with suppressed_output(), torch.no_grad():
        program = torch.onnx.export(
            recogniser,
            (torch.zeros(1, 32_000),),
            dynamo=True,
            dynamic_shapes={"waveform": {1: torch.export.Dim("samples", min=3200)}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(str(path))
    return stripped(path)


@torch.no_grad()
def test_the_bytes_are_torchs_whatever_was_traced_before(traces: list[Any], tmp_path: Path) -> None:
    for seed in (0, 1):
        export_plain_onnx(small(seed), 16_000, tmp_path / f"{seed}.onnx")
    assert len(traces) == 1
    graph._graphs.clear()
    export_plain_onnx(small(1), 16_000, tmp_path / "first.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert stripped(tmp_path / "1.onnx") == by_torch(small(1), tmp_path / "torch.onnx") != stripped(tmp_path / "0.onnx")
    assert max(map(len, graph._graphs.values())) < 400_000  # no weights are kept


@torch.no_grad()
def test_another_architecture_is_traced_for_itself(traces: list[Any], tmp_path: Path) -> None:
    import onnxruntime as ort

    waveform = np.random.default_rng(0).normal(size=(1, 8000)).astype(np.float32)
    # The first two have weights of the same names and shapes.
    for number, recogniser in enumerate((small(0), small(0, layer_norm_first=True), small(0, normalised=True))):
        export_plain_onnx(recogniser, 16_000, tmp_path / f"{number}.onnx")
        found = ort.InferenceSession(tmp_path / f"{number}.onnx", providers=["CPUExecutionProvider"]).run([OUTPUT], {INPUT: waveform})[0]
        assert np.allclose(found, recogniser(torch.from_numpy(waveform)).numpy(), atol=1e-5)
    assert len(traces) == 3


def test_what_decides_a_graph() -> None:
    first = architecture(small(0), 16_000)
    assert first == architecture(small(1), 16_000)
    others = [small(0, width=32), small(0, layer_norm_first=True), small(0, normalised=True)]
    assert len({first, architecture(small(0), 8_000), *(architecture(each, 16_000) for each in others)}) == 5

    assert first != architecture(small(0).train(), 16_000)


class Constants(nn.Module):
    """What is no weight becomes a constant of the graph."""

    def __init__(self, attribute: object, buffer: torch.Tensor) -> None:
        super().__init__()
        self.attribute = attribute
        self.register_buffer("buffer", buffer, persistent=False)


def test_constants_decide_a_graph_whole() -> None:
    ones, other = torch.ones(3000), torch.ones(3000)
    other[1500] = 2  # where printing leaves numbers out
    cases: list[tuple[object, torch.Tensor]] = [
        (ones, ones),
        (other, ones),
        ([ones], ones),
        ([other], ones),
        ({"a": 1}, ones),
        (ones, other),
    ]
    keys = [architecture(Constants(*case), 16_000) for case in cases]
    assert None not in keys and len(set(keys)) == len(cases)
    assert architecture(Constants(ones.clone(), ones.clone()), 16_000) == keys[0]
    assert architecture(Constants(ones.bfloat16(), ones), 16_000) not in (None, keys[0])
    assert architecture(Constants(np.ones(3), ones), 16_000) is None  # of a kind that we do not know: traced anew


@torch.no_grad()
def test_few_graphs_are_kept(traces: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "KEPT", 1)
    for width in (3, 4, 3):
        export_plain_onnx(Recogniser(OneLayer(width), normalised_waveform=False).eval(), 16_000, tmp_path / "a.onnx")
    assert len(traces) == 3 and len(graph._graphs) == 1
