"""WavLM, data2vec, Conformer and MMS: logits of transformers, both formats, the bitstream, and adapters by language."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2ForCTC, logging

from device_runner.bitstream.format import read_header
from device_runner.bitstream.network import Architecture, Network
from device_runner.errors import AsrDeployError
from tests.helpers import Completed
from tests.toolchain.models.custom.hugging_face_folders import ADAPTERS, LETTERS, VOCABULARY, WIDTH, change, write_folder, write_mms
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.compression.bitstreams import compress, decompress
from toolchain.data.casing import upper
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model

logging.set_verbosity_error()
logging.disable_progress_bar()

FAMILIES: dict[str, dict[str, Any]] = {
    "wavlm": {"num_buckets": 16, "max_bucket_distance": 40},
    "data2vec": {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    "conformer": {"hidden_act": "swish", "conv_depthwise_kernel_size": 7, "rotary_embedding_base": 500},
    "mms": ADAPTERS,
}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("wavlm", {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}),
    ("data2vec", {"conv_pos_kernel_size": 6}),  # an even kernel gives one frame more, which is cut
    ("conformer", {"position_embeddings_type": "rotary", "feat_extract_norm": "layer"}),
    ("conformer", {"position_embeddings_type": None, "hidden_act": "gelu"}),
]
Made = tuple[Path, Any, AnchorModel]


def made(folder: Path, family: str, **changes: Any) -> Made:
    model = write_folder(folder, "wav2vec2" if family == "mms" else family, do_normalize=False, **FAMILIES[family] | changes)
    return folder, model, load_model(str(folder))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Return a folder of each family with its models in transformers and here. Tests must not change them."""
    return {family: made(tmp_path_factory.mktemp("families") / f"tiny-{family}", family) for family in FAMILIES}


@torch.inference_mode()
def difference(theirs: Any, ours: AnchorModel, waveform: np.ndarray, vocabulary: list[str] = VOCABULARY, width: int = WIDTH) -> float:
    """Return the largest difference from the logits of transformers, relative to their largest."""
    blank = vocabulary.index("[PAD]")
    inputs = torch.from_numpy(waveform)[None]
    expected = theirs(inputs).logits[0][:, [blank, *(index for index in range(width) if index != blank)]]
    found = ours.recogniser(inputs)[0]
    assert found.shape == expected.shape and len(found) > 100 and expected.abs().max() > 0.1
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_each_family_are_those_of_transformers(models: dict[str, Made], family: str, waveform: np.ndarray) -> None:
    _, theirs, ours = models[family]
    assert difference(theirs, ours, waveform) < 1e-4


@pytest.mark.parametrize("family, changes", OTHERS)
def test_logits_with_other_settings(tmp_path: Path, family: str, changes: dict[str, Any], waveform: np.ndarray) -> None:
    _, theirs, ours = made(tmp_path / "m", family, **changes)
    assert difference(theirs, ours, waveform) < 1e-4


SMALL = {"num_hidden_layers": 1, "conv_dim": (16, 24), "conv_kernel": (10, 8), "conv_stride": (10, 8)}  # exports take a third less time


# ExecuTorch takes 8 s for data2vec and 15 s for a Conformer, so the other families were exported to it by hand.
@pytest.mark.parametrize("family, format_name", [*((family, "onnx") for family in FAMILIES), ("data2vec", "executorch")])
def test_exports_give_the_same_logits(family: str, format_name: str, tmp_path: Path) -> None:
    model = made(tmp_path / "m", family, **SMALL)[2]
    exported = export_model(model, tmp_path / "artifact", format=format_name, max_seconds=8)
    assert max(each.relative for each in exported.artifact.manifest.parity) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bitstream_describes_the_network(models: dict[str, Made], family: str, tmp_path: Path, waveform: np.ndarray) -> None:
    model = models[family][2]
    compress(model, "ectcq", {"bits": 7}, tmp_path / "m.asrb")
    header = read_header(tmp_path / "m.asrb")
    assert header.network == model.case.network and header.network is not None
    received = decompress(tmp_path / "m.asrb")
    assert received.case.network == model.case.network and received.state().keys() == model.state().keys()
    with torch.inference_mode():
        first, second = (each.recogniser(torch.from_numpy(waveform)[None]) for each in (model, received))
    assert float((first - second).norm() / first.norm()) < 0.2


def test_descriptions_without_a_variant_stay_as_they_were_and_false_ones_are_refused(models: dict[str, Made]) -> None:
    network = models["wavlm"][2].case.network
    assert network is not None and network.architecture is not None
    plain = network.architecture.model_dump(mode="json")
    variant = plain.pop("variant")
    assert "variant" not in Architecture.model_validate(plain).model_dump_json()
    conformer = {"kind": "conformer", "hidden_act": "gelu", "conv_depthwise_kernel_size": 5, "position_embeddings_type": None}
    described = network.model_dump()
    Network.model_validate(described | {"architecture": plain | {"variant": conformer}})
    false: list[dict[str, Any]] = [
        variant | {"kind": "wavelm"},
        variant | {"num_buckets": 10**9},
        variant | {"num_buckets": 4000, "max_bucket_distance": 3},
        variant | {"more": 1},
        {"kind": "data2vec", "num_conv_pos_embeddings": 10**6},
        {"kind": "adapters", "adapter_attn_dim": 10**6},
        conformer | {"conv_depthwise_kernel_size": 4},
        conformer | {"conv_depthwise_kernel_size": 10**5 + 1},
    ]
    for each in false:
        with pytest.raises(ValidationError):
            Network.model_validate(described | {"architecture": plain | {"variant": each}})


