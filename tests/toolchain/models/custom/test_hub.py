"""Models by their names on the Hub: the files that are downloaded, the pinned commit, the cache without a network, and refusals."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from device_runner.bitstream.format import read_header
from device_runner.errors import AsrDeployError
from tests.helpers import complaint, run_command
from tests.hub import COMMIT, Hub, serving_models
from tests.toolchain.models.custom.hugging_face_folders import change, write_bundled, write_folder, write_mms
from tests.toolchain.models.damaged_weights import refused
from toolchain.models.loading import load_model
from toolchain.models.test_cases import names_custom_model, names_hub_model

NAME = "speech/digits"
SHARDS = "speech/shards"
MMS = "speech/mms"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of one file with files that must stay on the Hub, one in several parts, and one of several languages."""
    place = tmp_path_factory.mktemp("models")
    write_bundled(place / "digits")
    for name in ("modeling.py", "README.md", "pytorch_model.bin", "tf_model.h5"):
        (place / "digits" / name).write_text("not to be downloaded")
    write_folder(place / "shards", shard="40KB")
    return {NAME: place / "digits", SHARDS: place / "shards", MMS: write_mms(place / "mms")}


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve them, with an empty cache at tmp_path/hf/hub. The library has read the environment when transformers was imported."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with serving_models(dict(folders)) as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()  # its connections belong to another server
        yield server
        huggingface_hub.close_session()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()


def names_of(server: Hub) -> set[str]:
    return {Path(path).name for path in server.paths("GET") if "/resolve/" in path}


# Names


def test_names_of_the_hub_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    yes = ("facebook/wav2vec2-base-960h", "a/b@v1.0", "a/b@refs/pr/1", "hf:a/b", f"hf:a/b@{COMMIT}", "hf:there/model.pt", "a/b:deu")
    yes += ("a/b@v1:azj-script_latin", "hf:a/b:deu")
    no = (
        "there/model",
        "there",
        "a",
        "./a/b",
        "/a/b",
        "a/b/",
        "a/b/c",
        "~/a",
        "../a",
        "a/b.toml",
        "a/b.pt",
        "artifacts/x",
        "results/x",
        "m:f",
        "there/model:deu",
        "a.b:c",
        "a/b:",
        "a/b:../c",
    )
    assert [names_hub_model(each) for each in (*yes, *no)] == [True] * len(yes) + [False] * len(no)
    assert all(names_custom_model(each) for each in yes)
    assert "is not a name on the Hub" in refused("hf:a/b/c") and "there/model does not exist" in refused("there/model")


# Downloads


