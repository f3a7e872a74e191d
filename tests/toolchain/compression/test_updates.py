"""Updates of a fine-tuned model: a fifth of the full bitstream at the same accuracy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import updates
from device_runner.audio import read_audio
from device_runner.bitstream.format import read_header
from device_runner.errors import AsrDeployError
from toolchain.compression.bitstreams import decompress
from toolchain.compression.calibration import Calibration, calibrate
from toolchain.data.datasets import DataSet, open_data
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.weight_files import digest_of

BITS, UPDATE_BITS = 2.0, 0.8
RECORDINGS = 12  # for calibration; the benchmark's 32 take longer and change little


@pytest.fixture(scope="module")
def dev() -> tuple[DataSet, DataSet]:
    """Return the half of dev-clean for fine-tuning and the unseen half."""
    return updates.halves(open_data("digits", "dev-clean"))


@pytest.fixture(scope="module")
def tuned(tiny: AnchorModel, dev: tuple[DataSet, DataSet]) -> AnchorModel:
    return updates.fine_tune(tiny, dev[0].utterances, steps=20)


def known(model: AnchorModel, data: DataSet) -> Calibration:
    recordings = [read_audio(each.path, model.case.sample_rate) for each in data.utterances[:RECORDINGS]]
    return calibrate(model.recogniser, recordings, source="dev-clean")


@torch.inference_mode()
def distance(model: AnchorModel, wanted: AnchorModel, data: DataSet) -> float:
    """Return the squared distance of logits over some recordings."""
    waveforms = [torch.from_numpy(read_audio(each.path, model.case.sample_rate))[None] for each in data.utterances[::5]]
    return sum(float((model.recogniser(each) - wanted.recogniser(each)).square().mean()) for each in waveforms)


def test_fine_tuning_leaves_the_given_model_and_repeats(tiny: AnchorModel, dev: tuple[DataSet, DataSet]) -> None:
    before = digest_of(tiny.state())
    first, second = (updates.fine_tune(tiny, dev[0].utterances, steps=1) for _ in range(2))
    assert digest_of(tiny.state()) == before != digest_of(first.state()) == digest_of(second.state())
    assert digest_of(updates.fine_tune(tiny, dev[0].utterances, steps=1, seed=1).state()) != digest_of(first.state())
    assert not any(each.requires_grad for each in first.network.parameters())


def test_the_halves_share_voices_and_no_recording(dev: tuple[DataSet, DataSet]) -> None:
    ids = [{each.id for each in half.utterances} for half in dev]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == len(open_data("digits", "dev-clean").utterances)
    assert len({frozenset(each.split("-")[0] for each in half) for half in ids}) == 1


def test_an_update_takes_a_fifth_of_the_full_bitstream_and_is_no_worse(
    tiny: AnchorModel, tuned: AnchorModel, dev: tuple[DataSet, DataSet], test_clean: DataSet, tmp_path: Path
) -> None:
    _, held = updates.transmitted(tiny, BITS, known(tiny, dev[0]), tmp_path / "held.asrb")
    calibration = known(tuned, dev[0])
    full_bytes, full = updates.transmitted(tuned, BITS, calibration, tmp_path / "full.asrb")
    update_bytes, updated = updates.transmitted(tuned, UPDATE_BITS, calibration, tmp_path / "update.asrb", held)
    assert update_bytes <= full_bytes / 5
    assert read_header(tmp_path / "update.asrb").base == digest_of(held.state())
    with pytest.raises(AsrDeployError, match="not the ones that this update was made from"):
        decompress(tmp_path / "update.asrb", base=tiny)  # the UE holds the reconstruction, not the sender's weights
    test = replace(test_clean, utterances=test_clean.utterances[::3])  # of every voice
    for name, model in (("full", full), ("update", updated)):
        for data in (test, dev[1]):
            updates.scored(model, name, data, tmp_path / name / data.split)
    for data in (test, dev[1]):
        assert updates.paired(tmp_path / "update" / data.split, tmp_path / "full" / data.split).difference <= 0.01
    # The fine-tuning arrived: on unseen speech, the UE's outputs are closer to the tuned model than before.
    assert distance(updated, tuned, dev[1]) < 0.9 * distance(held, tuned, dev[1])
