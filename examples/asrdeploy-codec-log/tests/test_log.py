"""Tests of the codec: the step bounds the error, and damaged records are refused."""

import numpy as np
import pytest
import torch
from asrdeploy_codec_log import decoder
from asrdeploy_codec_log.encoder import Log

from asrdeploy.codecs import AsrDeployError, decode, encode
from asrdeploy.decoders import Record

WEIGHTS = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("step", [1.0, 3.0, 6.0])
def test_a_weight_is_wrong_by_half_a_step_at_most(step: float) -> None:
    found = decode(encode("log", {"step": step, "depth": 60.0}, {"w": WEIGHTS}))["w"]
    kept = found != 0
    assert kept.float().mean() > 0.99
    decibels = 20 * torch.log10(found[kept].abs() / WEIGHTS[kept].abs())
    assert float(decibels.abs().max()) <= step / 2 + 1e-3 and torch.equal(found[kept].sign(), WEIGHTS[kept].sign())


def test_a_larger_step_costs_fewer_bytes() -> None:
    sizes = [len(encode("log", {"step": step}, {"w": WEIGHTS})) for step in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)


def test_vectors_are_sent_in_half_precision_and_zeros_stay_zero() -> None:
    state = {"bias": torch.tensor([1.0, -0.5]), "zeros": torch.zeros(300, 300)}
    found = decode(encode("log", {"step": 3}, state))
    assert all(torch.equal(found[name], each) for name, each in state.items())


def test_a_damaged_record_is_refused() -> None:
    record = Log(step=3.0).tensor(np.ones((4, 4), np.float32))
    described = Record(name="w", kind="log", shape=(4, 4), bytes=len(record.payload), parameters=record.parameters)
    assert decoder.decode(described, record.payload).shape == (16,)
    many = described.model_copy(update={"parameters": record.parameters | {"levels": 10**9}})
    for wrong, payload in ((many, record.payload), (described, record.payload[:-4]), (described, record.payload + b"more")):
        with pytest.raises(ValueError, match=r"number of levels|too short|too long"):
            decoder.decode(wrong, payload)


def test_a_step_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(AsrDeployError, match="requires a step"):
        Log(step=0)