def test_only_the_files_of_the_model_are_downloaded_once(hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, local = load_model(NAME), load_model(folders[NAME])
    assert model.weights == f"{local.weights}, Hub {NAME}@{COMMIT}" and model.case == local.case
    assert all(torch.equal(tensor, local.state()[name]) for name, tensor in model.state().items())
    downloaded = names_of(hub)
    assert {"config.json", "vocab.json", "model.safetensors", "tokenizer_config.json"} <= downloaded
    assert downloaded <= {each.name for each in folders[NAME].iterdir() if each.suffix in (".json", ".safetensors")}
    assert not any("token" in header.lower() or header.lower() == "authorization" for _, _, headers in hub.asked for header in headers)

    hub.asked.clear()
    assert load_model(NAME).weights == model.weights and hub.paths("GET") == [f"/api/models/{NAME}/revision/main"]

    hub.asked.clear()
    assert load_model(f"hf:{NAME}@{COMMIT}").weights == model.weights and hub.asked == []  # a commit does not change
    offline(monkeypatch)
    assert load_model(NAME).weights == model.weights and hub.asked == []


def test_a_model_in_parts_goes_on_after_a_lost_connection(hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what a cut connection loses at most: usually 10 MB
    hub.cuts = [20_000]
    model = load_model(SHARDS)
    assert any("range" in map(str.lower, headers) for _, _, headers in hub.asked)
    assert len([name for name in names_of(hub) if name.endswith(".safetensors")]) > 1
    assert all(torch.equal(tensor, load_model(folders[SHARDS]).state()[name]) for name, tensor in model.state().items())


def test_damaged_weights_are_refused_and_fetched_again(hub: Hub) -> None:
    hub.damaged = True
    assert "model.safetensors of speech/digits arrived damaged" in refused(NAME)
    hub.damaged = False
    assert load_model(NAME).trained


def test_an_unsupported_model_is_refused_before_its_weights(hub: Hub, tmp_path: Path, folders: dict[str, Path]) -> None:
    other = tmp_path / "other"
    shutil.copytree(folders[NAME], other)
    change(other / "config.json", architectures=["WhisperForConditionalGeneration"])
    hub.models["speech/other"] = other
    assert "WhisperForConditionalGeneration" in refused("speech/other") and "model.safetensors" not in names_of(hub)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (other / name).unlink()
    change(other / "config.json", architectures=["Wav2Vec2ForCTC"])
    hub.commit = "f" * 40
    assert "neither model.safetensors nor pytorch_model.bin" in refused("speech/other")
    (other / "config.json").unlink()
    assert "has no config.json" in refused("speech/other")


def test_a_folder_here_wins_and_it_is_said(hub: Hub, folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    load_model(NAME)
    shutil.copytree(folders[NAME], Path(NAME))
    assert load_model(NAME).weights == load_model(folders[NAME]).weights
    assert any("the folder is used. hf:speech/digits names the other." in each.getMessage() for each in caplog.records)
    assert load_model(f"hf:{NAME}").weights.endswith(COMMIT)


# Languages


def test_only_the_adapter_of_the_language_is_downloaded(hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    german, local = load_model(f"{MMS}:deu"), load_model(f"{folders[MMS]}:deu")
    assert german.weights == f"{local.weights}, Hub {MMS}@{COMMIT}:deu" and german.case == local.case
    assert german.case.name == "mms-deu" and "Ä" in german.case.labels
    assert all(torch.equal(tensor, local.state()[name]) for name, tensor in german.state().items())
    assert {name for name in names_of(hub) if name.startswith("adapter.")} == {"adapter.deu.safetensors"}

    default = load_model(MMS)
    assert default.case.name == "mms-eng" and default.weights.endswith(f"Hub {MMS}@{COMMIT}")
    assert "adapter.eng.bin" in names_of(hub) and "adapter.tur.bin" not in names_of(hub)

    hub.asked.clear()
    assert load_model(f"hf:{MMS}@{COMMIT}:deu").weights == german.weights and hub.asked == []
    assert load_model(f"{MMS}@{COMMIT}:tur").case.name == "mms-tur"  # what the cache lacks is fetched
    offline(monkeypatch)
    hub.asked.clear()
    assert load_model(f"{MMS}:deu").weights == german.weights and load_model(MMS).weights == default.weights and hub.asked == []


def test_languages_that_cannot_be_had(hub: Hub, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(f"{MMS}:dee")
    assert said.startswith("speech/mms has no language “dee”. The most similar of its 3: deu, ") and str(tmp_path) not in said
    assert "model.safetensors" not in names_of(hub)
    assert "speech/digits has no language “deu”: its vocab.json is for one language. Give speech/digits as" in refused(f"{NAME}:deu")

    other = shutil.copytree(folders[MMS], tmp_path / "other")
    (other / "adapter.deu.safetensors").unlink()
    hub.models["speech/other"] = other
    assert "speech/other on the Hub has no adapter.deu.safetensors. Add it, or select a language whose" in refused("speech/other:deu")

    load_model(MMS)
    offline(monkeypatch)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
        said = f"{variable} is set, and the cache has {MMS} without adapter.deu.safetensors. Repeat the command once without {variable}."
        assert refused(f"{MMS}:deu") == said
        monkeypatch.delenv(variable)


def test_a_damaged_adapter_is_refused_and_fetched_again(hub: Hub) -> None:
    hub.damaged = True
    assert "adapter.deu.safetensors of speech/mms arrived damaged" in refused(f"{MMS}:deu")
    hub.damaged = False
    assert load_model(f"{MMS}:deu").trained


# Refusals


def test_models_that_may_not_be_read(hub: Hub) -> None:
    assert "is not a folder here, and the Hub has no model of this name, or it is private" in refused("speech/nothing")
    assert "has no revision v9" in refused(f"{NAME}@v9")
    hub.gated.add(NAME)
    assert "is gated. Accept its conditions at" in refused(NAME)
    hub.broken = True
    assert f"{hub.url} answered 503 for {SHARDS}" in refused(SHARDS)


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    before = load_model(SHARDS).weights
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "could not be downloaded from http://127.0.0.1" in refused(NAME)
        assert "could not be downloaded from http://127.0.0.1" in refused(f"{MMS}:deu")
        assert not caplog.records and load_model(SHARDS).weights == before
        (said,) = (each.getMessage() for each in caplog.records)
        assert "does not answer" in said and said.endswith(f": {SHARDS} is commit {COMMIT} of the cache.")
    offline(monkeypatch)
    assert "HF_HUB_OFFLINE is set, and the cache does not have speech/digits." in refused(NAME)


def test_an_incomplete_cache_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_model(SHARDS)
    offline(monkeypatch)
    snapshot = tmp_path / "hf" / "hub" / "models--speech--shards" / "snapshots" / COMMIT
    part = max(snapshot.glob("model-*.safetensors"))
    kept = part.readlink()
    part.unlink()
    assert f"without {part.name}. Repeat the command once without HF_HUB_OFFLINE." in refused(SHARDS)
    part.symlink_to(kept)
    load_model(SHARDS)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (snapshot / name).unlink(missing_ok=True)
    assert "without preprocessor_config.json" in refused(SHARDS)


def test_without_the_package(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolchain.accuracy import transcriber

    monkeypatch.setattr(transcriber, "installed", lambda name: None)
    with pytest.raises(AsrDeployError, match=r"^speech/digits does not exist here\. To load .* install the extra toolchain: "):
        transcriber.open_transcriber(NAME)


# By commands, with the variables of the environment


def test_commands_take_a_name_of_the_hub(hub: Hub, tmp_path: Path, cli: Callable[..., Any]) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret", "no_proxy": "127.0.0.1"}
    done = run_command("evaluate", NAME, "--limit", "2", "--workers", "1", "-o", "result", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert f"Hub {NAME}@{COMMIT}" in (tmp_path / "result" / "result.json").read_text()
    headers = [{key.lower(): value for key, value in each.items()} for _, _, each in hub.asked]
    assert all(each["authorization"] == "Bearer hf_secret" and "torch" not in each["user-agent"] for each in headers)
    assert "hf_secret" not in done.stdout + done.stderr

    assert cli("compress", "--model", NAME, "--codec", "fp16", "-o", str(tmp_path / "hub.asrb")).returncode == 0
    assert read_header(tmp_path / "hub.asrb").weights.endswith(COMMIT)
    assert "has no model of this name" in complaint(cli("testcases", "--model", "speech/nothing"))
