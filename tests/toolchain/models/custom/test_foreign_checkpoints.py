"""Checkpoints of other trainers: what is no weight of the model is left out and told, and a foreign weight is refused by name."""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from tests.toolchain.models.custom.hugging_face_folders import OLD_NORMS, VOCABULARY, change, renamed, write_bundled, write_folder
from tests.toolchain.models.damaged_weights import bundled, refused
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.compression.bitstreams import compress, decompress
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.custom.hugging_face import their_name
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import LABELS
from toolchain.scenario.exporting import export_model

State = dict[str, Tensor]
TOML = f'architecture = "DIGITS_ASR_TINY"\nlabels = {json.dumps(LABELS)}\nsample_rate = 16000\n'


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: each for name, each in state.items()}


def older(state: Mapping[str, Tensor]) -> State:
    """Return a state dict with the older names of weight norm."""
    found = dict(state)
    for new, old in OLD_NORMS.items():
        found = {name.replace(new, old): each for name, each in found.items()}
    return found


def in_hugging_faces_names(state: Mapping[str, Tensor], prefix: str = "wav2vec2.") -> State:
    return {their_name(name, prefix): each for name, each in state.items()}


def compiled_inside(state: Mapping[str, Tensor]) -> State:
    return {name.replace("encoder.", "encoder._orig_mod.", 1): each for name, each in state.items()}


