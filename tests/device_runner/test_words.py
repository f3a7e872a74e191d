"""Words of the greedy path: their text is that of the scenario's selector, and their times are those of their frames."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from device_runner.words import FrameTimes, frame_times, words_of

LABELS = ("-", "|", "A", "B", "C'", "D|E", "Ü")
TIMES = FrameTimes(first=0.0125, stride=0.02, seconds=100.0)


def logits_of(frames: str, certain: float = 10.0) -> np.ndarray:
    """Return logits whose best labels are given by their places in ``LABELS``."""
    return certain * np.eye(len(LABELS), dtype=np.float32)[[int(each) for each in frames]]


FRAMES = st.lists(st.tuples(st.integers(0, len(LABELS) - 1), st.integers(1, 3)), max_size=40)


@settings(max_examples=300)
@given(FRAMES)
def test_words_joined_by_spaces_are_the_selected_text(runs: list[tuple[int, int]]) -> None:
    logits = logits_of("".join(str(label) * count for label, count in runs))
    text, words = select_labels(logits, LABELS), words_of(logits, LABELS, TIMES)
    assert " ".join(each.text for each in words) == " ".join(text.split())
    characters = words_of(logits, LABELS, TIMES, characters=True)
    assert "".join(each.text for each in characters) == text.replace(" ", "")


@settings(max_examples=200)
@given(arrays(np.float32, st.tuples(st.integers(0, 12), st.just(len(LABELS))), elements=st.floats(-50, 50, width=32)))
def test_words_follow_each_other_and_their_confidence_is_a_probability(logits: np.ndarray) -> None:
    words = words_of(logits, LABELS, TIMES)
    assert " ".join(each.text for each in words) == " ".join(select_labels(logits, LABELS).split())
    assert all(0 <= each.start <= each.end and 0 <= each.confidence <= 1 for each in words)
    assert all(one.start <= other.start for one, other in pairwise(words))


def test_a_word_lasts_from_its_first_label_to_its_last_and_its_blanks_do_not_count() -> None:
    logits = logits_of("0022033010")
    logits[4] = 0.0  # the blank between the labels is uncertain, and it counts for nothing
    logits[4, 0] = 0.1
    (word,) = words_of(logits, LABELS, TIMES)
    chance = math.exp(10) / (math.exp(10) + len(LABELS) - 1)
    assert word.text == "AB" and word.confidence == pytest.approx(chance)
    assert (word.start, word.end) == (pytest.approx(0.0125 + 1.5 * 0.02), pytest.approx(0.0125 + 6.5 * 0.02))


def test_confidence_is_the_geometric_mean_over_the_frames_of_labels() -> None:
    logits = np.log(np.array([[0.1, 0, 0.9, 0, 0, 0, 0], [0.5, 0, 0, 0.5, 0, 0, 0], [0.2, 0, 0, 0.8, 0, 0, 0]]) + 1e-30)
    logits[1, 3] += 1e-9
    assert words_of(logits, LABELS, TIMES)[0].confidence == pytest.approx((0.9 * 0.5 * 0.8) ** (1 / 3), rel=1e-6)


def test_labels_without_a_separator_give_characters_with_their_marks() -> None:
    labels = ("-", "好", "ก", "ิ")  # a Thai consonant and the vowel above it
    logits = 9 * np.eye(4, dtype=np.float32)[[1, 0, 1, 2, 3]]
    assert [each.text for each in words_of(logits, labels, TIMES)] == ["好", "好", "กิ"]


@pytest.mark.parametrize("field, stride", [(400, 320), (744, 400), (400, 160), (25, 10)])
@given(data=st.data())
def test_centres_of_frames_are_right_to_half_a_stride(field: int, stride: int, data: st.DataObject) -> None:
    frames = data.draw(st.integers(2, 3000))
    samples = field + (frames - 1) * stride + data.draw(st.integers(0, stride - 1))
    times = frame_times(frames, samples, 16_000, field)
    for number in (0, frames // 2, frames - 1):
        centre = ((field - 1) / 2 + number * stride) / 16_000
        assert abs(times.first + number * times.stride - centre) <= 0.5001 * stride / 16_000 + field / 16_000 * (frames < 4)


def test_a_shortest_input_that_is_no_receptive_field_is_not_taken_for_one() -> None:
    for shortest in (1, 16_000):
        times = frame_times(500, 160_000, 16_000, shortest)
        assert times.first == pytest.approx(0.01, abs=0.001) and times.stride == pytest.approx(0.02, rel=0.01)


def test_nothing_and_bad_logits() -> None:
    assert words_of(np.empty((0, len(LABELS))), LABELS, TIMES) == ()
    assert words_of(logits_of("0010"), LABELS, TIMES) == ()
    with pytest.raises(AsrDeployError, match="not numbers"):
        words_of(np.full((3, len(LABELS)), np.nan), LABELS, TIMES)
    with pytest.raises(ValueError, match="do not fit 7 labels"):
        words_of(np.zeros((3, 6)), LABELS, TIMES)
