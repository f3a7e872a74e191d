"""One contract, several runners: the Python runner, the JVM core and the Arm bundle write the same files for the same jobs."""

import base64
import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import read_job, schemas
from device_runner.jobs import wav_bytes
from device_runner.labels import select_labels
from tests.device_runner.runner_places import EMULATED, SCHEMAS, Place, command_of, schema
from tests.helpers import REPOSITORY
from toolchain.data.datasets import DataSet, Utterance

HEAD = 44  # bytes of a WAV before its samples
Make = Callable[..., Place]


@pytest.fixture
def place_of(tmp_path: Path) -> Make:
    """Return a function that creates a job folder for a runner, given its name."""

    def make(name: str, folder: str = "") -> Place:
        place = Place(tmp_path / (folder or name), command_of(name))
        place.folder.mkdir()
        return place

    return make


@pytest.fixture(params=["python", "jvm"])
def place(request: pytest.FixtureRequest, place_of: Make) -> Place:
    return place_of(request.param)


@pytest.fixture(params=["python", "jvm", EMULATED])
def any_place(request: pytest.FixtureRequest, place_of: Make) -> Place:
    """A job folder for each runner, including the emulated one, which takes seconds to start."""
    return place_of(request.param)


@pytest.fixture(scope="session")
def wavs(speech: tuple[Utterance, ...]) -> dict[str, bytes]:
    """WAV files of recordings, by id."""
    return {each.id: wav_bytes(read_audio(each.path, 16_000), 16_000) for each in speech}


def seconds_of(wav: bytes) -> float:
    return (len(wav) - HEAD) / 2 / 16_000


# Jobs that succeed


def test_the_published_schemas_are_the_contract() -> None:
    assert {path.name: json.loads(path.read_text()) for path in SCHEMAS.iterdir()} == schemas()


