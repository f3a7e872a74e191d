"""The ONNX schemes on the bundled model: what is stored, what is computed, what it costs in words, and what others can read."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from device_runner.artifact import Artifact, open_artifact
from device_runner.engines import Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts
from device_runner.labels import select_labels
from exporters.export import Facts, export
from exporters.inspection import inspect
from exporters.onnx import exporter
from exporters.onnx.quantiser import pack_int4, quantise, weights_of
from exporters.recogniser import Recogniser
from exporters.rewrites import is_convolution
from exporters.schemes import SCHEMES, Scheme, find_scheme
from tests.helpers import Completed, OneLayer, complaint, copied
from toolchain.accuracy import transcriber
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.data.datasets import DataSet
from toolchain.data.speech import CALIBRATION_UTTERANCES, CalibrationSpeech, bundled_speech, calibration_speech
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.test_cases import LABELS
from toolchain.scenario.exporting import export_model

EXPORTED = ("fp16+conv8", "int8-full+conv8", "int8-static", "int4+conv8", "int8-full+reduce_range")
INT8_EXACT = machine_facts()["int8_exact"]


@pytest.fixture(scope="module")
def exported(tiny: AnchorModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("schemes")
    return {name: export_model(tiny, folder / f"DIGITS_ASR_TINY-onnx-{name}", quant=name)[0] for name in EXPORTED}


def test_what_was_quantised(exported: dict[str, Artifact]) -> None:
    found = {name: artifact.manifest.quantised for name, artifact in exported.items()}
    assert found["fp16+conv8"] == {"matrix products in half precision": 18, "convolutions stored in int8": 5}
    # The first convolution multiplies the waveform itself.
    assert found["int8-full+conv8"] == {"convolutions stored in int8": 1, "convolutions in int8": 4, "matrix products in int8": 18}
    assert found["int8-full+reduce_range"] == {"convolutions in float": 1, "convolutions in int8": 4, "matrix products in int8": 18}
    assert found["int4+conv8"] == {"convolutions stored in int8": 5, "matrix products in int4": 18}
    assert found["int8-static"] == {
        "matrix products in int8": 18,
        "recordings for calibration": CALIBRATION_UTTERANCES,
        "convolutions in float": 5,
    }


def test_weights_are_stored_as_the_scheme_says(exported: dict[str, Artifact]) -> None:
    stored = {name: inspect(artifact).elements_by_bits for name, artifact in exported.items()}
    products, convolutions = 1_259_040, 257_024  # weights of matrices; biases and norms stay in float32
    assert stored["fp16+conv8"][16] == products and stored["fp16+conv8"][8] == convolutions
    assert stored["int8-full+conv8"][8] == products + convolutions
    assert stored["int4+conv8"][4] == products and stored["int4+conv8"][8] == convolutions
    assert all(bits[32] < 80_000 for name, bits in stored.items() if "conv8" in name)


def test_the_accounts_add_up(exported: dict[str, Artifact], tiny_fp32: Artifact) -> None:
    for artifact in [*exported.values(), tiny_fp32]:
        found = inspect(artifact)
        assert sum(found.bytes_by_kind.values()) == artifact.size_bytes
        assert sum(found.bytes_by_module(3).values()) == sum(weight.bytes for weight in found.weights)
        sizes = list(found.bytes_by_module(3).values())
        assert sizes == sorted(sizes, reverse=True) and 0 < found.overhead < 0.2
    assert inspect(tiny_fp32).nominal_bits == pytest.approx(32 * 1_524_892, rel=0.01)


def test_sizes_against_fp32(exported: dict[str, Artifact], tiny_fp32: Artifact) -> None:
    ratio = {name: artifact.size_bytes / tiny_fp32.size_bytes for name, artifact in exported.items()}
    assert ratio["int8-full+conv8"] < 0.28 and ratio["int4+conv8"] < 0.22 and ratio["fp16+conv8"] < 0.5


def test_distance_to_torch(exported: dict[str, Artifact]) -> None:
    limits = {"fp16+conv8": 0.02, "int8-full+conv8": 0.1, "int8-static": 0.1, "int4+conv8": 0.1, "int8-full+reduce_range": 0.15}
    for name, artifact in exported.items():
        if INT8_EXACT or "reduce_range" in name or name == "fp16+conv8":
            assert all(each.relative < limits[name] for each in artifact.manifest.parity), name


@pytest.mark.skipif(not INT8_EXACT, reason="8-bit sums saturate on this processor; reduce_range is for it")
def test_words_lost(exported: dict[str, Artifact], tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    anchor = evaluate(open_transcriber("0"), test_clean, tmp_path / "anchor").wer
    limits = {"int8": 0.003, "int8-full+conv8": 0.003, "int4+conv8": 0.01}
    for name, limit in limits.items():
        artifact = exported.get(name, tiny_int8)
        assert evaluate(open_transcriber(str(artifact.folder)), test_clean, tmp_path / name).wer <= anchor + limit, name


def test_windows_are_cut_from_8_bit_values(exported: dict[str, Artifact]) -> None:
    nodes = onnx.load(exported["int8-full+conv8"].model_path).graph.node
    quantised = {output for node in nodes for output in node.output if output.endswith("_uint8")}
    assert any(node.op_type == "Concat" and node.output[0] in quantised for node in nodes)
    # One quantisation for a convolution's input, however many slices its windows take.
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in nodes) == 22


def test_reduce_range_takes_7_bits(exported: dict[str, Artifact]) -> None:
    tensors = onnx.load(exported["int8-full+reduce_range"].model_path).graph.initializer
    weights = [numpy_helper.to_array(each) for each in tensors if each.name.endswith("_int8")]
    assert len(weights) == 22 and max(int(np.abs(each).max()) for each in weights) == 63


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1600, 560_000))
def test_transcripts_are_torchs_at_any_length(samples: int) -> None:
    tiny, engine, speech = SHARED["tiny"], SHARED["engine"], SHARED["speech"]
    waveform = speech[:samples]
    with torch.inference_mode():
        expected = tiny.recogniser(torch.from_numpy(waveform)[None])[0].numpy()
    found = engine.logits(waveform)
    assert np.abs(found - expected).max() < 1e-3
    assert select_labels(found, LABELS) == select_labels(expected, LABELS)


SHARED: dict = {}  # hypothesis runs a test's body many times, fixtures once


@pytest.fixture(autouse=True, scope="module")
def _shared(tiny: AnchorModel, tiny_fp32: Artifact) -> None:
    SHARED.update(tiny=tiny, engine=open_engine(tiny_fp32), speech=bundled_speech([35.0], 16_000)[35.0])


def test_bounds(tiny_fp32: Artifact) -> None:
    engine = open_engine(tiny_fp32)
    assert tiny_fp32.manifest.maximum_samples == 560_000
    with pytest.raises(AsrDeployError, match="accepts at most 560000"):
        engine.logits(np.zeros(560_001, np.float32))
    with pytest.raises(AsrDeployError, match="requires at least 744"):
        engine.logits(np.zeros(743, np.float32))
    assert engine.logits(np.zeros(744, np.float32)).shape == (1, 29)


# Refusals


class Functional(nn.Module):
    """A network whose product with its weight has another form than ours: the weight comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(29, 400))

    def forward(self, waveform: Tensor) -> tuple[Tensor, None]:
        frames = waveform.unfold(1, 400, 320)
        return torch.matmul(self.weight, frames.transpose(1, 2)).transpose(1, 2), None


