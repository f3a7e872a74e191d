"""The greedy label selector against that of the scenario: torch.argmax, torch.unique_consecutive, remove blanks, join."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device_runner.labels import BLANK, select_labels
from toolchain.models.test_cases import LABELS


def by_torch(logits: np.ndarray) -> str:
    """Select labels like Figure 2.3-2 of the scenario, which follows TorchAudio's tutorials."""
    indices = torch.unique_consecutive(torch.argmax(torch.from_numpy(logits), dim=-1), dim=-1)
    return "".join(LABELS[index] for index in indices.tolist() if index != 0).replace("|", " ")


def peaks(best: list[int]) -> np.ndarray:
    """Return logits ``[frames, labels]`` with the given arg maxima and noise below them."""
    logits = np.random.default_rng(len(best)).normal(size=(len(best), len(LABELS))).astype(np.float32)
    logits[np.arange(len(best)), best] = 10.0
    return logits


def heard(frames: str) -> str:
    """Select labels from frames that are given by their best labels."""
    return select_labels(peaks([LABELS.index(each) for each in frames]), LABELS)


@pytest.mark.parametrize(
    "frames, text",
    [
        ("", ""),
        ("-", ""),
        ("-----", ""),
        ("A", "A"),
        ("AAAA", "A"),
        ("A-A", "AA"),
        ("AA--AA-A", "AAA"),
        ("-T-T-", "TT"),
        ("ABAB", "ABAB"),
        ("SSIIX|||TWO", "SIX TWO"),
        ("SIX|-|TWO", "SIX  TWO"),
        ("ONE|", "ONE "),
        ("|ONE||--", " ONE "),
        ("IT'S", "IT'S"),
        ("--TTHHRR-EE-EE|--", "THREE "),
    ],
)
def test_golden(frames: str, text: str) -> None:
    assert heard(frames) == text


def test_no_frames_of_the_right_width() -> None:
    assert select_labels(np.empty((0, len(LABELS)), np.float32), LABELS) == ""


# Few labels and long runs, so that most examples repeat labels across blanks and separators.
RUNS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 3, 27, 28]), st.integers(1, 4)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(RUNS)
def test_runs_equal_torch(runs: list[tuple[int, int]]) -> None:
    best = [label for label, length in runs for _ in range(length)]
    logits = peaks(best)
    assert logits.argmax(axis=1).tolist() == best
    assert select_labels(logits, LABELS) == by_torch(logits)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(LABELS) - 1), max_size=60))
def test_any_arg_maxima_equal_torch(best: list[int]) -> None:
    assert select_labels(peaks(best), LABELS) == by_torch(peaks(best))


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(0, 8), st.just(len(LABELS))), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])))
def test_ties_equal_torch(logits: np.ndarray) -> None:
    assert select_labels(logits, LABELS) == by_torch(logits)


def test_the_blank_is_the_first_label_of_the_anchors() -> None:
    assert LABELS[BLANK] == "-" and LABELS[1] == "|" and len(LABELS) == len(set(LABELS)) == 29
    assert "".join(LABELS) == "-|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


@pytest.mark.parametrize("shape", [(5, 28), (5, 30), (0, 28), (29,), (1, 5, 29), (29, 5)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit 29 labels"):
        select_labels(np.zeros(shape, np.float32), LABELS)
