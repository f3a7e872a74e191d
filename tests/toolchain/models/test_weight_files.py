"""Weights from files and from a server: loading, and files that are refused without running code from them."""

import hashlib
import io
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.recogniser import fold_weight_norm, not_finite
from tests.http_files import FileServer, serving
from tests.toolchain.models.damaged_weights import State, bundled, refused, saved
from toolchain.data import download as download_module
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.models.test_cases import LABELS, UNUSED_ROWS

CHECKPOINT = "wav2vec2_fairseq_base_ls960_asr_ls960.pth"


# Weights from files


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_from_a_file(tmp_path: Path, tiny: AnchorModel, suffix: str) -> None:
    path = saved(tmp_path / f"weights{suffix}", bundled())
    model = load_model("0", str(path))
    assert model.trained and model.weights == f"file, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_weights_in_half_precision_become_fp32(tmp_path: Path) -> None:
    model = load_model("0", str(saved(tmp_path / "half.safetensors", {name: tensor.half() for name, tensor in bundled().items()})))
    assert {tensor.dtype for tensor in model.state().values()} == {torch.float32}


def with_unused_rows(state: State) -> State:
    """Put fairseq's rows behind the blank, as TorchAudio's published checkpoints have them."""
    rows = {}
    for name in ("aux.weight", "aux.bias"):
        unused = torch.full((len(UNUSED_ROWS), *state[name].shape[1:]), 1e6)
        rows[name] = torch.cat([state[name][:1], unused, state[name][1:]])
    return state | rows


def published(state: State) -> State:
    """Return a state dict with the older names of weight norm, as TorchAudio's published checkpoints have them."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    found = {}
    for name, tensor in with_unused_rows(state).items():
        for new, old in names.items():
            name = name.replace(new, old)
        found[name] = tensor
    return found


def test_rows_that_no_label_uses_are_dropped(tmp_path: Path, tiny: AnchorModel) -> None:
    state = with_unused_rows(bundled())
    assert state["aux.weight"].shape[0] == state["aux.bias"].shape[0] == 32
    model = load_model("0", str(saved(tmp_path / "weights.safetensors", state)))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_a_checkpoint_in_torchaudios_published_form(tmp_path: Path, tiny: AnchorModel) -> None:
    state = published(bundled())
    assert any(name.endswith("weight_g") for name in state)
    model = load_model("0", str(saved(tmp_path / "weights.pt", state)))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_a_missing_file(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.pt'} does not exist" in refused("0", tmp_path / "none.pt")
    assert f"{tmp_path} is a folder. Give the file of the weights." in refused("0", tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_cut_file(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"weights{suffix}", bundled())
    content = path.read_bytes()
    for kept in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert "cannot be read as weights" in refused("0", path)


class Evil:
    """An object whose unpickling creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, legacy: bool) -> None:
    trap = tmp_path / "sprung"
    state = {**bundled(), "aux.bias": Evil(trap)}
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    assert "cannot be read as weights" in refused("0", tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(state))
    assert "cannot be read as weights" in refused("0", tmp_path / "plain.pt")
    assert not trap.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())  # noqa: S301  # the trap does work
    assert trap.exists()


def legacy_file() -> bytes:
    content = io.BytesIO()
    torch.save({"w": torch.ones(3)}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


LEGACY = legacy_file()


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.tuples(st.integers(0, len(LEGACY) - 1), st.integers(0, 255))))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_never_crash(tmp_path_factory: pytest.TempPathFactory, damage: bytes | tuple[int, int]) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    if isinstance(damage, tuple):
        content = bytearray(LEGACY)
        content[damage[0]] = damage[1]
        damage = bytes(content)
    path.write_bytes(damage)
    refused("0", path)  # even the undamaged file does not fit


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.ones(3), {"model": {"a": 1}}], ids=range(5))
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "is not a state dict" in refused("0", tmp_path / "weights.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = bundled()
    state["aux.weight"][3, 3] = value
    assert not_finite(state) == ["aux.weight"]
    assert "contains NaN or infinite weights, first in aux.weight" in refused("0", saved(tmp_path / "weights.safetensors", state))


@pytest.mark.parametrize("shape", [(28, 160), (33, 160), (29, 161), (29,), ()])
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = bundled() | {"aux.weight": torch.zeros(shape)}
    assert "size mismatch for aux.weight" in refused("0", saved(tmp_path / "weights.safetensors", state))


def test_missing_and_unexpected_names(tmp_path: Path) -> None:
    state = bundled()
    del state["aux.bias"]
    assert "aux.bias is missing (1 names differ)" in refused("0", saved(tmp_path / "less.safetensors", state))
    state["mask.colour"] = torch.ones(1)
    assert "aux.bias is missing (2 names differ)" in refused("0", saved(tmp_path / "both.safetensors", state))
    more = bundled() | {"colour": torch.ones(1)}
    assert "colour is unknown (1 names differ)" in refused("0", saved(tmp_path / "more.safetensors", more))
    assert "does not fit the model" in refused("0", saved(tmp_path / "other.safetensors", {"a": torch.ones(1)}))
    torch.save({1: torch.ones(1)}, tmp_path / "numbers.pt")
    assert refused("0", tmp_path / "numbers.pt")


# Weights from a server


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serve checkpoints at the URL in the environment, with an empty torch cache at tmp_path/cache."""
    with serving({f"/models/{CHECKPOINT}": b"not what was expected"}) as server:
        monkeypatch.setattr(download_module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", server.url + "/models")
        monkeypatch.delenv("ASRDEPLOY_WEIGHTS_SHA256", raising=False)
        yield server


@pytest.fixture(autouse=True)
def _default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def test_a_download_that_is_not_the_published_file(mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not the expected file" in refused("WAV2VEC2_ASR_BASE_960H")  # against the sha256 that the program knows
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_SHA256", "0" * 64)
    assert "expected 000000000000…" in refused("1")
    assert [path for path, _ in mirror.asked] == [f"/models/{CHECKPOINT}"] * 2
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_download_from_nowhere(mirror: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/models")
        assert f"Cannot download {CHECKPOINT} from 127.0.0.1" in refused("1")
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", "ftp://127.0.0.1/models")
    assert "http:// or https://" in refused("1")


@pytest.mark.slow
def test_a_published_checkpoint_is_downloaded_once(mirror: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchaudio.models.wav2vec2_model(**torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H._params)
    content = io.BytesIO()
    torch.save(published(dict(network.state_dict())), content)
    mirror.files[f"/models/{CHECKPOINT}"] = content.getvalue()
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_SHA256", hashlib.sha256(content.getbuffer()).hexdigest())
    # With and without a slash at its end, the address is the same.
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", mirror.url + "/models/")
    model = load_model("WAV2VEC2_ASR_BASE_960H")
    assert model.trained and model.minimum_samples == 400 and model.case.labels == LABELS
    fold_weight_norm(network)
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in network.state_dict().items())
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", mirror.url + "/models")
    load_model("1")
    assert len(mirror.asked) == 1