def small_export(network: nn.Module, folder: Path, scheme: str, **more: object) -> Artifact:
    facts = Facts("SMALL", "random", False, LABELS, 16_000, 11_600, 400)
    recogniser = Recogniser(network.eval(), normalised_waveform=False).eval()
    speech: list[Waveform] = [np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)]
    return export(recogniser, facts, format_name="onnx", scheme_name=scheme, folder=folder, speech=speech, **more)[0]  # type: ignore[arg-type]


def test_a_scheme_that_quantised_less_than_it_claims_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forgetful(model: onnx.ModelProto, scheme: Scheme, known: Callable[[str], bool]) -> dict[str, int]:
        return quantise(model, replace(scheme, keep=("aux",)), known)

    class WithAux(OneLayer):
        def __init__(self) -> None:
            super().__init__(96)
            self.aux = nn.Linear(96, 29)

        def forward(self, waveform: Tensor) -> tuple[Tensor, None]:
            return self.aux(super().forward(waveform)[0]), None

    assert small_export(WithAux(), tmp_path / "good", "int8").manifest.quantised["matrix products in int8"] == 1
    monkeypatch.setattr(exporter, "quantise", forgetful)
    with pytest.raises(AsrDeployError, match=r"int8 quantised 0 of 1 weights: network\.aux\.weight is still in float32"):
        small_export(WithAux(), tmp_path / "bad", "int8")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_weight_that_no_product_can_take_is_refused(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(AsrDeployError, match=rf"{scheme} cannot quantise network\.weight: .* not the second factor .* \(operator MatMul\)"):
        small_export(Functional(), tmp_path / "artifact", scheme)
    assert not list(tmp_path.iterdir())


def test_a_calibrated_scheme_that_left_a_product_fails(tiny: AnchorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = exporter._calibrate

    def forgetful(plain: Path, path: Path, scheme: Scheme, speech: Iterable[Waveform], products: list[str]) -> dict[str, int]:
        return ours(plain, path, scheme, speech, products[1:])

    monkeypatch.setattr(exporter, "_calibrate", forgetful)
    with pytest.raises(AsrDeployError, match="int8-static quantised 17 of 18 weights"):
        export_model(tiny, tmp_path / "artifact", quant="int8-static")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "warned"), [("int8-full+conv8", True), ("int8-static", True), ("int8-full+reduce_range", False), ("fp16+conv8", False)]
)
def test_a_processor_whose_sums_saturate_is_said(
    exported: dict[str, Artifact], name: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "machine_facts", lambda: {"int8_exact": False})
    warning = open_transcriber(str(exported[name].folder)).warning
    assert (warning is not None) == warned
    assert not warned or f"--quant {name}+reduce_range" in str(warning)


