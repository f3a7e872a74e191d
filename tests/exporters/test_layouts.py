"""Layouts: what other runtimes find around a model, and what a layout cannot hold."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import sherpa_onnx
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from device_runner.artifact import MANIFEST, Artifact, open_artifact
from device_runner.audio import read_audio
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from exporters.layouts import LAYOUTS, Contents, find_layout
from exporters.replacing import other_artifact
from tests.helpers import Completed, complaint, copied
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.data.datasets import Utterance
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.test_cases import LABELS, is_artifact, names_custom_model
from toolchain.scenario.exporting import default_folder, export_model

CONTENTS = Contents("MINE", LABELS, 16_000, 744, True)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def onnx_asr(tiny: AnchorModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "onnx-asr"
    assert export_model(tiny, folder, quant="int8", layout="onnx-asr").artifact.manifest.layout == "onnx-asr"
    return folder


@pytest.fixture(scope="module")
def transformers(tiny: AnchorModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "transformers"
    artifact = export_model(tiny, folder, quant="int8", layout="transformers").artifact
    assert artifact.folder == folder / "onnx"
    return folder


def test_onnx_asr_gets_log_probabilities_and_we_still_our_logits(
    onnx_asr: Path, tiny_int8: Artifact, speech: tuple[Utterance, ...]
) -> None:
    assert files(onnx_asr) == ["config.json", MANIFEST, "model.onnx", "vocab.txt"]
    assert json.loads((onnx_asr / "config.json").read_text()) == {"model_type": "wav2vec2-ctc", "subsampling_factor": 400}
    assert (onnx_asr / "vocab.txt").read_text(encoding="utf-8").splitlines()[:3] == ["<blk> 0", "\u2581 1", "E 2"]
    waveform = read_audio(speech[0].path, 16_000)
    logits = open_engine(open_artifact(onnx_asr)).logits(waveform)
    assert np.array_equal(logits, open_engine(tiny_int8).logits(waveform))
    session = onnxruntime.InferenceSession(onnx_asr / "model.onnx")
    padded = np.pad(waveform, (0, 8000))[None]
    found = session.run(["logprobs"], {"input_values": padded, "input_lengths": np.array([len(waveform)])})[0]
    assert found.shape == (1, *logits.shape) and found.dtype == np.float32
    assert np.allclose(np.exp(found[0]).sum(1), 1, atol=1e-5) and np.array_equal(found[0].argmax(1), logits.argmax(1))


def test_hugging_face_reads_tokenizer_and_feature_extractor(transformers: Path, speech: tuple[Utterance, ...]) -> None:
    assert files(transformers) == [
        "config.json",
        f"onnx/{MANIFEST}",
        "onnx/model_quantized.onnx",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(transformers)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(transformers)
    artifact = open_artifact(transformers / "onnx")
    for utterance in speech:
        waveform = read_audio(utterance.path, 16_000)
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="np")
        assert np.array_equal(inputs["input_values"][0], waveform)
        logits = open_engine(artifact).logits(waveform)
        assert tokenizer.decode(logits.argmax(1)).split() == select_labels(logits, LABELS).split()
    config = json.loads((transformers / "config.json").read_text())
    assert (config["conv_kernel"], config["conv_stride"], config["vocab_size"]) == ([744], [400], len(LABELS))


def test_an_output_without_label_is_named_after_its_index(tmp_path: Path) -> None:
    contents = replace(CONTENTS, labels=("-", "", "|", "A", "A'"))
    LAYOUTS["transformers"].check(contents)
    LAYOUTS["transformers"].write(contents, lambda: 400, tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"<pad>": 0, "<1>": 1, "|": 2, "A": 3, "A'": 4}
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode([3, 3, 0, 3, 2, 1, 4]) == "AA <1>A'"
    decoders = json.loads((tmp_path / "tokenizer.json").read_text())["decoder"]["decoders"]
    assert [(each["pattern"]["String"], each["content"]) for each in decoders[1:]] == [("|", " "), ("<1>", "")]


@pytest.mark.parametrize(
    ("layout", "labels", "reason"),
    [
        ("sherpa-onnx", ("-", "a b"), "cannot hold the label 'a b' of MINE: it contains a space"),
        ("onnx-asr", ("-", "\u2581a"), "it contains a space"),
        ("onnx-asr", ("-", "<blk>"), "this is the name of the blank"),
        ("sherpa-onnx", ("-", "A", "A"), "2 outputs have it"),
        ("sherpa-onnx", ("-", "SIL"), "a meaning of its own"),
        ("sherpa-onnx", ("-", "<0x41>"), "a meaning of its own"),
        ("transformers", ("-", "|A"), "only where it stands alone"),
        ("transformers", ("-", "A", "A"), "2 outputs have it"),
        ("transformers", ("-", "<pad>"), "this is the name of the blank"),
    ],
)
def test_labels_that_a_layout_cannot_hold_are_named(layout: str, labels: tuple[str, ...], reason: str) -> None:
    with pytest.raises(AsrDeployError, match=rf"{reason}.*\. Choose another --layout\.$"):
        LAYOUTS[layout].check(replace(CONTENTS, labels=labels))


@pytest.mark.parametrize("layout", ["sherpa-onnx", "onnx-asr"])
def test_another_sample_rate_is_refused_where_the_client_has_one_only(layout: str) -> None:
    with pytest.raises(AsrDeployError, match=rf"MINE takes audio at 8000 Hz, but {layout} runs such models at 16000 Hz only"):
        LAYOUTS[layout].check(replace(CONTENTS, sample_rate=8000))
    LAYOUTS["transformers"].check(replace(CONTENTS, sample_rate=8000))


def test_sherpa_onnx_warns_of_its_normalisation(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asrdeploy"):
        LAYOUTS["sherpa-onnx"].check(CONTENTS)
        assert caplog.text == ""
        LAYOUTS["sherpa-onnx"].check(replace(CONTENTS, normalised_waveform=False))
    assert "sherpa-onnx normalises every waveform, but MINE was trained without" in caplog.text


def test_unknown_layouts_and_those_of_another_format_are_refused() -> None:
    with pytest.raises(AsrDeployError, match=r"Unknown layout “sherpa”\. Did you mean sherpa-onnx\?"):
        find_layout("sherpa")
    with pytest.raises(AsrDeployError, match=r"The layout transformers holds ONNX files only, not executorch\. Use --format onnx"):
        find_layout("transformers", "executorch")


@pytest.mark.parametrize(
    "names, reason",
    [
        ("onnx-asr,transformers", "each has a config.json of its own"),
        ("sherpa-onnx, onnx-asr", "onnx-asr requires a second output of the model, which the other does not allow"),
    ],
)
def test_layouts_that_contradict_each_other_are_refused(names: str, reason: str) -> None:
    with pytest.raises(AsrDeployError, match=rf"^The layouts .* contradict each other: {reason}\. Export once for each"):
        find_layout(names)


def test_layouts_that_do_not_contradict_share_a_folder(tmp_path: Path) -> None:
    both = find_layout("transformers, sherpa-onnx")
    assert (both.name, both.place, both.log_probabilities) == ("sherpa-onnx,transformers", "onnx", False)
    both.write(CONTENTS, lambda: 400, tmp_path)
    assert set(files(tmp_path)) == set(both.files) > {"tokens.txt", "vocab.json"}
    with pytest.raises(AsrDeployError, match="The layout sherpa-onnx cannot hold"):
        both.check(replace(CONTENTS, labels=("-", "SIL")))
    assert find_layout("asrdeploy,onnx-asr").log_probabilities and find_layout("onnx-asr,onnx-asr") is LAYOUTS["onnx-asr"]


def test_the_artifact_of_another_model_is_safe_from_every_layout(
    tiny: AnchorModel, tiny_int8: Artifact, transformers: Path, tmp_path: Path
) -> None:
    plain = copied(tiny_int8, tmp_path / "plain")
    for folder, quant, layout, what in (
        (plain, "fp16", "transformers", "with another quantisation scheme"),
        (transformers, "fp16", "asrdeploy", "with another quantisation scheme"),
        (transformers, "int8", "onnx-asr", "in another layout"),
        (plain, "int8", "sherpa-onnx", "in another layout"),
    ):
        before = files(folder)
        with pytest.raises(AsrDeployError, match=f"{folder.name}.* holds the artifact of this model {what}"):
            export_model(tiny, folder, quant=quant, layout=layout)
        assert files(folder) == before


def test_an_artifact_from_before_layouts_is_one_without_a_layout(tiny_int8: Artifact, tmp_path: Path) -> None:
    folder = copied(tiny_int8, tmp_path / "old")
    described = json.loads((folder / MANIFEST).read_text())
    made_from = dict(described)
    assert described.pop("layout") == "asrdeploy"
    (folder / MANIFEST).write_text(json.dumps(described))
    assert open_artifact(folder).manifest.layout == "asrdeploy"
    assert other_artifact(folder, made_from) is None
    assert other_artifact(folder, made_from | {"layout": "onnx-asr"}) == "this model in another layout"


# Commands


def test_every_command_takes_the_folder_of_a_layout(
    transformers: Path, onnx_asr: Path, cli: Callable[..., Completed], speech: tuple[Utterance, ...], tmp_path: Path
) -> None:
    for folder, layout in ((transformers, "transformers"), (onnx_asr, "onnx-asr")):
        done = cli("inspect", folder)
        assert done.returncode == 0 and re.search(rf"layout +│ {layout} ", done.stdout)
        assert cli("transcribe", folder, speech[0].path).stdout.strip() == speech[0].reference
        done = cli("evaluate", folder, "--limit", "2", "--workers", "1")
        assert done.returncode == 0 and re.search(rf"configuration +│ {folder.name} ", done.stdout), done.stderr
        done = cli("bench", folder, "--seconds", "0.5", "--protocol", "quick")
        assert done.returncode == 0 and (tmp_path / "results" / f"bench-{folder.name}.json").is_file(), done.stderr
    inner = open_transcriber(str(transformers / "onnx"))
    assert inner.configuration == open_transcriber(str(transformers)).configuration == transformers.name


def test_the_command_exports_to_layouts(cli: Callable[..., Completed], tmp_path: Path, speech: tuple[Utterance, ...]) -> None:
    done = cli("export", "--layout", "transformers,sherpa-onnx", "--quant", "int8")
    folder = tmp_path / "artifacts" / "DIGITS_ASR_TINY-onnx-int8-sherpa-onnx+transformers"
    assert done.returncode == 0 and "The artifact is in artifacts/DIGITS_ASR_TINY-onnx-int8-sherpa-" in done.stdout, done.stderr
    assert {"tokens.txt", "vocab.json", "onnx/model_quantized.onnx", f"onnx/{MANIFEST}"} < set(files(folder))
    assert open_artifact(folder).manifest.layout == "sherpa-onnx,transformers"
    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        str(folder / "onnx" / "model_quantized.onnx"), str(folder / "tokens.txt")
    )
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, read_audio(speech[0].path, 16_000))
    recogniser.decode_stream(stream)
    assert stream.result.text.strip() == speech[0].reference


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("--layout", "sherpa"), "Unknown layout “sherpa”. Did you mean sherpa-onnx?"),
        (("--layout", "onnx-asr,"), "Unknown layout “”."),
        (("--layout", "onnx-asr,transformers"), "The layouts onnx-asr and transformers contradict each other: each has a config.json"),
        (("--layout", "transformers", "--format", "executorch"), "The layout transformers holds ONNX files only, not executorch."),
    ],
)
def test_layouts_that_the_command_refuses(cli: Callable[..., Completed], tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in complaint(cli("export", *arguments))
    assert not (tmp_path / "artifacts").exists()


def test_a_layout_has_a_folder_of_its_own(tiny: AnchorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(tiny, "TINY", "onnx", "int8") == Path("artifacts/TINY-onnx-int8")
    assert default_folder(tiny, "TINY", "onnx", "int8", "onnx-asr") == Path("artifacts/TINY-onnx-int8-onnx-asr")
    both = default_folder(tiny, "TINY", "onnx", "int8", "transformers,sherpa-onnx")
    assert both == Path("artifacts/TINY-onnx-int8-sherpa-onnx+transformers")


def test_a_model_with_its_export_in_a_subfolder_remains_a_model(transformers: Path, tmp_path: Path) -> None:
    assert is_artifact(transformers) and not names_custom_model(str(transformers))
    folder = shutil.copytree(transformers, tmp_path / "model")
    (folder / "model.safetensors").touch()
    assert not is_artifact(folder) and names_custom_model(str(folder)) and open_artifact(folder).folder == folder / "onnx"