FORMS: dict[str, tuple[Callable[[State], Any], tuple[str, ...]]] = {
    "DataParallel": (lambda state: prefixed("module.", state), ("“module.” is removed",)),
    "torch.compile": (lambda state: prefixed("_orig_mod.", state), ("“_orig_mod.” is removed",)),
    "torch.compile of a part": (compiled_inside, ("“_orig_mod.” is removed",)),
    "both": (lambda state: prefixed("module._orig_mod.", state), ("“module.”, “_orig_mod.” is removed",)),
    "Lightning": (
        lambda state: {"epoch": 3, "state_dict": prefixed("model.", state), "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}]},
        ("the weights in “state_dict” are used", "“model.” is removed"),
    ),
    "nested twice": (lambda state: {"model": {"model_state_dict": state}}, ("“model”/“model_state_dict”",)),
    "an attribute of any name": (lambda state: prefixed("asr.acoustic.", state), ("“asr.acoustic.” is removed",)),
    "a step beside the weights": (lambda state: {**state, "step": 3}, ("“step” is no tensor and is left out",)),
    "older weight norm": (older, ("weight_g and weight_v are read as the newer form of weight norm",)),
    "an average": (lambda state: {"n_averaged": torch.tensor(9), **prefixed("module.", state)}, ("“n_averaged” is left out",)),
    "TorchAudio's pre-training": (
        lambda state: (
            prefixed("wav2vec2.", state)
            | {"mask_generator.mask_embedding": torch.ones(160), "logit_generator.label_embeddings": torch.ones(5, 4)}
        ),
        ("“wav2vec2.” is removed", "“mask_generator.mask_embedding”, “logit_generator.label_embeddings” is left out"),
    ),
    "Hugging Face": (in_hugging_faces_names, ("Hugging Face's names of the weights are replaced by TorchAudio's",)),
    "Hugging Face of HuBERT": (
        lambda state: prefixed("module.", in_hugging_faces_names(older(state), "hubert.")),
        ("“module.” is removed",),
    ),
    "Hugging Face without a prefix": (lambda state: in_hugging_faces_names(state, ""), ("Hugging Face's names",)),
    "Hugging Face, old": (
        lambda state: (
            in_hugging_faces_names(older(state))
            | {"wav2vec2.mask_time_emb_vector": torch.ones(160), "wav2vec2.masked_spec_embed": torch.ones(160)}
        ),
        ("“wav2vec2.mask_time_emb_vector”, “wav2vec2.masked_spec_embed” is left out, because only training uses it",),
    ),
    "Hugging Face's pre-training": (
        lambda state: (
            in_hugging_faces_names(state)
            | {"quantizer.codevectors": torch.ones(1, 4, 2), "project_q.weight": torch.ones(2, 2), "project_hid.bias": torch.ones(2)}
        ),
        ("“quantizer.codevectors”, “project_q.weight”, “project_hid.bias” is left out",),
    ),
    "fairseq's leftovers": (
        lambda state: {
            **state,
            "mask_emb": torch.ones(160),
            "label_embs_concat": torch.ones(5, 4),
            "final_proj.weight": torch.ones(4, 160),
        },
        ("“mask_emb”, “label_embs_concat”, “final_proj.weight” is left out",),
    ),
}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """Return the TOML file of a checkpoint mine.pt with the bundled weights."""
    torch.save(bundled(), tmp_path / "mine.pt")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    return tmp_path / "mine.toml"


def same(model: AnchorModel, other: AnchorModel) -> bool:
    return (
        all(torch.equal(other.state()[name], each) for name, each in model.state().items()) and model.state().keys() == other.state().keys()
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_another_trainer_is_the_same_model_and_what_was_changed_is_said_once(
    form: str, described: Path, tiny: AnchorModel, caplog: pytest.LogCaptureFixture
) -> None:
    wrap, told = FORMS[form]
    weights = described.with_suffix(".pt")
    torch.save(wrap(bundled()), weights)
    for _ in range(2):
        assert same(load_model("0", str(weights)), tiny)  # an anchor with --weights
        assert same(load_model(str(described)), tiny)
    said = [each.message for each in caplog.records if str(weights) in each.message and "labels" not in each.message]
    assert len(said) == 1 and all(part in said[0] for part in told) and said[0].endswith(".")


def test_the_bundled_weights_need_no_remark(described: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model("0")
    load_model(str(described))
    assert caplog.records == []


def test_a_hugging_face_folder_of_another_trainer(tmp_path: Path, tiny: AnchorModel, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "my-digits"
    write_bundled(folder)
    expected = load_model(str(folder))
    renamed(folder, OLD_NORMS)
    assert load_model(str(folder)).weights == expected.weights and caplog.records == []  # as transformers writes it
    state = load_file(folder / "model.safetensors")
    state = prefixed("module._orig_mod.", state) | {"module.quantizer.codevectors": torch.ones(1, 4, 2)}
    save_file(state, folder / "model.safetensors")
    assert load_model(str(folder)).weights == expected.weights
    (said,) = [each.message for each in caplog.records]
    assert "“module.”, “_orig_mod.” is removed" in said and "“module.quantizer.codevectors” is left out" in said


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_said(kind: torch.dtype, described: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({name: each.to(kind) for name, each in bundled().items()}, described.with_suffix(".pt"))
    model = load_model(str(described))
    assert {each.dtype for each in model.state().values()} == {torch.float32}
    assert f"weights in {str(kind).removeprefix('torch.')} are converted to float32" in caplog.text


@pytest.mark.parametrize(
    "wrap, sentence",
    [
        (lambda state: prefixed("module.", state) | {"module.colour": torch.ones(1)}, "module.colour is unknown (1 names differ)"),
        (lambda state: prefixed("model.", state) | {"criterion.weight": torch.ones(1)}, "criterion.weight is unknown (1 names differ)"),
        (lambda state: in_hugging_faces_names(state) | {"wav2vec2.adapter.x": torch.ones(1)}, "wav2vec2.adapter.x is unknown"),
        (lambda state: prefixed("module.", {key: each for key, each in state.items() if key != "aux.bias"}), "module.aux.bias is missing"),
        (lambda state: prefixed("student.", state) | prefixed("teacher.", state), "contains several models, with the prefixes “student.”"),
        (lambda state: prefixed("module.", state) | state, "several models, with no prefix and with the prefix “module.”."),
        (lambda state: {"model": state, "state_dict": state}, "contains several sets of weights: “state_dict”, “model”"),
        (lambda state: prefixed("m.", state) | {"m._orig_mod.aux.bias": state["aux.bias"]}, "the same weight twice"),
        (lambda state: {**state, "aux.weight": state["aux.weight"].to(torch.int8)}, "aux.weight is of type int8"),
        (lambda state: {**state, "aux.weight": state["aux.weight"].to_sparse()}, "aux.weight is sparse or quantised"),
        (lambda state: {"w2v_encoder.w2v_model.feature_extractor.conv_layers.0.0.weight": torch.ones(1)}, "has fairseq's names"),
        (lambda state: {"state": {}, "param_groups": [3]}, "is not a state dict"),
        (
            lambda state: {"state_dict": state, "hyper_parameters": argparse.Namespace(rate=1)},
            "contains Python objects (argparse.Namespace) besides tensors, and reading those could run code from the file. Save",
        ),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_foreign_is_refused_by_its_name(wrap: Callable[[State], Any], sentence: str, described: Path) -> None:
    torch.save(wrap(bundled()), described.with_suffix(".pt"))
    assert sentence in refused(str(described))
    assert sentence in refused("0", described.with_suffix(".pt"))


def test_weights_of_a_hugging_face_folder_for_an_anchor_must_have_its_labels(tmp_path: Path, tiny: AnchorModel) -> None:
    write_bundled(tmp_path / "other")
    assert "has other labels than DIGITS_ASR_TINY, or another order" in refused("0", tmp_path / "other" / "model.safetensors")
    folder = tmp_path / "same"
    shutil.copytree(tmp_path / "other", folder)
    save_file(in_hugging_faces_names(with_dictionary(bundled())), folder / "model.safetensors")
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *LABELS[1:]]  # as in facebook/wav2vec2-base-960h
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    change(folder / "config.json", vocab_size=32, pad_token_id=0)
    change(folder / "tokenizer_config.json", pad_token="<pad>", unk_token="<unk>", added_tokens_decoder=None)
    (folder / "added_tokens.json").unlink(missing_ok=True)
    assert same(load_model("0", str(folder / "model.safetensors")), tiny)


# Outputs without a label


def padded(state: State, outputs: int) -> State:
    """Return weights whose last outputs have no label and would win every frame."""
    more = outputs - len(LABELS)
    rows = {"aux.weight": torch.randn(more, 160, generator=torch.Generator().manual_seed(0)), "aux.bias": torch.full((more,), 1e4)}
    return state | {name: torch.cat([state[name], each]) for name, each in rows.items()}


def with_dictionary(state: State) -> State:
    """Return weights with the outputs that fairseq's dictionary has after the blank, and which would win every frame."""
    rows = {"aux.weight": torch.randn(3, 160, generator=torch.Generator().manual_seed(0)), "aux.bias": torch.full((3,), 1e4)}
    return state | {name: torch.cat([state[name][:1], each, state[name][1:]]) for name, each in rows.items()}


def test_outputs_that_no_token_names_are_never_selected_and_are_not_sent(
    tmp_path: Path, waveform: np.ndarray, tiny: AnchorModel, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "padded"
    write_bundled(folder)
    expected = load_model(str(folder))
    state = load_file(folder / "model.safetensors")
    # A gap in the middle, and outputs padded to a multiple of eight; the unnamed ones would win every frame.
    unnamed = [5, *range(33, 40)]
    named = [index for index in range(40) if index not in unnamed]
    for name in ("lm_head.weight", "lm_head.bias"):
        rows = torch.full((40, *state[name].shape[1:]), 1e3)
        rows[named] = state[name]
        state[name] = rows
    save_file(state, folder / "model.safetensors")
    (folder / "vocab.json").write_text(json.dumps({token: named[index] for index, token in enumerate(VOCABULARY)}))
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": named[30], "</s>": named[31], "<beyond>": 40}))
    change(folder / "config.json", vocab_size=40, pad_token_id=named[VOCABULARY.index("[PAD]")])
    change(folder / "tokenizer_config.json", added_tokens_decoder=None)
    model = load_model(str(folder))
    load_model(str(folder))
    (said,) = [each.message for each in caplog.records]
    assert "has 40 outputs, but 32 labels: outputs 5, 33-39 have no label" in said
    assert model.case.labels == expected.case.labels and model.case.anchor.num_param == expected.case.anchor.num_param
    assert same(model, expected)
    heard = select_labels(TorchEngine(model).logits(waveform), model.case.labels)
    assert heard == select_labels(TorchEngine(tiny).logits(waveform), LABELS) != ""
    compress(model, "fp16", {}, tmp_path / "own.asrb")
    assert decompress(tmp_path / "own.asrb").case == model.case
    artifact, _ = export_model(model, tmp_path / "artifact")
    assert artifact.manifest.labels == model.case.labels and artifact.manifest.parameters == model.case.anchor.num_param


def test_a_described_checkpoint_whose_outputs_are_padded_to_a_multiple(
    described: Path, tiny: AnchorModel, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(padded(bundled(), 64), described.with_suffix(".pt"))
    for _ in range(2):
        assert same(load_model(str(described)), tiny)
    (said,) = [each.message for each in caplog.records]
    assert "has 64 outputs, but 29 labels: outputs 29-63 have no label, so the model is used without them." in said
    torch.save(padded(bundled(), 40), described.with_suffix(".pt"))  # not the next multiple of anything
    assert "or list the outputs without a label, such as unused_outputs = [29, 30, 31, 32]" in refused(str(described))


def test_three_outputs_more_are_fairseqs_or_padding_and_weights_or_the_user_tell_which(
    described: Path, tiny: AnchorModel, caplog: pytest.LogCaptureFixture
) -> None:
    weights = described.with_suffix(".pt")
    torch.save(with_dictionary(bundled()), weights)
    assert "such as unused_outputs = [29, 30, 31]" in refused(str(described))
    described.write_text(TOML + "unused_outputs = [1, 2, 3]\n", encoding="utf-8")
    assert same(load_model(str(described)), tiny)
    assert caplog.records == []  # the user says it
    assert same(load_model("0", str(weights)), tiny)
    assert "outputs 1-3 have no label" in caplog.text  # fairseq's, as in TorchAudio's published form
    caplog.clear()
    state = padded(bundled(), 32)
    state["aux.weight"][-3:] = 0  # rows that training did not make
    torch.save(state, weights)
    described.write_text(TOML, encoding="utf-8")
    assert same(load_model(str(described)), tiny) and same(load_model("0", str(weights)), tiny)
    assert "has 32 outputs, but 29 labels: outputs 29-31 have no label" in caplog.text


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("unused_outputs = 3", "unused_outputs is 3. Give a list of indices"),
        ("unused_outputs = [1, 1]", "unused_outputs is [1, 1]"),
        ("unused_outputs = [-1]", "unused_outputs is [-1]"),
        ("unused_outputs = [true]", "unused_outputs is [True]"),
        ("unused_outputs = [3]", "has 29 outputs, but 29 labels and unused_outputs 3. Give one label for each of the other outputs"),
        ("unused_outputs = [29]", "has 29 outputs, but 29 labels and unused_outputs 29"),
    ],
)
def test_unused_outputs_that_do_not_fit(line: str, sentence: str, described: Path) -> None:
    described.write_text(TOML + line + "\n", encoding="utf-8")
    assert sentence in refused(str(described))


def test_more_labels_than_outputs_are_refused(described: Path, tmp_path: Path) -> None:
    described.write_text(TOML.replace('"E"', '"E", "É"'), encoding="utf-8")
    assert "has 29 outputs, but 30 labels. Give one label for each output." in refused(str(described))
    write_folder(tmp_path / "m")
    change(tmp_path / "m" / "config.json", vocab_size=20)
    assert "“t” (index 20) has no output" in refused(str(tmp_path / "m"))


def test_a_suffix_does_not_decide_what_a_file_of_weights_is(described: Path, tiny: AnchorModel, tmp_path: Path) -> None:
    shutil.copy(BUNDLED_WEIGHTS, described.with_suffix(".pt"))
    assert same(load_model(str(described)), tiny) and same(load_model("0", str(described.with_suffix(".pt"))), tiny)
    torch.save(bundled(), tmp_path / "other.safetensors")
    assert same(load_model("0", str(tmp_path / "other.safetensors")), tiny)


def test_a_padded_head_that_is_in_doubt_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = load_file(BUNDLED_WEIGHTS)
    torch.manual_seed(0)
    rows = {"aux.weight": 0.01 * torch.randn(3, state["aux.weight"].shape[1]), "aux.bias": torch.zeros(3)}
    save_file(state | {name: torch.cat([state[name], row]) for name, row in rows.items()}, tmp_path / "padded.safetensors")
    load_model("0", str(tmp_path / "padded.safetensors"))
    assert "padded.safetensors has 32 outputs, but 29 labels: outputs 1-3 have no label, so the model is used without them." in caplog.text


def test_weights_without_values_are_refused(tmp_path: Path) -> None:
    torch.save({name: tensor.to("meta") for name, tensor in load_file(BUNDLED_WEIGHTS).items()}, tmp_path / "meta.pt")
    with pytest.raises(AsrDeployError, match="it was saved from PyTorch's meta device"):
        load_model("0", str(tmp_path / "meta.pt"))