@pytest.mark.parametrize(
    "family, changes, sentence",
    [
        ("wavlm", {"hidden_act": "relu"}, "hidden_act is 'relu'. For WavLMForCTC, only 'gelu' is supported"),
        ("wavlm", {"num_buckets": 2}, "num_buckets: "),
        ("wavlm", {"max_bucket_distance": None}, "max_bucket_distance is missing"),
        ("wavlm", {"add_adapter": True}, "add_adapter is True"),
        ("data2vec", {"num_conv_pos_embeddings": 0}, "num_conv_pos_embeddings: "),
        ("conformer", {"hidden_act": "relu"}, "hidden_act: "),
        ("conformer", {"position_embeddings_type": "absolute"}, "position_embeddings_type: "),
        ("conformer", {"conv_depthwise_kernel_size": 8}, "conv_depthwise_kernel_size 8 is not odd"),
        ("mms", {"adapter_attn_dim": -1}, "adapter_attn_dim: "),
    ],
)
def test_what_is_not_supported_is_named(
    models: dict[str, Made], family: str, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(models[family][0], tmp_path / "m")
    change(folder / "config.json", **changes)
    with pytest.raises(AsrDeployError, match=sentence) as caught:
        load_model(str(folder))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_batch_norm_that_does_not_fit_is_refused(models: dict[str, Made], tmp_path: Path) -> None:
    folder = shutil.copytree(models["conformer"][0], tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    del state["wav2vec2_conformer.encoder.layers.0.conv_module.batch_norm.running_var"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(AsrDeployError, match="conv_module"):
        load_model(str(folder))


# Languages


@pytest.fixture(scope="module")
def mms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three languages. Tests must not change it."""
    return write_mms(tmp_path_factory.mktemp("mms") / "mms-tiny")


@pytest.mark.parametrize("language", LETTERS)
def test_a_language_has_its_adapter_and_its_vocabulary(mms: Path, language: str, waveform: np.ndarray) -> None:
    ours = load_model(f"{mms}:{language}")
    width = len(LETTERS[language])
    theirs = Wav2Vec2ForCTC.from_pretrained(mms, target_lang=language, ignore_mismatched_sizes=True).eval()
    assert difference(theirs, ours, waveform, LETTERS[language], width) < 1e-4
    assert ours.case.name == f"mms-tiny-{language}" and len(ours.case.labels) == width
    assert ("Ä" in ours.case.labels) == (language == "deu") and ("İ" in ours.case.labels) == (language == "tur")


def test_the_default_language_is_the_tokenizers(mms: Path) -> None:
    default = load_model(str(mms))
    assert default.case.name == "mms-tiny-eng" and default.weights == load_model(f"{mms}:eng").weights
    assert default.weights != load_model(f"{mms}:deu").weights


def test_a_language_goes_where_a_model_goes(mms: Path, cli: Callable[..., Completed]) -> None:
    done = cli("testcases", "--model", f"{mms}:deu")
    assert done.returncode == 0 and "mms-tiny-deu" in done.stdout and "Ä Ö Ü" in done.stdout
    assert open_transcriber(f"{mms}:deu").labels == load_model(f"{mms}:deu").case.labels


def test_casing_knows_both_codes_of_a_language() -> None:
    assert upper("ılık iz", "tur") == upper("ılık iz", "tr") == "ILIK İZ"


def _without_adapter(folder: Path) -> None:
    (folder / "adapter.deu.safetensors").unlink()


def _without_adapters(folder: Path) -> None:
    for each in folder.glob("adapter.*"):
        each.unlink()


def _of_one_layer(folder: Path) -> None:
    adapter = load_file(folder / "adapter.deu.safetensors")
    save_file({key: each for key, each in adapter.items() if ".layers.1." not in key}, folder / "adapter.deu.safetensors")


def _whole_model(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "adapter.deu.safetensors")


@pytest.mark.parametrize(
    "language, damage, sentence",
    [
        ("dee", None, "has no language “dee”. The most similar of its 3: deu"),
        ("../x", None, "does not exist"),
        ("deu", _without_adapter, "has no adapter.deu.safetensors. Add it, or select a language whose adapter is there: "),
        ("deu", _without_adapters, "has no adapter.deu.safetensors, and its own weights are for eng. Add the adapter."),
        ("deu", _of_one_layer, "has adapters of 1 layers, but the model has 2"),
        ("deu", _whole_model, "is not an adapter of a language: it contains 'wav2vec2"),
        ("deu", lambda folder: (folder / "adapter.deu.safetensors").write_bytes(b"cut"), "cannot be read as weights"),
        (
            "deu",
            lambda folder: (folder / "vocab.json").write_text(json.dumps({"[PAD]": 0, "a": 1})),
            "has no language “deu”: .*one language",
        ),
    ],
)
def test_a_language_that_cannot_be_had(
    mms: Path, language: str, damage: Callable[[Path], object] | None, sentence: str, tmp_path: Path
) -> None:
    folder = mms if damage is None else shutil.copytree(mms, tmp_path / "m")
    if damage is not None:
        damage(folder)
    with pytest.raises(AsrDeployError, match=sentence) as caught:
        load_model(f"{folder}:{language}")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
