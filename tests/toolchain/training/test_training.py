"""Parts of the training on small data, with real synthesisers."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from device_runner.errors import AsrDeployError
from toolchain.models.digits_model import digits_asr_tiny, start_with_filterbank
from toolchain.models.test_cases import LABELS, TEST_CASES
from toolchain.training import batches, train
from toolchain.training.augment import SAMPLE_RATE, Augmentation, change_speed, noise, room, shift_formants
from toolchain.training.batches import Batches, join, read_fsdd
from toolchain.training.curve import plot_log
from toolchain.training.score import connected_digits
from toolchain.training.speech_sets import SPLITS, draw_texts
from toolchain.training.synthesis import Manner, Speech, check_synthesisers, say, training_voices, trim
from toolchain.training.voices import DIGITS, ESPEAK_ACCENTS, ESPEAK_TRAIN_VARIANTS, TRAIN_VOICES, Voice

MANNER = Manner(1.0, 1.0, 0)


@pytest.fixture(scope="session")
def spoken() -> Speech:
    """Four utterances of each of two synthesisers."""
    texts = [("ONE",), ("TWO", "THREE"), ("SEVEN",), ("FOUR", "NINE", "ZERO")]
    voices = [Voice("espeak-ng", "en-us+m1"), Voice("flite", "awb")]
    return Speech.of([(say(voice, words, MANNER), words) for voice in voices for words in texts])


def test_the_voices_of_training_and_of_the_sets_are_different() -> None:
    said = [voice for speakers in SPLITS.values() for voice, *_ in speakers]
    assert len(said) == len(set(said))
    heard = {voice for voice, _ in TRAIN_VOICES} | {Voice("espeak-ng", f"{a}+{v}") for a in ESPEAK_ACCENTS for v in ESPEAK_TRAIN_VARIANTS}
    assert not heard & set(said)
    # The variant decides the voice, so it may not appear with another accent either.
    assert not {voice.name.split("+")[1] for voice in said if voice.family == "espeak-ng"} & set(ESPEAK_TRAIN_VARIANTS)


@pytest.mark.parametrize(
    "voice", [Voice("espeak-ng", "en-gb+f3"), Voice("flite", "slt"), Voice("festival", "kal_diphone")], ids=lambda voice: voice.family
)
def test_a_synthesiser_speaks(voice: Voice) -> None:
    short, long = say(voice, ("ONE",), MANNER), say(voice, ("ONE", "SEVEN", "SIX"), MANNER)
    assert 0.1 < len(short) / SAMPLE_RATE < 1.5
    assert len(long) > 1.5 * len(short)
    assert np.abs(long).max() == pytest.approx(0.5, abs=1e-3)
    assert len(say(voice, ("ONE", "SEVEN", "SIX"), Manner(1.4, 1.0, 0))) < len(long)


@pytest.mark.parametrize("debian", [True, False])
def test_synthesisers_that_are_missing_are_named_with_their_packages(debian: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if debian:
        (tmp_path / "apt-get").write_text("#!/bin/sh\n")
        (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = "apt-get install espeak-ng flite festival" if debian else "the packages are espeak-ng flite festival"
    with pytest.raises(AsrDeployError, match=rf"^The synthesisers espeak-ng, flite, festival are missing\. .*{words} .*\.$"):
        check_synthesisers()


def test_without_pico_its_voices_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ttspico", None)
    assert {voice.family for voice, _ in training_voices()} == {voice.family for voice, _ in TRAIN_VOICES} - {"pico"}
    said = capsys.readouterr().out
    assert "SVOX pico is not installed" in said and "asrdeploy[training]" in said


def test_an_unknown_voice_is_one_sentence() -> None:
    with pytest.raises(AsrDeployError, match=r"synthesiser festival failed|returned silence"):
        say(Voice("festival", "nobody"), ("ONE",), MANNER)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3 * SAMPLE_RATE), st.integers(0, 2**32))
def test_augmented_speech_is_finite_and_never_louder_than_full_scale_by_much(samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    waveform = (rng.standard_normal(samples) * 0.1).astype(np.float32)
    augmented = Augmentation()(waveform, rng)
    assert augmented.dtype == np.float32
    assert np.isfinite(augmented).all()
    assert np.abs(augmented).max(initial=0) < 2.5


def test_augmentation_is_decided_by_its_generator(spoken: Speech) -> None:
    waveform, _ = spoken[1]
    first, again, other = (Augmentation()(waveform, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_formants_that_are_not_shifted_leave_the_waveform(spoken: Speech) -> None:
    waveform, _ = spoken[1]
    np.testing.assert_allclose(shift_formants(waveform, 1.0), waveform, atol=1e-5)


def test_formants_move_up_and_the_timing_stays(spoken: Speech) -> None:
    waveform, _ = spoken[1]
    frequencies = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)

    def centroid(each: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(each)) ** 2
        return float((frequencies * power).sum() / power.sum())

    lower, higher = shift_formants(waveform, 0.86), shift_formants(waveform, 1.16)
    assert len(lower) == len(higher) == len(waveform)
    assert centroid(lower) < centroid(waveform) < centroid(higher)


def test_speed_changes_the_length() -> None:
    assert len(change_speed(np.ones(16_000, np.float32), 1.25)) == pytest.approx(12_800, abs=1)


def test_noise_has_the_asked_for_level_and_a_room_begins_with_the_direct_sound() -> None:
    rng = np.random.default_rng(0)
    drawn = noise(32_000, 1.0, 20.0, rng)
    assert 20 * np.log10(0.2 / np.sqrt((drawn**2).mean())) == pytest.approx(20.0, abs=0.1)
    response = room(rng)
    assert response[0] == np.abs(response).max() == 1


def test_silence_is_trimmed_and_nothing_is_left_of_nothing() -> None:
    tone = np.zeros(16_000)
    tone[4_000:8_000] = 0.3
    assert len(trim(tone)) == pytest.approx(4_000 + 2 * 480, abs=2)
    assert trim(np.zeros(100)).size == 0


def make_recordings(folder: Path, spoken: Speech, speakers: tuple[str, ...]) -> Path:
    folder.mkdir()
    waveform, _ = spoken[0]
    for speaker in speakers:
        for index in (0, 4, 5, 30):
            soundfile.write(folder / f"1_{speaker}_{index}.wav", waveform[::2], SAMPLE_RATE // 2)
    return folder


def test_recordings_are_split_by_index_and_joined_by_speaker(tmp_path: Path, spoken: Speech) -> None:
    folder = make_recordings(tmp_path / "fsdd", spoken, ("anna", "otto"))
    heard, held = read_fsdd(folder, held_out=False), read_fsdd(folder, held_out=True)
    assert sorted(heard) == sorted(held) == ["anna", "otto"]
    assert len(heard["anna"]) == len(held["anna"]) == 2
    waveform, words = join(heard["anna"], 3, np.random.default_rng(0))
    assert words == ("ONE",) * 3
    assert len(waveform) >= 3 * len(heard["anna"][0][0])
    scored = connected_digits("set", held, 4, 0)
    assert len(scored.speech) == 8
    assert all(2 <= len(words) <= 7 for words in scored.speech.words)


def test_a_folder_without_recordings_and_a_broken_recording_are_named(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="contains no recordings"):
        read_fsdd(tmp_path, held_out=False)
    (tmp_path / "1_anna_7.wav").write_text("not audio")
    with pytest.raises(AsrDeployError, match=r"1_anna_7\.wav"):
        read_fsdd(tmp_path, held_out=False)


def small_batches(spoken: Speech, **more: int) -> Batches:
    digits = Speech.of([spoken[index] for index in range(len(spoken)) if len(spoken.words[index]) == 1])
    return Batches(spoken, {"anna": digits}, LABELS, seed=3, singles_until=more.get("singles_until", 0))


def test_a_batch_depends_on_seed_and_step_alone(spoken: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GROUP_UTTERANCES", 24)
    forward, alone = small_batches(spoken), small_batches(spoken)
    inorder = [forward[step] for step in range(12)]
    for step in (11, 0, 9):
        assert all(torch.equal(left, right) for left, right in zip(inorder[step], alone[step], strict=True))
    assert not torch.equal(inorder[0].targets, inorder[1].targets)


def test_batches_have_lengths_targets_and_at_first_single_digits(spoken: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GROUP_UTTERANCES", 24)
    batch = small_batches(spoken, singles_until=8)[3]
    rows = len(batch.lengths)
    assert batch.waveforms.shape[0] == rows == len(batch.target_lengths)
    assert int(batch.lengths.max()) <= batch.waveforms.shape[1]
    assert int(batch.target_lengths.sum()) == len(batch.targets)
    texts = []
    for part in batch.targets.split(batch.target_lengths.tolist()):
        texts.append("".join(LABELS[index] for index in part.tolist()))
    assert set(texts) <= set(DIGITS)


def test_texts_of_the_sets_are_different_and_of_two_to_seven_words() -> None:
    texts = draw_texts(500, seed=1)
    assert len(set(texts)) == 500
    assert {len(text) for text in texts} == set(range(2, 8))
    assert texts == draw_texts(500, seed=1)


def test_the_model_has_its_parameters_and_starts_with_a_filter_bank() -> None:
    model = digits_asr_tiny()
    assert sum(parameter.numel() for parameter in model.parameters()) == TEST_CASES[0].anchor.num_param
    start_with_filterbank(model)
    filters = model.feature_extractor.conv_layers[0].conv.weight[:, 0]
    np.testing.assert_allclose(filters.norm(dim=1).detach().numpy(), 1.0, rtol=1e-4)
    peaks = torch.fft.rfft(filters, 1024).abs().argmax(dim=1)[:48]
    assert bool((peaks[1:] >= peaks[:-1]).all())


def test_training_writes_weights_and_log_learns_and_resumes_where_it_was(
    tmp_path: Path, spoken: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GROUP_UTTERANCES", 40)
    monkeypatch.setattr(train, "EVERY", 4)
    recipe = train.Recipe(5, (train.Phase("first", 12, 1e-3, 2, singles=8), train.Phase("second", 4, 1e-4, 1)), bfloat16=False)
    scored = [connected_digits("some_set", {"anna": spoken}, 2, 0)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train.train(recipe, spoken, {"anna": spoken}, scored, whole)

    # Interrupt the first run of the other folder in its second phase, as Ctrl-C does.
    steps = 0
    real_step = train._step

    def stop_after_thirteen(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps == 14:
            raise KeyboardInterrupt
        return real_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_step", stop_after_thirteen)
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, spoken, {"anna": spoken}, scored, broken)
    assert not (broken / "second.safetensors").exists()
    monkeypatch.setattr(train, "_step", real_step)
    train.train(recipe, spoken, {"anna": spoken}, scored, broken)

    for phase in ("first", "second"):
        left, right = load_file(whole / f"{phase}.safetensors"), load_file(broken / f"{phase}.safetensors")
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)
    with (whole / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12", "16"]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert 0 < float(rows[0]["some_set"]) <= 1.5
    plot_log(whole / "log.csv", whole / "log.png")
    assert (whole / "log.png").read_bytes().startswith(b"\x89PNG")


def test_the_training_command_answers_mistakes_in_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolchain.training", "score", "0", "--fsdd", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == "asrdeploy: Weights file 0 does not exist."