def test_calibration_without_recordings_is_refused(tiny: AnchorModel, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="requires recordings for calibration"):
        export_model(tiny, tmp_path / "artifact", quant="int8-static", calibration=CalibrationSpeech(()))
    assert not list(tmp_path.iterdir())


def test_calibration_is_few_bounded_and_streamed() -> None:
    recordings = calibration_speech("digits", "dev-clean")
    assert isinstance(iter(recordings), Iterator)  # nothing is read before it is asked for
    lengths = [len(each) for each in recordings]
    assert len(lengths) == CALIBRATION_UTTERANCES and max(lengths) <= 15 * 16_000
    with pytest.raises(AsrDeployError, match="Cannot calibrate on test-clean"):
        calibration_speech("digits", "test-clean")


def test_a_full_disk_leaves_nothing(tiny: AnchorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setattr(exporter.onnx, "save", full)
    with pytest.raises(AsrDeployError, match="No space left"):
        small_export(OneLayer(), tmp_path / "artifact", "fp32")
    assert not list(tmp_path.iterdir())


# 4 bits


@given(
    rows=st.integers(1, 5), columns=st.integers(1, 80), group=st.sampled_from([16, 32, 64]), seed=st.integers(0, 9), scale=st.floats(0, 10)
)
def test_4_bit_groups_unpack_to_what_was_packed(rows: int, columns: int, group: int, seed: int, scale: float) -> None:
    values = (scale * np.random.default_rng(seed).normal(size=(rows, columns))).astype(np.float32)
    packed, scales = pack_int4(values, group)
    groups = -(-columns // group)
    assert packed.shape == (rows, groups, group // 2) and scales.shape == (rows * groups,)
    integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, groups, group).astype(np.int64) - 8
    restored = (integers * scales.reshape(rows, groups, 1)).reshape(rows, -1)[:, :columns]
    largest = np.abs(values).max(initial=0.0)
    assert np.abs(restored - values).max() <= largest * 0.35 + 1e-6
    assert np.isfinite(restored).all()


# For people


def test_inspect_shows_what_is_there(cli: Callable[..., Completed], exported: dict[str, Artifact]) -> None:
    shown = cli("inspect", exported["int4+conv8"].folder).stdout
    for words in ("int4+conv8", "Bytes by kind", "network.encoder.transformer", "com.microsoft.MatMulNBits", "opset 20", "35 s"):
        assert words in shown, words


def test_inspect_of_a_damaged_file_is_one_sentence(cli: Callable[..., Completed], exported: dict[str, Artifact], tmp_path: Path) -> None:
    folder = copied(exported["int4+conv8"], tmp_path / "copy")
    (folder / "model.onnx").write_bytes(b"\x00" * 100)
    assert "sha256" in complaint(cli("inspect", folder))


def test_every_onnx_scheme_keeps_the_names_of_others(exported: dict[str, Artifact]) -> None:
    for artifact in exported.values():
        model = onnx.load(artifact.model_path)
        onnx.checker.check_model(model)
        assert ([each.name for each in model.graph.input], [each.name for each in model.graph.output]) == (["input_values"], ["logits"])
        assert json.loads({each.key: each.value for each in model.metadata_props}["labels"]) == list(LABELS)
        assert model.ir_version <= 10 and {each.domain: each.version for each in model.opset_import}[""] == 20
        weights = weights_of(model.graph, is_convolution)
        assert all(weight.convolution for weight in weights)
    assert set(SCHEMES) >= {find_scheme(name, "onnx").name.split("+")[0] for name in EXPORTED}
    assert open_artifact(exported["int8-static"].folder).manifest.scheme == "int8-static"
