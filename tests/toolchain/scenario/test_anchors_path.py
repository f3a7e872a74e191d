"""Evaluation of the large anchors, from the download of weights and corpus to the WER, with everything that may go wrong."""

import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from device_runner.errors import AsrDeployError
from tests.helpers import complaint, run_command
from tests.hosts import ARCHIVE, WHOLE, Cli, corpus, evaluated, heard_all, hosts, killed, packed, started, surroundings, tree, until
from tests.http_files import FileServer, serving
from toolchain.models import weight_bounds
from toolchain.models.loading import load_model
from toolchain.models.test_cases import find_test_case

CHECKPOINT = "/torchaudio/models/wav2vec2_fairseq_base_ls960_asr_ls960.pth"
HUBERT = "/torchaudio/models/hubert_fairseq_large_ll60k_asr_ls960.pth"
UTTERANCES = 2640  # LibriSpeech's test-clean has 2620, of 40 speakers

# From end to end


def published_state(name: str, seed: int) -> dict[str, torch.Tensor]:
    """Random weights in the format of TorchAudio's downloads: older names of the weight normalisation, unused fairseq rows in aux."""
    torch.manual_seed(seed)
    network = torchaudio.models.wav2vec2_model(**getattr(torchaudio.pipelines, name)._params)
    state = {}
    for key, tensor in network.state_dict().items():
        if key.startswith("aux."):
            tensor = torch.cat([tensor[:1], torch.full((3, *tensor.shape[1:]), 1e6), tensor[1:]])
        state[key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")] = (
            tensor
        )
    return state


def compute_times(folder: Path) -> dict[str, float]:
    """Return the compute seconds of every finished utterance by id, without a line that is being written."""
    # In this order, because a running evaluation writes the time first.
    paths = [path for path in (folder / "transcripts.jsonl", *sorted(folder.glob("*.jsonl"))) if path.exists()]
    lines = [[json.loads(line) for line in path.read_text().split("\n")[:-1]] for path in paths]
    times = {each["id"]: each["compute_seconds"] for of_one in lines for each in of_one if "compute_seconds" in each}
    return {each["id"]: times[each["id"]] for each in lines[0]} if lines else {}


