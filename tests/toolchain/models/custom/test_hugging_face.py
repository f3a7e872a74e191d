"""Hugging Face folders: logits and text equal those of transformers, invalid folders are refused, and three commands give a report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2FeatureExtractor, logging

from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from exporters.export import compare
from tests.helpers import Completed, complaint
from tests.toolchain.models.custom.hugging_face_folders import (
    KINDS,
    OLD_NORMS,
    VOCABULARY,
    WIDTH,
    change,
    renamed,
    tokenizer_of,
    write_bundled,
    write_folder,
)
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.data.datasets import Utterance
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.custom.hugging_face import EPSILON, their_name, torchaudio_name
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model
from toolchain.scenario.points import FEWEST_IN_RANGE, read_curve

# Our order of the outputs: the blank first.
ORDER = [VOCABULARY.index("[PAD]"), *(index for index in range(WIDTH) if VOCABULARY[index : index + 1] != ["[PAD]"])]
logging.set_verbosity_error()
logging.disable_progress_bar()


@pytest.fixture(scope="session")
def bundled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model as a Hugging Face folder, which tests must not change."""
    folder = tmp_path_factory.mktemp("hf") / "my-digits"
    write_bundled(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a Hugging Face folder of a tiny random model, which tests may damage."""
    write_folder(tmp_path / "tiny")
    return tmp_path / "tiny"


@torch.inference_mode()
def logits_of(model: AnchorModel, waveform: np.ndarray) -> np.ndarray:
    found: np.ndarray = model.recogniser(torch.from_numpy(waveform)[None])[0].numpy()
    return found


@torch.inference_mode()
def theirs(model: Any, waveform: np.ndarray, *, do_normalize: bool) -> np.ndarray:
    """Return the logits of transformers, in our order of the outputs."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    values = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
    found: np.ndarray = model(values).logits[0].numpy()[:, ORDER]
    return found


@pytest.mark.parametrize("do_normalize", [False, True])
@pytest.mark.parametrize("norm, stable, bias", [("group", False, False), ("layer", True, True), ("layer", False, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(
    tmp_path: Path, waveform: np.ndarray, kind: str, norm: str, stable: bool, bias: bool, do_normalize: bool
) -> None:
    made = write_folder(
        tmp_path / "m", kind, do_normalize=do_normalize, feat_extract_norm=norm, do_stable_layer_norm=stable, conv_bias=bias
    )
    model = load_model(str(tmp_path / "m"))
    expected = theirs(made, waveform, do_normalize=do_normalize)
    found = logits_of(model, waveform)
    assert found.shape == expected.shape and found.shape[0] > 100
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()  # relative to the largest logit
    assert np.abs(expected).max() > 0.1
    assert model.case.anchor.normalised_waveform is do_normalize and (model.case.anchor.epsilon == EPSILON) is do_normalize
    trained_alone = made.get_parameter(f"{KINDS[kind][2]}masked_spec_embed").numel()
    assert model.case.anchor.num_param == sum(each.numel() for each in made.parameters()) - trained_alone


def test_the_normalisation_of_a_quiet_recording_is_theirs(tmp_path: Path, waveform: np.ndarray) -> None:
    made = write_folder(tmp_path / "m")
    quiet = (waveform * np.float32(2e-3)).astype(np.float32)  # its variance is about torch's epsilon
    expected = theirs(made, quiet, do_normalize=True)
    assert np.abs(logits_of(load_model(str(tmp_path / "m")), quiet) - expected).max() < 1e-4 * np.abs(expected).max()


def test_older_and_newer_files_of_the_same_weights_are_one_model(folder: Path, tmp_path: Path, waveform: np.ndarray) -> None:
    expected = load_model(str(folder))
    others = {name: tmp_path / name / "tiny" for name in ("norms", "shards", "pickled", "half")}
    write_folder(others["shards"], shard="40KB")
    assert len(list(others["shards"].glob("model-*.safetensors"))) > 2
    for name in ("norms", "pickled", "half"):
        shutil.copytree(folder, others[name])
    renamed(others["norms"], OLD_NORMS)
    assert any(name.endswith("weight_g") for name in load_file(others["norms"] / "model.safetensors"))
    torch.save(load_file(folder / "model.safetensors"), others["pickled"] / "pytorch_model.bin")
    (others["pickled"] / "model.safetensors").unlink()
    for name in ("norms", "shards", "pickled"):
        model = load_model(str(others[name]))
        assert model.weights == expected.weights and model.case == expected.case, name
        assert all(torch.equal(model.state()[key], each) for key, each in expected.state().items())
    halves = {name: each.half() for name, each in load_file(folder / "model.safetensors").items()}
    save_file(halves, others["half"] / "model.safetensors")
    model = load_model(str(others["half"]))
    assert {each.dtype for each in model.state().values()} == {torch.float32} and model.weights != expected.weights
    assert np.abs(logits_of(model, waveform) - logits_of(expected, waveform)).max() < 0.01


def test_what_decides_the_transcripts_is_in_the_identity(folder: Path) -> None:
    first = load_model(str(folder))
    assert first.weights.startswith("own, sha256 ") and load_model(str(folder)).weights == first.weights
    change(folder / "processor_config.json", feature_extractor={"do_normalize": False})
    assert load_model(str(folder)).weights != first.weights


def test_names_of_weights_go_there_and_back(folder: Path) -> None:
    for name in load_file(folder / "model.safetensors"):
        ours = torchaudio_name(name, "wav2vec2.")
        assert their_name(ours, "wav2vec2.") == name
    assert torchaudio_name("somebody.else", "wav2vec2.") == their_name("somebody.else", "wav2vec2.") == "somebody.else"


# Labels


def test_the_label_selector_gives_the_text_of_their_greedy_decoding(folder: Path) -> None:
    labels, tokenizer, random = load_model(str(folder)).case.labels, tokenizer_of(folder), np.random.default_rng(0)
    assert labels[0] == "[PAD]" and labels[1] == "|" and labels[2] == "A" and labels[-3:] == ("[UNK]", "", "")
    for _ in range(200):
        logits = random.normal(size=(int(random.integers(1, 60)), WIDTH)).astype(np.float32)
        logits = np.repeat(logits, random.integers(1, 4, len(logits)), axis=0)
        expected = tokenizer.decode(logits.argmax(1))
        # transformers prints the tokens that begin and end a sequence; we do not. Spaces at the ends are ignored.
        expected = expected.replace("<s>", "").replace("</s>", "").upper()
        assert select_labels(logits[:, ORDER], labels).split() == expected.split()


def test_a_tokenizer_of_another_spelling(folder: Path) -> None:
    vocabulary = {{"|": " ", "[PAD]": "<pad>", "[UNK]": "<unk>"}.get(token, token): index for index, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "added_tokens.json").unlink()
    objects = {name: {"content": token, "lstrip": False} for name, token in (("pad_token", "<pad>"), ("bos_token", "<s>"))}
    change(folder / "tokenizer_config.json", **objects, unk_token="<unk>", word_delimiter_token=" ")
    assert load_model(str(folder)).case.labels[:3] == ("<pad>", "|", "A")
    # The older file of the feature extractor, and its defaults if there is no file.
    (folder / "processor_config.json").rename(folder / "preprocessor_config.json")
    change(folder / "preprocessor_config.json", feature_extractor=None, do_normalize=False, sampling_rate=8_000)
    assert (load_model(str(folder)).case.sample_rate, load_model(str(folder)).case.anchor.normalised_waveform) == (8_000, False)
    (folder / "preprocessor_config.json").unlink()
    assert (load_model(str(folder)).case.sample_rate, load_model(str(folder)).case.anchor.normalised_waveform) == (16_000, True)


def test_one_of_several_languages(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"eng": vocabulary, "deu": {}}))
    with pytest.raises(AsrDeployError, match=r"is for 2 languages\. Select one, such as .*tiny:deu, or with target_lang"):
        load_model(str(folder))
    change(folder / "tokenizer_config.json", target_lang="eng")
    assert load_model(str(folder)).case.labels[1:4] == ("|", "A", "B")


# Refusals

Damage = Callable[[Path], object]


def weights(damage: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def change_weights(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        damage(state)
        save_file(state, folder / "model.safetensors")

    return change_weights


def config(**changes: Any) -> Damage:
    return lambda folder: change(folder / "config.json", **changes)


def vocabulary(tokens: dict[str, object]) -> Damage:
    return lambda folder: (folder / "vocab.json").write_text(json.dumps({**json.loads((folder / "vocab.json").read_text()), **tokens}))


def tokenizer(**changes: Any) -> Damage:
    return lambda folder: change(folder / "tokenizer_config.json", **changes)


REFUSED: list[tuple[Damage, str]] = [
    (
        config(architectures=["WhisperForConditionalGeneration"]),
        "architectures is .*Whisper.*of class Wav2Vec2ForCTC, HubertForCTC, .* or Wav2Vec2ConformerForCTC",
    ),
    (config(architectures=None), "architectures is"),
    (config(hidden_act="relu"), "hidden_act is 'relu'. For Wav2Vec2ForCTC, only 'gelu' is supported"),
    (config(feat_extract_activation="swish"), "feat_extract_activation is 'swish'"),
    (config(layer_norm_eps=1e-6), "layer_norm_eps is 1e-06"),
    (config(add_adapter=True), "add_adapter is True"),
    (config(adapter_attn_dim=16), "adapter_attn_dim requires .*do_stable_layer_norm"),
    (config(feat_proj_layer_norm=False), "feat_proj_layer_norm is False"),
    (config(conv_pos_batch_norm=True), "conv_pos_batch_norm is True"),
    (config(feat_extract_norm="batch"), "feat_extract_norm: "),
    (config(num_attention_heads=5), "config.json: .*encoder_num_heads"),
    (config(hidden_size="wide"), "hidden_size: "),
    (config(hidden_size=None), "hidden_size is missing"),
    (config(conv_stride=[5, 4]), "conv_dim, conv_kernel, conv_stride must be lists of equal length"),
    (config(conv_stride=[5, 4, 0]), "conv_dim, conv_kernel, conv_stride: "),
    (config(vocab_size=WIDTH + 1), f"has {WIDTH} outputs, but vocab_size in config.json is {WIDTH + 1}"),
    (config(vocab_size=20), "the network has 20 outputs .* 30 tokens. “t” \\(index 20\\) has no output"),
    (config(vocab_size="many"), "vocab_size is 'many'"),
    (config(vocab_size=WIDTH - 1), f"has {WIDTH} outputs, but vocab_size in config.json is {WIDTH - 1}"),
    (config(pad_token_id=0), "pad_token_id in config.json is 0, but the tokenizer's pad_token “\\[PAD\\]” has the index 29"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json does not contain a JSON object"),
    (lambda folder: (folder / "config.json").unlink(), "is not a Hugging Face folder: it has no config.json"),
    (lambda folder: (folder / "vocab.json").unlink(), "has no vocab.json"),
    (lambda folder: (folder / "vocab.json").write_text("a, b, c"), "vocab.json is not valid JSON"),
    (vocabulary({"a": 2}), "the token “b” has the index 2"),
    (vocabulary({"a": "one"}), "the token “a” has the index 'one'"),
    (vocabulary({"ä": 400}), "“ä” \\(index 400\\) has no output"),
    (tokenizer(pad_token="<nothing>"), "vocab.json does not contain the tokenizer's pad_token “<nothing>”"),
    (tokenizer(added_tokens_decoder={"1" * 5000: {"content": "<x>"}}, tokenizer_class="W"), "tokenizer_class is W"),
    (tokenizer(tokenizer_class="WhisperTokenizer"), "tokenizer_class is WhisperTokenizer"),
    (
        lambda folder: change(
            folder / "processor_config.json", feature_extractor={"feature_extractor_type": "SeamlessM4TFeatureExtractor"}
        ),
        "feature_extractor_type is SeamlessM4TFeatureExtractor",
    ),
    (
        lambda folder: change(folder / "processor_config.json", feature_extractor={"sampling_rate": 3}),
        "the sample rate 3 is not valid",
    ),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no weights: it contains neither model.safetensors nor pytorch_model.bin"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "cannot be read as weights"),
    (weights(lambda state: state.pop("lm_head.bias")), "lm_head.bias is missing"),
    (
        weights(lambda state: state.pop("wav2vec2.encoder.layers.1.attention.q_proj.weight")),
        r"wav2vec2\.encoder\.layers\.1\.attention\.q_proj\.weight is missing",
    ),
    (weights(lambda state: state.update({"wav2vec2.adapter.x": torch.ones(1)})), "wav2vec2.adapter.x is unknown"),
    (weights(lambda state: state["lm_head.weight"].fill_(torch.nan)), "NaN or infinite weights, first in lm_head.weight"),
    (
        weights(lambda state: state.update({"wav2vec2.feature_projection.projection.weight": torch.ones(3, 3)})),
        r"size mismatch for wav2vec2\.feature_projection\.projection\.weight",
    ),
]


@pytest.mark.parametrize("damage, sentence", REFUSED, ids=range(len(REFUSED)))
def test_a_folder_that_does_not_fit_is_refused_with_the_reason(folder: Path, damage: Damage, sentence: str) -> None:
    damage(folder)
    with pytest.raises(AsrDeployError, match=sentence) as caught:
        load_model(str(folder))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({"weight_map": {"lm_head.bias": "../outside.safetensors"}}, "which is not in the folder"),
        ({"weight_map": {"lm_head.bias": "model-00001-of-00002.safetensors"}}, "which is not in the folder"),
        ({"weight_map": {}}, "has no weight_map"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_of_weights_that_does_not_fit(folder: Path, content: dict[str, Any], sentence: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(AsrDeployError, match=sentence):
        load_model(str(folder))


# The whole way


def test_the_bundled_weights_hear_the_same_in_their_form(bundled_folder: Path, tiny: AnchorModel, speech: tuple[Utterance, ...]) -> None:
    model = load_model(str(bundled_folder))
    ours, theirs_ = TorchEngine(model), TorchEngine(tiny)
    for each in speech:
        waveform = read_audio(each.path, 16_000)
        heard = select_labels(ours.logits(waveform), model.case.labels)
        assert heard == select_labels(theirs_.logits(waveform), tiny.case.labels)
    assert (model.case.name, model.case.number) == ("my-digits", None)


def test_a_normalised_waveform_and_its_epsilon_are_in_the_export(tmp_path: Path, waveform: np.ndarray) -> None:
    write_folder(tmp_path / "m")
    model = load_model(str(tmp_path / "m"))
    artifact, _ = export_model(model, tmp_path / "artifact")
    assert artifact.manifest.normalised_waveform and artifact.manifest.labels == model.case.labels
    assert artifact.manifest.rewrites == ("convolutions_as_products", "positional_as_products", "merged_attention")
    transcriber = open_transcriber(str(artifact.folder))
    quiet = (waveform * np.float32(2e-3)).astype(np.float32)
    assert compare(model.recogniser, transcriber.running, quiet, 16_000).relative < 1e-4
    lines = (tmp_path / "artifact" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "<blk> 0" and lines[1] == "▁ 1" and lines[-1] == f"<{WIDTH - 1}> {WIDTH - 1}" and len(lines) == WIDTH


def test_three_commands_from_a_folder_to_a_report_with_a_curve(bundled_folder: Path, tmp_path: Path, cli: Callable[..., Completed]) -> None:
    for codec, rates in (("uniform", "A"), ("palette", "B")):
        done = cli("sweep", "--model", bundled_folder, "--codec", codec, "--limit", 12, "-o", rates)
        assert done.returncode == 0, done.stderr
        curve = read_curve(tmp_path / rates)
        assert curve.test_case == "my-digits" and len(curve.in_range) >= FEWEST_IN_RANGE and curve.anchor_size_bits == 32 * 1_525_375
    done = cli("report", "A", "B", "-o", "R")
    assert done.returncode == 0 and "my-digits" in done.stdout
    assert {"report.html", "curve.png", "points.csv"} <= {each.name for each in (tmp_path / "R").iterdir()}


def test_the_check_on_the_command_line(bundled_folder: Path, folder: Path, cli: Callable[..., Completed]) -> None:
    done = cli("testcases", "--model", bundled_folder)
    assert done.returncode == 0 and "1,525,375" in done.stdout and "own, sha256" in done.stdout and "[UNK]" in done.stdout
    (folder / "vocab.json").unlink()
    assert "has no vocab.json" in complaint(cli("testcases", "--model", folder))
