"""Artifacts: round trip of the manifest, and an error message for every damaged or foreign artifact."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from device_runner.artifact import MANIFEST, Artifact, Manifest, describe_file, open_artifact, write_manifest
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from tests.helpers import artifact_of, convolution, copied


def refused(folder: Path) -> str:
    with pytest.raises(AsrDeployError) as caught:
        open_artifact(folder)
    sentence = str(caught.value)
    assert str(folder) in sentence and sentence.endswith(".") and "\n" not in sentence
    return sentence


def listed(artifact: Artifact, **changes: object) -> list[dict[str, object]]:
    """Return the manifest's list of files with changes to the first entry."""
    return [artifact.manifest.files[0].model_dump() | changes]


# Round trips


def test_a_manifest_survives_its_file(tiny_int8: Artifact, tmp_path: Path) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    opened = open_artifact(folder)
    assert opened.manifest == tiny_int8.manifest
    before = (folder / MANIFEST).read_bytes()
    write_manifest(folder, opened.manifest)
    assert (folder / MANIFEST).read_bytes() == before
    assert Manifest.model_validate_json(opened.manifest.model_dump_json()) == opened.manifest


def test_a_manifest_says_what_a_receiver_needs(tiny_int8: Artifact) -> None:
    written = json.loads((tiny_int8.folder / MANIFEST).read_text(encoding="utf-8"))
    assert written["labels"][:3] == ["-", "|", "E"] and len(written["labels"]) == 29
    expected = {
        "version": 1,
        "model": "DIGITS_ASR_TINY",
        "trained": True,
        "format": "onnx",
        "scheme": "int8",
        "sample_rate": 16_000,
        "normalised_waveform": False,
        "codec": None,
        "tuned_on": [],
    }
    assert {key: written[key] for key in expected} == expected
    assert {"torch", "onnx", "onnxruntime", "asrdeploy"} <= written["versions"].keys()


def test_sizes_and_digest_are_the_files(tiny_int8: Artifact) -> None:
    size = tiny_int8.model_path.stat().st_size
    assert tiny_int8.size_bytes == size and tiny_int8.transmitted_bits == 8 * size
    assert describe_file(tiny_int8.model_path) == tiny_int8.manifest.files[0]
    assert tiny_int8.digest == tiny_int8.manifest.files[0].sha256


def test_a_codecs_bitstream_is_what_is_transmitted(tiny_int8: Artifact, tmp_path: Path) -> None:
    folder = copied(tiny_int8, tmp_path / "copy", codec="uniform(bits=4)", transmitted_bytes=1000)
    assert open_artifact(folder).transmitted_bits == 8000


# Damage


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    assert "it has no manifest.json" in refused(tmp_path)
    assert "it has no manifest.json" in refused(tmp_path / "none")


def test_a_plain_file(tiny_int8: Artifact) -> None:
    assert "is a file, not an artifact" in refused(tiny_int8.model_path)
    assert "is a file" in refused(tiny_int8.folder / MANIFEST)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: b"",
    ],
    ids=["cut", "longer", "one bit", "empty"],
)
def test_a_changed_model_file(tiny_int8: Artifact, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    (folder / "model.onnx").write_bytes(damage((folder / "model.onnx").read_bytes()))
    assert "does not match its sha256" in refused(folder)


def test_a_missing_model_file(tiny_int8: Artifact, tmp_path: Path) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    (folder / "model.onnx").unlink()
    assert "model.onnx is missing" in refused(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "a/model.onnx", "a\\model.onnx", "..", ".", ""])
def test_a_file_that_leaves_the_folder(tiny_int8: Artifact, tmp_path: Path, name: str) -> None:
    assert "points outside the artifact's folder" in refused(copied(tiny_int8, tmp_path / "copy", files=listed(tiny_int8, name=name)))


@pytest.mark.parametrize("name", ["none.onnx", "/", "a\0b", "a" * 5000], ids=["none", "root", "nul", "long"])
def test_a_file_that_cannot_be_there(tiny_int8: Artifact, tmp_path: Path, name: str) -> None:
    refused(copied(tiny_int8, tmp_path / "copy", files=listed(tiny_int8, name=name)))


@pytest.mark.parametrize(
    "changes, where",
    [
        ({"colour": "red"}, "colour"),
        ({"version": 2}, "version"),
        ({"labels": []}, "labels"),
        ({"labels": ["-"]}, "labels"),
        ({"labels": None}, "labels"),
        ({"labels": [1, 2]}, "labels.0"),
        ({"files": []}, "files"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"minimum_samples": 0}, "minimum_samples"),
        ({"parameters": -1}, "parameters"),
        ({"trained": "perhaps"}, "trained"),
        ({"model": None}, "model"),
        ({"versions": []}, "versions"),
    ],
)
def test_an_invalid_manifest_names_the_entry(tiny_int8: Artifact, tmp_path: Path, changes: dict[str, object], where: str) -> None:
    assert f"is not a valid manifest: {where}: " in refused(copied(tiny_int8, tmp_path / "copy", **changes))


