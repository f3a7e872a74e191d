"""Labels of custom models: capitals of each language, one Unicode form, and labels that become equal."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from device_runner.artifact import open_artifact
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from tests.helpers import artifact_of, convolution
from tests.toolchain.models.custom.hugging_face_folders import change, write_folder
from toolchain.data.casing import upper
from toolchain.models.custom.labels import index_of_blank, our_labels
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import LABELS

TURKISH = ["-", "|", *"abcçdefgğhıijklmnoöprsştuüvyz"]


def text_of(frames: list[int], labels: tuple[str, ...]) -> str:
    return select_labels(np.eye(len(labels), dtype=np.float32)[frames], labels)


def test_turkish_labels_become_turkish_capitals_and_stay_different(caplog: pytest.LogCaptureFixture) -> None:
    labels = our_labels(TURKISH, 0, "turkish")
    assert len(set(labels)) == len(TURKISH) and labels[TURKISH.index("i")] == "İ" and labels[TURKISH.index("ı")] == "I"
    frames = [TURKISH.index(each) for each in "ılık|ile"]
    assert text_of(frames, labels) == upper("ılık ile", "tr") == "ILIK İLE"
    assert caplog.records == []


def test_a_turkish_folder_has_labels_as_its_references(tmp_path: Path) -> None:
    write_folder(tmp_path / "tr")
    tokens = ["|", *TURKISH[2:], "[PAD]"]
    (tmp_path / "tr" / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (tmp_path / "tr" / "added_tokens.json").unlink(missing_ok=True)
    change(tmp_path / "tr" / "config.json", pad_token_id=tokens.index("[PAD]"))
    change(tmp_path / "tr" / "tokenizer_config.json", added_tokens_decoder=None)
    labels = load_model(str(tmp_path / "tr")).case.labels
    assert labels == ("[PAD]", "|", *(upper(each, "tr") for each in TURKISH[2:])) and {"İ", "I"} < set(labels)


def test_other_languages_keep_one_capital_i() -> None:
    assert our_labels(["-", "|", "i", "ß", "é"], 0, "other") == ("-", "|", "I", "SS", "É")


@pytest.mark.parametrize(
    "labels, said",
    [
        (["-", "a", "b", "A"], "“a” and “A” (“A”)"),
        (["-", "σ", "ς"], "“σ” and “ς” (“Σ”)"),
        (["-", unicodedata.normalize("NFD", "é"), "é"], f"“{unicodedata.normalize('NFD', 'é')}” and “é” (“É”)"),
    ],
)
def test_labels_that_become_equal_are_said_once(labels: list[str], said: str, caplog: pytest.LogCaptureFixture) -> None:
    source = f"a model with {labels}"
    first, again = our_labels(labels, 0, source), our_labels(labels, 0, source)
    (record,) = caplog.records
    assert first == again and record.message == (
        f"{source}: labels that differ only in case or accents' encoding give the same text: {said}."
    )
    assert text_of([1, 0, len(labels) - 1], first) == first[1] * 2


def test_labels_in_decomposed_form_are_composed_everywhere(tmp_path: Path) -> None:
    names = [label.replace("E", unicodedata.normalize("NFD", "é")) for label in LABELS]
    names[0], names[1] = unicodedata.normalize("NFD", "ø̈"), unicodedata.normalize("NFD", "ñ")
    shutil.copy(BUNDLED_WEIGHTS, tmp_path / "mine.safetensors")
    (tmp_path / "mine.toml").write_text(
        f'architecture = "DIGITS_ASR_TINY"\nlabels = {json.dumps(names)}\nsample_rate = 16000\nblank = "ø̈"\nword_separator = "ñ"\n',
        encoding="utf-8",
    )
    labels = load_model(str(tmp_path / "mine.toml")).case.labels
    assert labels[1] == "|" and labels[2] == "É" and all(unicodedata.is_normalized("NFC", label) for label in labels[1:])
    assert index_of_blank("é", ["a", unicodedata.normalize("NFD", "é")], "test") == 1


def test_tokens_of_other_tools(caplog: pytest.LogCaptureFixture) -> None:
    assert our_labels(["[PAD]", "<unk>", "[UNK]", "|", "a"], 0, "tokens") == ("[PAD]", "<UNK>", "[UNK]", "|", "A")
    assert caplog.records == []
    assert our_labels(["<pad>", "▁", "▁the", "s"], 0, "pieces") == ("<pad>", "|", "|THE", "S")
    assert caplog.messages == ["pieces: no label contains |, so ▁ stands for the space between words."]
    assert our_labels(["<pad>", "|", "▁"], 0, "both") == ("<pad>", "|", "▁")  # the space is known


def test_a_label_that_is_too_long_in_upper_case_is_refused() -> None:
    with pytest.raises(AsrDeployError, match="is longer than 200 characters in upper case"):
        our_labels(["-", "ß" * 150], 0, "long")


def test_an_artifact_whose_labels_are_not_composed_can_still_be_read(tmp_path: Path) -> None:
    labels = ("-", "|", unicodedata.normalize("NFD", "É"), "ı")
    artifact_of(tmp_path / "older", convolution(width=4), labels=labels, parameters=1600)
    assert open_artifact(tmp_path / "older").manifest.labels == labels
