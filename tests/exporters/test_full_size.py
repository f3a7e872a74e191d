"""Both anchors' real architectures with seeded random weights: export, size, latency. No word error rate comes from them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchaudio

from device_runner.bitstream.network import Architecture, Network
from tests.exports import kept
from toolchain.models.anchor_model import with_random_weights
from toolchain.models.networks import build_architecture, count_parameters
from toolchain.models.test_cases import LABELS, custom_case
from toolchain.scenario.exporting import export_model

GIBIBYTE = 2**30

# The anchors' parameters and sizes are the scenario's; operators: 12 or 24 layers of 4 products, the projection, the labels.
CASES = [
    ("WAV2VEC2_ASR_BASE_960H", "94,393,245", "3,021 Mbit", 12 * 4 + 2, 6 * GIBIBYTE),
    ("HUBERT_ASR_LARGE", "315,463,837", "10,095 Mbit", 24 * 4 + 2, 16 * GIBIBYTE),
]


def run(*arguments: str, memory: int | None = None) -> str:
    """Run the command line in a process of its own; return what it printed, after its peak memory was compared with ``memory``."""
    environment = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen([sys.executable, "-m", "asrdeploy", *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, printed
    if memory:
        assert usage.ru_maxrss * 1024 < memory
    return printed


@pytest.mark.slow
@pytest.mark.parametrize(("model", "parameters", "size", "products", "memory"), CASES)
def test_a_full_size_anchor_exports_to_int8_and_is_timed(
    model: str, parameters: str, size: str, products: int, memory: int, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    arguments = ("--model", model, "--weights", "random", "--format", "onnx", "--quant", "int8", "-o", str(artifact))
    printed = run("export", *arguments, memory=memory)
    assert parameters in printed
    assert size in printed
    assert re.search(rf"matrix products in int8 +│ {products} ", printed)
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["parameters"] == int(parameters.replace(",", ""))
    assert not manifest["trained"]
    assert manifest["normalised_waveform"] == (model == "HUBERT_ASR_LARGE")
    # 8 bits for the products' weights, 32 for the convolutions': between a quarter and a third of the anchor.
    assert 0.25 < manifest["files"][0]["bytes"] / (4 * manifest["parameters"]) < 0.34
    # Untrained logits are close together, so the distance says more than the arg max.
    assert all(each["relative"] < (0.06 if manifest_is_exact() else 0.6) for each in manifest["parity"])

    result = tmp_path / "bench.json"
    printed = run("bench", str(artifact), "--seconds", "2", "--protocol", "quick", "-o", str(result))
    measured = json.loads(result.read_text())
    assert measured["artifact"]["trained"] is False
    assert measured["steady"][0]["n"] >= 6
    assert 0 < measured["steady"][0]["p50"] <= measured["steady"][0]["p90"]
    assert measured["cold"]["starts"][0]["load_seconds"] > 0
    assert not measured["valid"]
    assert result.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_base_in_four_bits_against_fp32(tmp_path: Path) -> None:
    arguments = ("--model", "WAV2VEC2_ASR_BASE_960H", "--weights", "random", "--format", "onnx", "--quant", "int4+conv8")
    artifact = kept(
        "BASE-onnx-int4+conv8",
        arguments,
        lambda folder: run("export", *arguments, "-o", str(folder), memory=12 * GIBIBYTE),
        tmp_path / "artifact",
    )
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["files"][0]["bytes"] / (4 * manifest["parameters"]) < 0.17
    assert max(each["relative"] for each in manifest["parity"]) < 0.3


@pytest.mark.slow
def test_base_with_one_of_its_layers_on_executorch_against_fp32(tmp_path: Path) -> None:
    """Lowering all twelve layers takes minutes. The layers are alike, and one of them has BASE's widths and kernels."""
    plain = {key: value for key, value in torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H._params.items() if key in Architecture.model_fields}
    architecture = Architecture.model_validate(plain | {"encoder_num_layers": 1})
    parameters = count_parameters(build_architecture(architecture, len(LABELS)))
    network = Network(architecture=architecture, labels=LABELS, sample_rate=16_000, normalised_waveform=False, num_param=parameters)

    def make(folder: Path) -> None:
        export_model(with_random_weights(custom_case("BASE_OF_ONE_LAYER", network), 0), folder, format="executorch", quant="int8-full")

    manifest = json.loads((kept("BASE_OF_ONE_LAYER-executorch-int8-full", 0, make, tmp_path / "artifact") / "manifest.json").read_text())
    assert manifest["files"][0]["bytes"] / (4 * manifest["parameters"]) < 0.29
    assert manifest["delegated"]["gelu"] == 7 + 1 + 1 and max(each["relative"] for each in manifest["parity"]) < 0.05


def manifest_is_exact() -> bool:
    """Tell whether this processor's 8-bit products are exact; without dot-product instructions they saturate."""
    from device_runner.facts import machine_facts

    return bool(machine_facts()["int8_exact"])


@pytest.mark.slow
def test_base_is_compressed_delivered_decoded_exported_and_timed_by_commands(tmp_path: Path) -> None:
    bitstream, received, artifact, result = (tmp_path / name for name in ("base.asrb", "received", "artifact", "bench.json"))
    model = ("--model", "WAV2VEC2_ASR_BASE_960H", "--weights", "random")
    run("compress", *model, "--codec", "ectcq", "--set", "bits=3", "-o", str(bitstream), memory=6 * GIBIBYTE)
    assert 2.8 < 8 * bitstream.stat().st_size / 94_393_245 < 3.1
    assert "random weights" in run("deliver", str(bitstream), "--rates", "200", "-o", str(received))
    made = json.loads((received / "delivery.json").read_text())["bitstreams"][0]["receptions"]
    assert not made[0]["trained"] and made[0]["size_bytes"] == bitstream.stat().st_size
    # The decoded weights themselves are one float model.
    assert 1.0 < (made[0]["peak_bytes"] - made[0]["baseline_bytes"]) / made[0]["float_bytes"] < 1.3
    run("export", "--from", str(bitstream), "-o", str(artifact), memory=6 * GIBIBYTE)
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["codec"].startswith("ectcq(bits=3") and manifest["transmitted_bytes"] == bitstream.stat().st_size
    run("bench", str(artifact), "--seconds", "1", "--protocol", "quick", "-o", str(result))
    assert json.loads(result.read_text())["steady"][0]["n"] >= 6