@pytest.mark.parametrize("entry", ["labels", "files", "sample_rate", "model", "minimum_samples", "versions"])
def test_a_manifest_without_an_entry(tiny_int8: Artifact, tmp_path: Path, entry: str) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[entry]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert f"is not a valid manifest: {entry}: " in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"not JSON", b'{"version": 1,}', b"[" * 200_000], ids=range(6))
def test_a_manifest_that_is_no_json(tiny_int8: Artifact, tmp_path: Path, content: bytes) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    (folder / MANIFEST).write_bytes(content)
    assert "is not valid JSON" in refused(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"text"'])
def test_a_manifest_that_is_another_json(tiny_int8: Artifact, tmp_path: Path, content: bytes) -> None:
    folder = copied(tiny_int8, tmp_path / "copy")
    (folder / MANIFEST).write_bytes(content)
    assert "is not a valid manifest" in refused(folder)


def test_digests_are_lower_case_hexadecimal(tiny_int8: Artifact, tmp_path: Path) -> None:
    for digest in ("", "0" * 63, tiny_int8.digest.upper(), "g" * 64):
        assert "files.0.sha256" in refused(copied(tiny_int8, tmp_path / f"copy {digest}", files=listed(tiny_int8, sha256=digest)))


def test_manifests_do_not_change(tiny_int8: Artifact) -> None:
    with pytest.raises(ValidationError):
        tiny_int8.manifest.model = "OTHER"  # type: ignore[misc]


# Engines


def engine_refuses(artifact: Artifact) -> str:
    with pytest.raises(AsrDeployError) as caught:
        open_engine(artifact)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_small_model_of_somebody_else_runs(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path / "other", convolution())
    assert open_engine(artifact).logits(np.zeros(1040, np.float32)).shape == (3, 29)


@pytest.mark.parametrize("name, model", [("input", convolution(entry="audio")), ("output", convolution(exit_="scores"))])
def test_a_foreign_model_is_refused(tmp_path: Path, name: str, model: bytes) -> None:
    assert "its input must be input_values and its output logits" in engine_refuses(artifact_of(tmp_path / name, model))


def test_garbage_is_refused(tmp_path: Path, tiny_int8: Artifact) -> None:
    whole = tiny_int8.model_path.read_bytes()
    for name, model in {"noise": np.random.default_rng(0).bytes(5000), "empty": b"", "cut": whole[: len(whole) // 2]}.items():
        assert "cannot load" in engine_refuses(artifact_of(tmp_path / name, model))


def test_a_format_that_no_engine_runs(tmp_path: Path) -> None:
    assert "“tflite”. Supported formats: " in engine_refuses(artifact_of(tmp_path / "other", convolution(), format="tflite"))


@pytest.mark.parametrize("samples", [0, 1, 743])
def test_a_waveform_below_one_frame(tiny_int8: Artifact, samples: int) -> None:
    with pytest.raises(AsrDeployError, match=rf"^The audio has {samples} samples, but the model requires at least 744\. Use a longer"):
        open_engine(tiny_int8).logits(np.zeros(samples, np.float32))


def test_the_shortest_waveform_has_one_frame(tiny_fp32: Artifact, tiny_int8: Artifact) -> None:
    for artifact in (tiny_fp32, tiny_int8):
        logits = open_engine(artifact).logits(np.full(744, 0.1, np.float32))
        assert logits.shape == (1, 29) and logits.dtype == np.float32 and np.isfinite(logits).all()


def test_a_waveform_of_two_dimensions(tiny_int8: Artifact) -> None:
    with pytest.raises(AsrDeployError, match="requires at least"):
        open_engine(tiny_int8).logits(np.zeros((1, 16_000), np.float32))


def runs(artifact: Artifact, samples: int) -> str:
    """Do what a client does: load the model, run it and select labels."""
    return select_labels(open_engine(artifact).logits(np.zeros(samples, np.float32)), artifact.manifest.labels)


def test_a_manifest_with_fewer_labels_than_the_model(tiny_int8: Artifact, tmp_path: Path) -> None:
    artifact = open_artifact(copied(tiny_int8, tmp_path / "copy", labels=list(tiny_int8.manifest.labels[:-1])))
    with pytest.raises(AsrDeployError, match="label"):
        runs(artifact, 16_000)


def test_a_manifest_that_promises_too_short_audio(tiny_int8: Artifact, tmp_path: Path) -> None:
    artifact = open_artifact(copied(tiny_int8, tmp_path / "copy", minimum_samples=1))
    with pytest.raises(AsrDeployError):
        runs(artifact, 5)


def test_a_model_with_the_right_names_and_another_input(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path / "other", convolution(channelled=True))
    with pytest.raises(AsrDeployError):
        runs(artifact, 16_000)


def test_a_model_that_is_too_new_for_the_runtime_is_told_with_the_version_that_made_it(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(convolution())
    model.ir_version = 1000
    sentence = engine_refuses(artifact_of(tmp_path, model.SerializeToString(), versions={"onnxruntime": "99.1"}))
    assert sentence.endswith(f"is too old for {tmp_path / 'model.onnx'}, which was made with 99.1. Install a newer one.")
