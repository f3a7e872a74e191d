"""Custom models with a TOML file: loading, refused input, and all following steps."""

import json
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from device_runner.audio import read_audio
from device_runner.bitstream.format import PREFIX, Header, read_header
from device_runner.devices import local_device
from device_runner.errors import AsrDeployError
from device_runner.jobs import wav_bytes
from device_runner.labels import select_labels
from tests.device_runner.runner_places import Place, command_of
from tests.helpers import Completed, complaint
from toolchain.accuracy.evaluation import evaluate_on_device
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.accuracy.transcriber import artifact_transcriber, open_transcriber
from toolchain.compression.bitstreams import compress, decompress, model_of, read_weights
from toolchain.data.datasets import DataSet, Utterance
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.custom.description import read_description
from toolchain.models.custom.labels import blank_first, our_labels
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.networks import count_on_meta
from toolchain.models.test_cases import LABELS, names_custom_model
from toolchain.scenario.exporting import export_model
from toolchain.scenario.job_limits import read_job_file, run_test_job

# The bundled model with its labels in another order: the blank last, the space by name, letters in lower case.
THEIRS = [*(label.lower() for label in LABELS[2:]), "<space>", "<blank>"]
ROWS = [*range(2, len(LABELS)), 1, 0]
TABLE = """
extractor_mode = "layer_norm"
extractor_conv_layer_config = [[96, 64, 20], [128, 5, 5], [160, 3, 2], [160, 3, 2]]
extractor_conv_bias = false
encoder_embed_dim = 160
encoder_pos_conv_kernel = 31
encoder_pos_conv_groups = 16
encoder_num_layers = 4
encoder_num_heads = 4
encoder_ff_interm_features = 640
encoder_layer_norm_first = true
"""
TOML = f"""
architecture = "DIGITS_ASR_TINY"
labels = {json.dumps(THEIRS)}
blank = "<blank>"
word_separator = "<space>"
sample_rate = 16000
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """Return the TOML file that describes a checkpoint with the bundled weights."""
    state = load_file(BUNDLED_WEIGHTS)
    state |= {name: state[name][ROWS] for name in ("aux.weight", "aux.bias")}
    save_file(state, tmp_path / "mine.safetensors")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    return tmp_path / "mine.toml"


def refused(name: object, weights: str | None = None) -> str:
    with pytest.raises(AsrDeployError) as caught:
        load_model(str(name), weights)
    sentence = str(caught.value)
    assert sentence.endswith((".", "?")) and "\n" not in sentence
    return sentence


# A checkpoint with a TOML file


@pytest.mark.parametrize("suffix", [".toml", ".safetensors"])
def test_a_described_checkpoint_hears_what_the_bundled_model_hears(
    described: Path, suffix: str, tiny: AnchorModel, waveform: np.ndarray
) -> None:
    model = load_model(str(described.with_suffix(suffix)))
    case = model.case
    assert (case.number, case.name, case.sample_rate, case.anchor.num_param) == (None, "mine", 16_000, tiny.case.anchor.num_param)
    assert case.labels[0] == "<blank>" and case.labels[-1] == "|" and set(case.labels[1:]) == set(LABELS[1:])
    ours, theirs = TorchEngine(model).logits(waveform), TorchEngine(tiny).logits(waveform)
    np.testing.assert_allclose(ours[:, [case.labels.index(label) for label in LABELS[1:]]], theirs[:, 1:], atol=1e-5)
    assert select_labels(ours, case.labels) == select_labels(theirs, LABELS) != ""
    assert model.trained and model.weights.startswith("own, sha256 ")


def test_a_table_of_parameters_is_the_same_model(described: Path) -> None:
    by_name = load_model(str(described))
    text = TOML.replace('architecture = "DIGITS_ASR_TINY"', 'name = "other"\nweights = "mine.safetensors"') + "[architecture]" + TABLE
    other = described.with_name("somewhere.toml")
    other.write_text(text, encoding="utf-8")
    model = load_model(str(other))
    assert model.case.name == "other" and model.case.network == by_name.case.network and model.weights == by_name.weights
    # Parameters for training, and torchaudio's number of outputs, are accepted.
    other.write_text(text + "encoder_dropout = 0.5\naux_num_out = 29\n", encoding="utf-8")
    assert load_model(str(other)).weights == by_name.weights


def test_torchs_own_files_of_weights(described: Path) -> None:
    expected = load_model(str(described)).weights
    torch.save(load_file(described.with_suffix(".safetensors")), described.with_suffix(".pt"))
    assert "2 checkpoints have its name. Add weights" in refused(described)
    described.with_suffix(".safetensors").unlink()
    assert load_model(str(described)).weights == load_model(str(described.with_suffix(".pt"))).weights == expected


def test_bundles_and_builders_of_torchaudio_by_name(tmp_path: Path) -> None:
    labels = json.dumps(list(LABELS))
    for name, parameters in (("WAV2VEC2_ASR_BASE_960H", 94_393_245), ("wav2vec2_base", 94_393_245), ("HUBERT_ASR_LARGE", 315_463_837)):
        (tmp_path / "m.toml").write_text(f'architecture = "{name}"\nlabels = {labels}\nsample_rate = 16000\n')
        save_file({"aux.weight": torch.zeros(len(LABELS), 3)}, tmp_path / "m.safetensors")
        # Everything but the weights fits, so the first of them has another shape or is missing.
        assert "does not fit the model" in refused(tmp_path / "m.toml")
        assert count_on_meta(read_description(tmp_path / "m.toml").architecture, len(LABELS)) == parameters


def changed(old: str, new: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return damage


def added(line: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(line + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")


def weights(damage: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        state = load_file(path.with_suffix(".safetensors"))
        damage(state)
        save_file(state, path.with_suffix(".safetensors"))

    return change


def table(old: str, new: str) -> Callable[[Path], object]:
    assert old in TABLE
    text = TOML.replace('architecture = "DIGITS_ASR_TINY"\n', "") + "[architecture]" + TABLE.replace(old, new)
    return lambda path: path.write_text(text, encoding="utf-8")


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(), "mine.toml does not exist"),
    (lambda path: path.write_text("labels = ["), "is not TOML"),
    (lambda path: path.write_bytes(b"\xff\xfe\xff"), "is not TOML"),
    (changed("sample_rate = 16000", "sample_rate = " + "1" * 5000), "is not TOML: a number has too many digits"),
    (changed("labels = ", f'weights = "{"x" * 300}.pt"\nlabels = '), "xxx.pt do not exist"),
    (changed("labels = ", "lables = "), "Unknown entry “lables”. Did you mean labels?"),
    (changed("sample_rate = 16000", ""), "mine.toml: add sample_rate."),
    (changed("sample_rate = 16000", "sample_rate = 16"), "the sample rate 16 is not valid"),
    (changed("sample_rate = 16000", 'sample_rate = "16k"'), "the sample rate '16k' is not valid"),
    (changed("sample_rate = 16000", "sample_rate = true"), "the sample rate True is not valid"),
    (changed('"<blank>"\n', '"-"\n'), "the blank “-” is not one of the labels"),
    (changed('blank = "<blank>"', "blank = 29"), "the blank 29 is not one of the labels. Give a label, or an index from 0 to 28"),
    (changed('blank = "<blank>"', "blank = -1"), "the blank -1 is not one of the labels"),
    (changed('blank = "<blank>"', "blank = true"), "the blank True is not one of the labels"),
    (changed('"e", ', '"t", '), "the label “t” occurs twice"),
    (changed('"e", ', '"a b", '), "the label “a b” contains white space"),
    (changed('"e", ', '"a|", '), "the label “a|” contains |"),
    (changed('"e", ', "3, "), "labels must be a list of strings"),
    (changed('"e", ', ""), "has 29 outputs, but 28 labels"),
    (changed(json.dumps(THEIRS), '["<blank>"]'), "has 1 labels. Give 2 to"),
    (changed(json.dumps(THEIRS), '"abc"'), "labels must be a list of strings"),
    (changed('word_separator = "<space>"', 'word_separator = "_"'), "no label contains the word_separator “_”"),
    (added("normalised_waveform = 1"), "normalised_waveform is 1. Give true or false"),
    (added("name = 3"), "name is 3. Give a string"),
    (added('name = "HUBERT_ASR_LARGE"'), "HUBERT_ASR_LARGE is the name of a built-in model"),
    (added('name = "hubert_asr_large"'), "hubert_asr_large is the name of a built-in model"),
    (added('name = "1"'), "1 is the name of a built-in model"),
    (added('name = "a/b"'), "“a/b” is not a valid model name"),
    (added('name = ".."'), "“..” is not a valid model name"),
    (added('weights = "other.safetensors"'), "the weights other.safetensors do not exist"),
    (lambda path: path.with_suffix(".safetensors").unlink(), "does not name its weights, and mine.safetensors does not exist"),
    (changed("DIGITS_ASR_TINY", "DIGITS_ASR_TINI"), "Unknown architecture “DIGITS_ASR_TINI”. Did you mean DIGITS_ASR_TINY?"),
    (changed('"DIGITS_ASR_TINY"', "7"), "architecture must be a name or a table"),
    (table("encoder_num_heads = 4\n", ""), "the architecture lacks encoder_num_heads"),
    (table("encoder_num_heads", "encoder_num_head"), "Did you mean encoder_num_heads?"),
    (table("encoder_num_heads = 4", "encoder_num_heads = 3"), "encoder_embed_dim 160 is not a multiple of encoder_num_heads 3"),
    (table("encoder_num_layers = 4", "encoder_num_layers = 100000"), "in architecture, encoder_num_layers: "),
    (table("[[96, 64, 20]", "[[96, 64]"), "in architecture, extractor_conv_layer_config.0"),
    (table('"layer_norm"', '"no_norm"'), "in architecture, extractor_mode: "),
    (table("encoder_num_layers = 4", "encoder_num_layers = 5"), "is missing ("),
    (table("encoder_num_layers = 4", "encoder_num_layers = 3"), "is unknown ("),
    (table("encoder_ff_interm_features = 640", "encoder_ff_interm_features = 320"), "size mismatch for encoder.transformer.layers"),
    (weights(lambda state: state.pop("aux.bias")), "aux.bias is missing (1 names differ)"),
    (weights(lambda state: state.update({"colour": torch.ones(1)})), "colour is unknown (1 names differ)"),
    (weights(lambda state: state["aux.bias"].fill_(torch.inf)), "contains NaN or infinite weights, first in aux.bias"),
    (lambda path: path.with_suffix(".safetensors").write_bytes(b"cut"), "cannot be read as weights"),
]


@pytest.mark.parametrize("damage, sentence", REFUSED, ids=range(len(REFUSED)))
def test_a_description_that_does_not_fit_is_refused_with_the_reason(
    described: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(described)
    assert sentence in refused(described)


def test_names_that_are_no_model(tmp_path: Path, described: Path, tiny_int8: object) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "alone.safetensors")
    assert f"{tmp_path / 'alone.toml'} does not exist. It must give the checkpoint's" in refused(tmp_path / "alone.safetensors")
    assert "does not exist" in refused(tmp_path / "none.pt") and "does not exist" in refused(tmp_path / "none" / "model")
    (tmp_path / "empty").mkdir()
    assert "is not a Hugging Face folder: it has no config.json" in refused(tmp_path / "empty")
    assert "Did you mean DIGITS_ASR_TINY?" in refused("DIGITS_ASR_TINI")
    text = described.read_text(encoding="utf-8")
    described.write_text('weights = "mine.safetensors"\n' + text, encoding="utf-8")
    torch.save({}, described.with_suffix(".pt"))
    assert "describes the weights mine.safetensors, not mine.pt" in refused(described.with_suffix(".pt"))


def test_telling_own_models_needs_no_torch() -> None:
    code = "from toolchain.models.test_cases import *; print(names_custom_model('a.b:c'), find_test_case('1').name)"
    code = f"import sys; sys.modules['torch'] = None; {code}"
    done = subprocess.run([command_of("python")[0], "-c", code], capture_output=True, text=True)
    assert done.stdout == "True WAV2VEC2_ASR_BASE_960H\n", done.stderr
    assert [names_custom_model(each) for each in ("0", "digits_asr_tiny", "x", "", "a:b", "a.toml", "a/b", "1:2")] == [False] * 4 + [
        True
    ] * 3 + [False]


@given(st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_the_reader_of_descriptions_stumble(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes((TOML + text).encode("utf-8", "surrogatepass"))
    assert refused(path)  # there are no weights, whatever the file says


@given(
    st.lists(st.text("abcxyzß ", min_size=1, max_size=3).filter(lambda each: each == " " or " " not in each), min_size=2, unique=True),
    st.data(),
)
def test_the_order_of_labels_changes_no_text(labels: list[str], data: st.DataObject) -> None:
    blank = data.draw(st.integers(0, len(labels) - 1))
    ours, order = our_labels(labels, blank, "test", separator=" "), blank_first(len(labels), blank)
    assert sorted(order) == list(range(len(labels))) and order[0] == blank
    frames = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=30))
    logits = np.eye(len(labels), dtype=np.float32)[frames]
    runs = [index for place, index in enumerate(frames) if place == 0 or frames[place - 1] != index]
    expected = "".join(labels[index] for index in runs if index != blank).upper()
    assert select_labels(logits[:, order], ours) == expected


# Other weights, and bitstreams


def test_weights_beside_the_models_own(described: Path, tmp_path: Path) -> None:
    model = load_model(str(described))
    random = load_model(str(described), "random", 3)
    assert not random.trained and random.case == model.case and random.weights.startswith("random, seed 3, description ")
    assert not torch.equal(random.state()["aux.bias"], model.state()["aux.bias"])
    assert load_model(str(described), str(described)).weights == model.weights
    save_file(model.state(), tmp_path / "plain.safetensors")
    assert "does not define the labels of its outputs" in refused(described, str(tmp_path / "plain.safetensors"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.toml").write_text(TOML.replace("16000", "8000"), encoding="utf-8")
    save_file(load_file(described.with_suffix(".safetensors")), other / "mine.safetensors")
    assert "does not fit mine: their architectures, labels or sample rates differ" in refused(described, str(other / "mine.toml"))


def header_text(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    _, _, length, _ = PREFIX.unpack(content[: PREFIX.size])
    found: dict[str, object] = json.loads(zlib.decompress(content[PREFIX.size : PREFIX.size + length]))
    return found


def test_a_bitstream_of_an_own_model_needs_nothing_but_itself(
    described: Path, tmp_path: Path, tiny: AnchorModel, waveform: np.ndarray
) -> None:
    model = load_model(str(described))
    compress(model, "uniform", {"bits": 6}, tmp_path / "own.asrb")
    compress(tiny, "uniform", {"bits": 6}, tmp_path / "tiny.asrb")
    for path in tmp_path.glob("mine.*"):
        path.unlink()
    rebuilt, header = decompress(tmp_path / "own.asrb"), read_header(tmp_path / "own.asrb")
    assert rebuilt.case == model.case and header.network == model.case.network and rebuilt.weights == model.weights
    assert select_labels(TorchEngine(rebuilt).logits(waveform), rebuilt.case.labels) != ""
    # Bitstreams of built-in models have no entry for custom models.
    assert list(header_text(tmp_path / "tiny.asrb")) == ["codec", "parameters", "model", "weights", "trained", "base", "records"]
    described_by = header_text(tmp_path / "own.asrb")["network"]
    assert isinstance(described_by, dict) and described_by["labels"][1] == "E" and "factory" not in described_by
    assert (tmp_path / "own.asrb").stat().st_size - (tmp_path / "tiny.asrb").stat().st_size < 500


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"model": "HUBERT_ASR_LARGE"}, "HUBERT_ASR_LARGE is the name of a built-in model"),
        ({"model": "../elsewhere"}, "is not a valid model name"),
        ({"num_param": 3}, "has 1,524,892 parameters instead of 3. Its description is damaged"),
    ],
)
def test_a_header_that_lies_about_its_model(described: Path, tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    compress(load_model(str(described)), "fp16", {}, tmp_path / "own.asrb")
    header = read_header(tmp_path / "own.asrb")
    plain = header.model_dump()
    plain["network"] |= {key: value for key, value in changes.items() if key != "model"}
    plain |= {key: value for key, value in changes.items() if key == "model"}
    state = read_weights(tmp_path / "own.asrb")[1]
    with pytest.raises(AsrDeployError, match=sentence):
        model_of(Header.model_validate(plain), state, "lies.asrb")


def test_updates_of_an_own_model(described: Path, tmp_path: Path, cli: Callable[..., Completed]) -> None:
    assert cli("compress", "--model", described, "--codec", "uniform", "--set", "bits=4", "-o", "old.asrb").returncode == 0
    assert cli("decompress", "old.asrb", "-o", "old.safetensors").returncode == 0
    for base, there in (("old.safetensors", "old.safetensors"), ("own", described)):
        done = cli("compress", "--model", described, "--codec", "uniform", "--set", "bits=4", "--base", base, "-o", "new.asrb")
        assert done.returncode == 0, done.stderr
        assert cli("decompress", "new.asrb", "--base", there, "-o", "new.safetensors").returncode == 0
    assert "--base own: new.asrb belongs to the custom model mine" in complaint(
        cli("decompress", "new.asrb", "--base", "own", "-o", "x.safetensors")
    )
    assert cli("decompress", "new.asrb", "--base", "own", "--model", described, "-o", "again.safetensors").returncode == 0
    assert "their digest differs" in complaint(cli("decompress", "new.asrb", "--base", "old.safetensors", "-o", "x.safetensors"))
    again, new = load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "new.safetensors")
    assert all(torch.equal(again[name], each) for name, each in new.items())
    done = cli("export", "--from", "new.asrb", "--base", described, "-o", "artifact")
    assert done.returncode == 0 and artifact_transcriber(open_transcriber("artifact").artifact).case.name == "mine"  # type: ignore[arg-type]


# The whole way


def test_a_described_model_on_a_device_and_in_a_test_job(described: Path, tmp_path: Path, test_clean: DataSet) -> None:
    jobs = tmp_path / "jobs" / "jobs.toml"
    jobs.parent.mkdir()
    jobs.write_text(
        '[[job]]\nname = "own"\nexport = { model = "../mine.toml" }\nlimit = 8\n[job.limits]\nwer = 20\nc_size = 1.1\nparity = 0.001\n'
    )
    (job,) = read_job_file(jobs).job
    outcome = run_test_job(job, local_device(), tmp_path / "out")
    assert outcome.problem is None and not outcome.broken and {each.limit for each in outcome.checks} == {"wer", "c_size", "parity"}
    transcriber = open_transcriber(str(tmp_path / "out" / "artifact"))
    assert transcriber.case.name == "mine" and transcriber.case.anchor.num_param == 1_524_892 and transcriber.artifact is not None
    result = evaluate_on_device(transcriber.artifact, test_clean.limited(3), tmp_path / "ev", local_device(), threads=1)
    assert result.model == "mine" and result.c_size == pytest.approx(transcriber.transmitted_bits / (32 * 1_524_892))
    by_artifact = job.model_copy(update={"export": None, "artifact": transcriber.artifact.folder})
    said = run_test_job(by_artifact, local_device(), tmp_path / "again").problem
    assert said is not None and "Use export instead of artifact" in said


def test_the_jvm_core_takes_labels_that_print_nothing(described: Path, tmp_path: Path, speech: tuple[Utterance, ...]) -> None:
    model = load_model(str(described))
    artifact, _ = export_model(model, tmp_path / "artifact")
    waveform = read_audio(speech[0].path, 16_000)
    heard = {}
    for name in ("python", "jvm"):
        place = Place(tmp_path / name, command_of(name))
        place.folder.mkdir()
        silent = [("" if label in "EI" else label) for label in artifact.manifest.labels]
        place.write(place.artifact(artifact, labels=silent), {"a": wav_bytes(waveform, 16_000)})
        heard[name] = place.finish().transcripts[0].hypothesis
    assert heard["jvm"] == heard["python"] != ""
    assert not set("EI") & set(heard["jvm"])