MEASURED = """
import sys
from pathlib import Path
from toolchain.models.loading import load_model
def peak():  # of this program only: getrusage would include the program that started it
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
model = load_model("WAV2VEC2_ASR_BASE_960H", sys.argv[1])
print((peak() - before) / sum(each.nbytes for each in model.state().values()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_loading_takes_the_memory_of_the_weights_once(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(published_state("WAV2VEC2_ASR_BASE_960H", seed=0), path)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.4


@pytest.mark.slow
def test_from_the_hosts_to_a_word_error_rate_with_cuts_and_kills(tmp_path: Path) -> None:
    state = published_state("WAV2VEC2_ASR_BASE_960H", seed=0)
    assert state["aux.weight"].shape[0] == 32 and any(key.endswith("weight_g") for key in state)
    torch.save(state, tmp_path / "served.pth")
    del state
    archive = packed(corpus("test-clean", UTTERANCES, speakers=40))
    with (tmp_path / "served.pth").open("rb") as file:
        checkpoint = mmap(file.fileno(), 0, access=ACCESS_READ)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with serving({CHECKPOINT: checkpoint, ARCHIVE: archive}) as server:
        env = surroundings(tmp_path, server, archive, sha256)
        base = ("evaluate", "WAV2VEC2_ASR_BASE_960H", "--data", "librispeech", "--split", "test-clean", "--limit", "8", "-o", "base")
        kept = tmp_path / "torch" / "hub" / "checkpoints" / Path(CHECKPOINT).name
        part = kept.with_name(kept.name + ".part")

        # The connection breaks after one third, and the process is killed after two thirds.
        third = len(checkpoint) // 3
        server.cuts, server.holds = [third], [third]
        process = started(["-m", "asrdeploy", *base], env, tmp_path)
        until(lambda: server.held.is_set() and part.stat().st_size > third, process)
        killed(process)
        server.released.set()
        have = part.stat().st_size
        assert not kept.exists()

        server.cuts = [WHOLE, len(archive) // 2]
        done = run_command(*base, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        asked = [(CHECKPOINT, None), (CHECKPOINT, f"bytes={third}-"), (CHECKPOINT, f"bytes={have}-")]
        asked += [(ARCHIVE, None), (ARCHIVE, f"bytes={len(archive) // 2}-")]
        assert server.asked == asked
        assert list((tmp_path / "torch").rglob("*.*")) == [kept]
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["LibriSpeech", "test-clean.tar.gz"]
        result = json.loads((tmp_path / "base" / "result.json").read_text())
        assert result["utterances"] == 8 and "downloaded from the TorchAudio bundle" in result["identity"]

        # Now the whole corpus is in the cache.
        tiny = ("evaluate", "DIGITS_ASR_TINY", "--data", "librispeech", "--split", "test-clean", "--threads", "1", "-o", "tiny")
        process = started(["-m", "asrdeploy", *tiny], env, tmp_path)
        until(lambda: len(compute_times(tmp_path / "tiny")) >= 100, process)
        killed(process)
        before = compute_times(tmp_path / "tiny")
        assert 100 <= len(before) < UTTERANCES and not (tmp_path / "tiny" / "result.json").exists()
        done = run_command(*tiny, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        after = compute_times(tmp_path / "tiny")
        assert len(after) == UTTERANCES and after.items() >= before.items()  # finished utterances were not transcribed again
        assert json.loads((tmp_path / "tiny" / "result.json").read_text())["utterances"] == UTTERANCES
        assert server.asked == asked
    assert not (tmp_path / "home").exists()


# What may go wrong


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with hosts(tmp_path, monkeypatch) as server:
        yield server


def test_a_host_that_sends_elsewhere_as_openslr_does(mirror: FileServer, cli: Cli, tmp_path: Path) -> None:
    mirror.files = {"/mirror/test-clean.tar.gz": mirror.files[ARCHIVE]}
    mirror.redirects = {ARCHIVE: mirror.url + "/mirror/test-clean.tar.gz"}
    mirror.cuts = [1000]
    assert heard_all(cli, tmp_path)
    assert [wanted for path, wanted in mirror.asked if path != ARCHIVE] == [None, "bytes=1000-"]


CUT = packed(corpus("test-clean", 8))
BAD_ARCHIVES = {
    "escape": (packed(corpus("test-clean", 8) | {"LibriSpeech/../../evil": b"x"}), "is not safe to unpack"),
    "symlink": (packed(corpus("test-clean", 8), link="/etc"), "is not safe to unpack"),
    "cut": (CUT[: len(CUT) - 500], "is damaged or not a tar archive"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_an_archive_that_cannot_be_unpacked_changes_nothing(
    kind: str, mirror: FileServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, reason = BAD_ARCHIVES[kind]
    before = tree(tmp_path)
    mirror.files[ARCHIVE] = bad
    monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_SHA256", hashlib.sha256(bad).hexdigest())
    assert reason in complaint(evaluated(cli), alone=False)
    assert tree(tmp_path) == before | {"cache/test-clean.tar.gz": bad}


def test_a_host_that_goes_away_for_good(mirror: FileServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, part = mirror.files[ARCHIVE], tmp_path / "cache" / "test-clean.tar.gz.part"
    with ExitStack() as stack:
        leaving = stack.enter_context(serving({ARCHIVE: archive}))
        leaving.holds = [1000]
        monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_URL", leaving.url + "/resources/12")
        leave = threading.Thread(target=lambda: leaving.held.wait() and stack.close())
        leave.start()
        sentence = complaint(evaluated(cli), alone=False)
        leave.join()
    assert "Cannot download test-clean.tar.gz from 127.0.0.1 (Connection refused)" in sentence
    assert part.read_bytes() == archive[:1000]
    monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_URL", mirror.url + "/resources/12")
    assert heard_all(cli, tmp_path)
    assert mirror.asked == [(ARCHIVE, "bytes=1000-")]


def test_a_file_that_is_larger_than_the_disk(mirror: FileServer, cli: Cli, tmp_path: Path) -> None:
    before = tree(tmp_path)
    mirror.extra_length = WHOLE
    sentence = complaint(evaluated(cli), alone=False)
    assert f"test-clean.tar.gz requires another 1.2 EB, but {tmp_path / 'cache'} has only " in sentence
    assert tree(tmp_path) == before and len(mirror.asked) == 1


@pytest.mark.slow
def test_a_checkpoint_without_a_published_checksum_is_held_to_its_first_download(
    mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_bounds, "SMALL", 1 << 31)  # the file below stores one number for each tensor
    path = tmp_path / "torch" / "hub" / "checkpoints" / Path(HUBERT).name
    mirror.files[HUBERT] = b"<html>Please log in</html>"
    with pytest.raises(AsrDeployError, match=rf"cannot be read as weights.*\. Delete {path} to download it again\.$"):
        load_model("HUBERT_ASR_LARGE")
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # the page of a network portal is not saved
    path.unlink()

    with torch.device("meta"):
        state = torchaudio.models.wav2vec2_model(**torchaudio.pipelines.HUBERT_ASR_LARGE._params).state_dict()
    content = io.BytesIO()
    torch.save({name: torch.full((), 0.5).expand(tensor.shape) for name, tensor in state.items()}, content)  # a few kilobytes
    mirror.files[HUBERT] = content.getvalue()
    model = load_model("HUBERT_ASR_LARGE")
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    assert path.with_suffix(".sha256").read_text() == sha256 + "\n" and sha256[:16] in model.weights
    weights = [each for each in model.network.parameters() if each.numel()]
    assert len({each.data_ptr() for each in weights}) == len(weights) and all(each.is_contiguous() for each in weights)
    assert sum(each.numel() for each in model.network.parameters()) == find_test_case("2").anchor.num_param - 128

    path.unlink()
    mirror.files[HUBERT] = content.getvalue() + b"changed"
    with pytest.raises(AsrDeployError, match=f"not the expected file .*expected {sha256[:12]}"):
        load_model("HUBERT_ASR_LARGE")
    assert [each.name for each in path.parent.iterdir()] == [path.with_suffix(".sha256").name]