def test_a_job_of_transcripts(place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    chosen = dict(list(wavs.items())[:3])
    place.write(place.artifact(tiny_fp32), chosen, threads=2, logits=True)
    schema("job").validate(json.loads(place.job.read_text()))
    read_job(place.job)
    result = place.finish()
    assert (result.error, result.valid, result.reasons, result.timings, result.resumed) == (None, True, (), (), 0)
    assert [each.id for each in result.transcripts] == list(chosen)
    assert [each.audio_seconds for each in result.transcripts] == [seconds_of(each) for each in chosen.values()]
    for each in (result.import_seconds, result.load_seconds, result.first_inference_seconds, result.baseline_bytes):
        assert each is not None and each > 0
    assert result.peak_bytes is not None and result.baseline_bytes is not None and result.peak_bytes >= result.baseline_bytes
    assert result.versions["onnxruntime"]
    labels = tiny_fp32.manifest.labels
    for each in result.transcripts:
        logits = np.frombuffer(base64.b64decode(each.logits or "", validate=True), "<f4").reshape(-1, len(labels))
        assert select_labels(logits, labels) == each.hypothesis != ""


def test_all_runners_give_the_same_logits(place_of: Make, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    def logits_of(name: str) -> list[np.ndarray]:
        place = place_of(name)
        place.write(place.artifact(tiny_fp32), dict(list(wavs.items())[-2:]), logits=True)
        return [np.frombuffer(base64.b64decode(each.logits or ""), "<f4") for each in place.finish().transcripts]

    ours = logits_of("python")
    for name in ("jvm", EMULATED):
        for mine, theirs in zip(ours, logits_of(name), strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-4)


def test_logits_only_where_asked(place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    place.write(place.artifact(tiny_fp32), wavs)
    assert [each.logits for each in place.finish().transcripts] == [None] * len(wavs)


@pytest.mark.parametrize(
    "settings, counts",
    [
        ({"repeats": 3, "warmup": 2, "threads": 2}, [3, 3]),
        ({"repeats": 2}, [2, 2]),
        ({}, [1, 1]),
    ],
)
def test_a_job_of_times(place: Place, settings: dict[str, int], counts: list[int], tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    chosen = dict(list(wavs.items())[:2])
    place.write(place.artifact(tiny_fp32), chosen, mode="latency", **settings)
    result = place.finish()
    assert (result.error, result.valid, result.transcripts, result.resumed) == (None, True, (), 0)
    assert [len(each.samples) for each in result.timings] == counts
    assert [(each.id, each.audio_seconds) for each in result.timings] == [(name, seconds_of(wav)) for name, wav in chosen.items()]
    assert all(sample > 0 for each in result.timings for sample in each.samples)
    assert place.finish().resumed == 0  # latency jobs do not resume


def test_a_job_of_so_many_seconds(any_place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    any_place.write(any_place.artifact(tiny_fp32), dict(list(wavs.items())[:1]), mode="latency", repeats=2, minimum_seconds=0.3)
    samples = any_place.finish().timings[0].samples
    assert sum(samples) >= 0.3 and len(samples) >= 2
    assert len(samples) == 2 or sum(samples[:-1]) < 0.3


# Resuming


def test_a_killed_job_goes_on_where_it_was(place_of: Make, tiny_fp32: Artifact, test_clean: DataSet) -> None:
    waveforms = {each.id: wav_bytes(read_audio(each.path, 16_000), 16_000) for each in test_clean.utterances}
    for name in ("python", "jvm"):
        place = place_of(name)
        place.write(place.artifact(tiny_fp32), waveforms, logits=True)
        with place.start() as process:
            while process.poll() is None and not (place.lines.exists() and place.lines.read_bytes().count(b"\n") >= 3):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        left = place.lines.read_bytes()
        whole = left[: left.rfind(b"\n") + 1]
        result = place.finish()
        assert 2 <= result.resumed == whole.count(b"\n") - 1
        assert [each.id for each in result.transcripts] == list(waveforms)
        assert place.lines.read_bytes().startswith(whole.splitlines()[0])
        # The earlier lines are unchanged, including their times: the recordings were not transcribed again.
        assert [json.loads(each) for each in place.lines.read_bytes().splitlines()][: whole.count(b"\n")] == [
            json.loads(each) for each in whole.splitlines()
        ]


def test_a_line_that_was_cut_is_made_again(any_place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    chosen = dict(list(wavs.items())[:3])
    any_place.write(any_place.artifact(tiny_fp32), chosen, logits=True)
    first = {"id": next(iter(chosen)), "audio_seconds": 1.5, "hypothesis": "KEPT ÄS IT WAS", "compute_seconds": 0.5, "logits": "AAAA"}
    cut = json.dumps(first | {"id": list(chosen)[1]})[:-20]
    any_place.lines.write_text(f'{{"job": "{any_place.digest}"}}\n{json.dumps(first, ensure_ascii=False)}\n{cut}', encoding="utf-8")
    result = any_place.finish()
    assert result.resumed == 1 and [each.id for each in result.transcripts] == list(chosen)
    assert result.transcripts[0].model_dump() == first
    assert all(each.hypothesis not in ("", "KEPT ÄS IT WAS") for each in result.transcripts[1:])


@pytest.mark.parametrize("case", ["another job", "no job", "another order", "twice", "unknown", "not a line", "no text", "a line of times"])
def test_lines_that_do_not_fit_are_not_used(place: Place, case: str, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    chosen = dict(list(wavs.items())[:2])
    place.write(place.artifact(tiny_fp32), chosen)
    names = {"another order": list(chosen)[::-1], "twice": [next(iter(chosen))] * 2, "unknown": ["x"]}.get(case, list(chosen))
    heard = [json.dumps({"id": name, "audio_seconds": 1.5, "hypothesis": "STALE", "compute_seconds": 0.5}) for name in names]
    first = json.dumps({"job": "0" * 64 if case == "another job" else place.digest})
    lines = [*([] if case == "no job" else [first]), *heard]
    lines += {"not a line": ['{"id": "more"}'], "a line of times": ['{"id": "x", "audio_seconds": 1, "samples": [1]}']}.get(case, [])
    place.lines.write_bytes("".join(f"{line}\n" for line in lines).encode() + (b"\xff\xfe\n" if case == "no text" else b""))
    result = place.finish()
    assert result.resumed == 0 and [each.id for each in result.transcripts] == list(chosen)
    assert "STALE" not in place.lines.read_text() + place.result.read_text()


def test_a_job_that_is_done_is_not_done_again(place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    place.write(place.artifact(tiny_fp32), wavs)
    first, second = place.finish(), place.finish()
    assert second.resumed == len(wavs) and second.transcripts == first.transcripts and second.load_seconds is None


# Jobs that fail


def short(wav: bytes, samples: int) -> bytes:
    """Return the beginning of a WAV as a WAV."""
    return wav_bytes(np.frombuffer(wav[HEAD:], "<i2")[:samples].astype(np.float32) / 32768, 16_000)


def at_8_kilohertz(wav: bytes) -> bytes:
    return wav_bytes(np.frombuffer(wav[HEAD:], "<i2").astype(np.float32) / 32768, 8_000)


BAD_RECORDINGS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda wav: wav[: len(wav) // 2], "cut short"),
    "cut in its head": (lambda wav: wav[:30], ""),
    "of another rate": (at_8_kilohertz, "16000 Hz"),
    "empty": (lambda wav: short(wav, 0), "no samples"),
    "no file at all": (lambda wav: b"", ""),
    "too short": (lambda wav: short(wav, 10), "at least"),
    "too long": (lambda wav: wav_bytes(np.zeros(600_000, np.float32), 16_000), "at most"),
    "stereo": (lambda wav: wav[:22] + b"\x02" + wav[23:], "mono"),
    "not finite": (lambda wav: wav_bytes(np.full(16_000, np.nan, np.float32), 16_000), "not finite"),
    "text": (lambda wav: b"FIVE SIX", ""),
}


@pytest.mark.parametrize("case", BAD_RECORDINGS)
def test_a_bad_recording_ends_the_job_and_what_is_finished_is_kept(
    place: Place, case: str, tiny_fp32: Artifact, wavs: dict[str, bytes]
) -> None:
    make, words = BAD_RECORDINGS[case]
    wav = next(iter(wavs.values()))
    place.write(place.artifact(tiny_fp32), {"good": wav, "the bad one": make(wav), "after": wav})
    result = place.fail()
    assert result.error and result.error.startswith("the bad one: ") and words in result.error
    assert [each.id for each in result.transcripts] == ["good"]
    if case == "cut":
        again = place.fail()  # resumes and fails at the same recording
        assert again.resumed == 1 and again.transcripts == result.transcripts and again.error == result.error


def test_an_emulated_runner_fails_in_a_sentence(place_of: Make, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    place = place_of(EMULATED)
    wav = next(iter(wavs.values()))
    place.write(place.artifact(tiny_fp32), {"good": wav, "the bad one": wav[: len(wav) // 2]})
    result = place.fail()
    assert result.error and result.error.startswith("the bad one: ") and "cut short" in result.error
    assert [each.id for each in result.transcripts] == ["good"] and result.device.kind == "emulated"


@pytest.mark.parametrize("what", ["manifest", "model", "recording"])
@pytest.mark.parametrize("how", ["missing", "changed", "cut"])
def test_files_that_are_missing_or_changed_end_the_job(
    place: Place, what: str, how: str, tiny_fp32: Artifact, wavs: dict[str, bytes]
) -> None:
    wav = next(iter(wavs.values()))
    manifest = place.artifact(tiny_fp32)
    place.write(manifest, {"a": wav})
    names = {"manifest": manifest, "model": tiny_fp32.digest, "recording": hashlib.sha256(wav).hexdigest()}
    file = place.folder / "files" / names[what]
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if how == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    result = place.fail()
    assert result.error and ("is missing" if how == "missing" else "does not match its sha256") in result.error
    assert result.transcripts == ()


@pytest.mark.parametrize("case", ["no model", "labels", "format", "manifest", "provider", "seconds"])
def test_what_cannot_be_run_ends_the_job(place: Place, case: str, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    settings: dict[str, object] = {}
    if case == "no model":
        digest, words = place.artifact(tiny_fp32, b"this is no model"), "cannot load"
    elif case == "labels":
        digest, words = place.artifact(tiny_fp32, labels=["-", "A"]), "2 labels"
    elif case == "format":
        digest, words = place.artifact(tiny_fp32, format="coreml"), "coreml"
    elif case == "manifest":
        digest, words = place.store(b'{"version": 1}'), "manifest"
    elif case == "provider":
        digest, words, settings = (
            place.artifact(tiny_fp32),
            "has no provider nnapi on this device. Available providers: cpu",
            {"provider": "nnapi"},
        )
    else:
        digest, words, settings = place.artifact(tiny_fp32), "exceeded its time limit of", {"limits": {"seconds": 1e-6}}
    place.write(digest, wavs, **settings)
    result = place.fail()
    assert result.error and words in result.error
    assert len(result.transcripts) < 2 and result.provider == settings.get("provider", "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"version": 2},
        {"threads": 0},
        {"mode": "both"},
        {"provider": "cuda"},
        {"artifact": "../" + "0" * 61},
        {"audio": []},
        {"audio": [{"id": "a", "sha256": "0" * 64}] * 2},
        {"limits": {"seconds": -1}},
        {"mode": None},
    ],
    ids=lambda changes: json.dumps(changes)[:30],
)
def test_what_is_no_job_of_this_version_is_refused(place: Place, changes: dict[str, Any], tiny_fp32: Artifact) -> None:
    good = {"mode": "accuracy", "artifact": "0" * 64, "audio": [{"id": "a", "sha256": "0" * 64}]}
    place.job.write_text(json.dumps(good | changes))
    if changes != {"audio": [{"id": "a", "sha256": "0" * 64}] * 2}:  # JSON Schema cannot require unique ids
        assert not schema("job").is_valid(good | changes)
    place.result.write_text("old")
    assert "is not a valid job" in place.refuse()
    assert place.result.read_text() == "old" and not place.lines.exists()  # nothing is written before the job is validated


@pytest.mark.parametrize("case", ["missing", "folder", "empty", "bytes", "deep"])
def test_a_job_that_cannot_be_read_is_refused(place: Place, case: str) -> None:
    if case == "folder":
        place.job.mkdir()
    elif case != "missing":
        place.job.write_bytes({"empty": b"", "bytes": b"\xff\xfe\x00{}", "deep": b"[" * 50_000}[case])
    assert str(place.job) in place.refuse()
    assert not place.result.exists() and not place.lines.exists()


@pytest.mark.parametrize("case", ["in a file", "a folder"])
def test_a_result_that_cannot_be_written_is_a_sentence(place: Place, case: str, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    place.write(place.artifact(tiny_fp32), wavs)
    result = place.job / "result.json"
    if case == "a folder":
        result = place.folder / "result.json"
        result.mkdir()
    assert str(result) in place.refuse(result)


def test_files_are_looked_for_beside_the_job(place: Place, tiny_fp32: Artifact, wavs: dict[str, bytes]) -> None:
    place.write(place.artifact(tiny_fp32), dict(list(wavs.items())[:1]), files="files/deeper")
    shutil.move(place.folder / "files", place.folder / "deeper")
    (place.folder / "files").mkdir()
    shutil.move(place.folder / "deeper", place.folder / "files" / "deeper")
    assert place.finish().error is None


def test_wrong_arguments_are_answered_with_the_usage(place: Place) -> None:
    done = subprocess.run([*place.command, "one"], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1
