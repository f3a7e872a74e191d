"""Folders and files that are not quite a model: the model in them is found, or one sentence says what they are and what to give."""

import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from tests.helpers import Completed, complaint
from tests.toolchain.models.custom.hugging_face_folders import change, write_folder
from tests.toolchain.models.damaged_weights import bundled, refused
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import LABELS

TOML = f'architecture = "DIGITS_ASR_TINY"\nlabels = {json.dumps(LABELS)}\nsample_rate = 16000\n'
COMMITS = ("0" * 40, "1" * 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a Hugging Face folder of a tiny random model."""
    write_folder(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Path:
    """Return a folder of a Hub cache with a snapshot, whose files are links to blobs, as huggingface_hub writes them."""
    path = tmp_path / "hub" / "models--somebody--my-tiny"
    snapshot = path / "snapshots" / COMMITS[0]
    for each in (snapshot, path / "blobs", path / "refs"):
        each.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, path / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    (path / "refs" / "main").write_text(COMMITS[0])
    return path


# Folders


def test_a_folder_of_a_hub_cache_is_its_snapshot_of_the_main_branch(cache: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(cache / "snapshots" / COMMITS[0], cache / "snapshots" / COMMITS[1], symlinks=True)
    for _ in range(2):
        model = load_model(str(cache))
        assert model.weights == load_model(str(folder)).weights and model.case.name == "my-tiny"
    (said,) = [each.message for each in caplog.records]
    assert said.endswith(f"the model is its snapshot {COMMITS[0]}, the commit in refs/main.")
    assert load_model(str(cache / "snapshots")).case == load_model(str(cache / "snapshots" / COMMITS[1])).case == model.case
    (cache / "refs" / "main").unlink()
    assert f"2 snapshots: {COMMITS[0]}, {COMMITS[1]}. Give one of them, such as {cache / 'snapshots' / COMMITS[0]}." in refused(str(cache))
    shutil.rmtree(cache / "snapshots" / COMMITS[1])
    assert load_model(str(cache)).case == model.case
    (cache / "refs" / "main").write_text(COMMITS[1])
    assert f"names the snapshot {COMMITS[1]}, which has no config.json" in refused(str(cache))
    (cache / "refs" / "main").write_text("../../elsewhere")
    assert load_model(str(cache)).case == model.case  # such a name is no commit
    shutil.rmtree(cache / "snapshots" / COMMITS[0])
    assert "is a folder of a Hub cache without a model in snapshots" in refused(str(cache))


def test_commands_take_a_folder_of_a_hub_cache(cache: Path, cli: Callable[..., Completed]) -> None:
    done = cli("evaluate", cache, "--limit", 1, "-o", "results")
    assert done.returncode == 0 and "my-tiny" in done.stdout and "the model is its snapshot" in done.stderr
    assert f"such as {cache}" not in complaint(cli("evaluate", cache.parent, "-o", "other"))
    assert f"Give {cache}." in complaint(cli("evaluate", cache.parent, "-o", "other"))


def test_the_folder_above_checkpoints_names_them(folder: Path, tmp_path: Path, cli: Callable[..., Completed]) -> None:
    above = tmp_path / "output"
    for number in (500, 1000, 1500, 2000):
        shutil.copytree(folder, above / f"checkpoint-{number}")
    sentence = (
        f"contains models: checkpoint-1000, checkpoint-1500, checkpoint-2000 and 1 more. Give one of them, such as {above}/checkpoint-2000."
    )
    assert sentence in refused(str(above))
    assert sentence in complaint(cli("evaluate", above, "-o", "results"))
    for number in (500, 1500, 2000):
        (above / f"checkpoint-{number}" / "vocab.json").unlink()
    assert f"Give one of them, such as {above}/checkpoint-1000." in refused(str(above))
    shutil.copytree(folder, above / "another")
    assert f"Copy {above}/checkpoint-1000/vocab.json and the other files of the tokenizer there." in refused(str(above / "checkpoint-500"))
    shutil.copy(folder / "vocab.json", above)
    assert f"Copy {above / 'vocab.json'} and the other files of the tokenizer there" in refused(str(above / "checkpoint-500"))


def test_other_files_in_place_of_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert f"Give the folder {folder} as the model." in refused(str(weights))
    weights.rename(folder / "adapter_model.safetensors")
    assert "only adapter_model.safetensors, which is an adapter without its model." in refused(str(folder))


@pytest.fixture
def nobody() -> Iterator[None]:
    """Run as a user who may not read everything, also where tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """Return a folder of a model in a folder that everybody can read."""
    above = Path(tempfile.mkdtemp())
    above.chmod(0o755)
    write_folder(above / "tiny")
    (above / "tiny").chmod(0o755)
    (above / "locked").mkdir(mode=0o000)
    (above / "tiny" / "config.json").chmod(0o644)
    (above / "tiny" / "model.safetensors").chmod(0o000)
    yield above
    (above / "locked").chmod(0o755)
    shutil.rmtree(above)


def test_what_may_not_be_read_is_said(unreadable: Path, nobody: None) -> None:
    assert f"{unreadable / 'locked'} cannot be read: Permission denied." in refused(str(unreadable / "locked"))
    assert "model.safetensors cannot be read as weights: Permission denied. Check the file and its permissions" in refused(
        str(unreadable / "tiny")
    )


# Files of weights


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/weights.bin", b"0")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(BUNDLED_WEIGHTS, "model.safetensors")


def scripted(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


NOT_WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "git-lfs": (
        written(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"),
        "it is a Git LFS pointer. Run `git lfs pull` in its repository",
    ),
    "web page": (written(b"\n<!DOCTYPE html><html>Sign in</html>"), "it is a web page. Download the weights again"),
    "json": (written(b'{"error": "not found"}'), "it is a JSON file. Give a .safetensors file"),
    "text": (written("Gewichte für später\n".encode()), "it is a text file"),
    "utf-16": (written("weights".encode("utf-16")), "it is a text file"),
    "empty": (written(b""), "it is empty (0 bytes). Copy or download it again"),
    "zip": (zipped, "it is a ZIP archive. Unpack it"),
    "tar": (tarred, "it is a tar archive. Unpack it"),
    "gzip": (written(b"\x1f\x8b\x08" + bytes(40)), "it is a gzip archive"),
    "hdf5": (written(b"\x89HDF\r\n\x1a\n" + bytes(40)), "it is an HDF5 file"),
    "program": (scripted, "it is a TorchScript program. Save the tensors alone"),
    "cut safetensors": (written(BUNDLED_WEIGHTS.read_bytes()[:50_000]), "this .safetensors file is cut off after 50,000 of "),
    "cut header": (written(BUNDLED_WEIGHTS.read_bytes()[:100]), "this .safetensors file is cut off after 100 of "),
    "damaged header": (written((20).to_bytes(8, "little") + b"{" + bytes(40)), "the header of this .safetensors file is damaged"),
    "cut torch": (lambda path: (torch.save(bundled(), path), path.write_bytes(path.read_bytes()[:50_000])), "it is cut off or damaged"),
    "noise": (written(bytes(range(256)) * 9), "it is cut off, damaged, or neither a .safetensors file nor a file of torch.save"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_is_not_weights_is_named(kind: str, name: str, folder: Path, tmp_path: Path) -> None:
    write, sentence = NOT_WEIGHTS[kind]
    (folder / "model.safetensors").unlink()
    write(folder / name)
    assert f"{folder / name} cannot be read as weights: {sentence}" in refused(str(folder))
    mine = tmp_path / f"mine.{'safetensors' if 'safe' in name else 'pt'}"
    shutil.copy(folder / name, mine)
    (tmp_path / "mine.toml").write_text(TOML)
    assert f"{mine} cannot be read as weights: {sentence}" in refused(str(tmp_path / "mine.toml"))
    assert f"{mine} cannot be read as weights: {sentence}" in refused("0", mine)


def test_a_folder_may_hold_either_kind_of_weights_under_either_name(folder: Path) -> None:
    expected = load_model(str(folder)).weights
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert load_model(str(folder)).weights == expected
    torch.save(load(Path(folder / "pytorch_model.bin").read_bytes()), folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    assert load_model(str(folder)).weights == expected


# Files of text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_of_text_in_other_encodings(encoding: str, folder: Path, tmp_path: Path) -> None:
    change(folder / "vocab.json", ä=0, **{"|": 30})
    change(folder / "config.json", vocab_size=32)
    (folder / "added_tokens.json").unlink()
    expected = load_model(str(folder))
    assert "Ä" in expected.case.labels
    for file in folder.glob("*.json"):
        file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode(encoding))
    model = load_model(str(folder))
    assert model.weights == expected.weights and model.case == expected.case
    shutil.copy(BUNDLED_WEIGHTS, tmp_path / "mine.safetensors")
    (tmp_path / "mine.toml").write_bytes(TOML.encode(encoding))
    assert load_model(str(tmp_path / "mine.toml")).case.name == "mine"


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "tokenizer_config.json"])
def test_a_pointer_or_a_web_page_in_place_of_a_file_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n")
    assert f"{folder / name} is a Git LFS pointer" in refused(str(folder))
    (folder / name).write_bytes(b"<html>Sign in</html>")
    assert f"{folder / name} is a web page" in refused(str(folder))


# Home folders


def test_home_folders_in_names_of_models_and_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Completed]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_model("~/tiny").case == load_model(str(folder)).case
    (tmp_path / "elsewhere").mkdir()
    save_file(bundled(), tmp_path / "w.safetensors")
    (tmp_path / "elsewhere" / "mine.toml").write_text(TOML + 'weights = "~/w.safetensors"\n')
    model = load_model("~/elsewhere/mine.toml")
    (tmp_path / "elsewhere" / "mine.toml").write_text(TOML + 'weights = "../w.safetensors"\n')  # relative to the file
    assert load_model("~/elsewhere/mine.toml").weights == model.weights
    assert load_model("0", "~/w.safetensors").trained
    assert load_model("~/elsewhere/mine.toml", "~/elsewhere/mine.toml").weights == model.weights
    assert "does not exist" in refused("~/none/model")
    done = cli("testcases", "--model", "~/tiny")
    assert done.returncode == 0 and "tiny" in done.stdout


def test_an_adapter_is_told_from_a_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "facebook/wav2vec2-base"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert f"{folder} is an adapter of the package peft, not a model. Merge it into its model with merge_and_unload()" in refused(
        str(folder)
    )
