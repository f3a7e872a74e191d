"""An accuracy run that several tests compare with: the bundled model in int8 on six utterances."""

from pathlib import Path

import pytest

from device_runner.artifact import Artifact
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.scoring import Evaluation
from toolchain.accuracy.transcriber import Transcriber, open_transcriber
from toolchain.data.datasets import DataSet


@pytest.fixture(scope="module")
def transcriber(tiny_int8: Artifact) -> Transcriber:
    return open_transcriber(str(tiny_int8.folder))


@pytest.fixture(scope="module")
def data(test_clean: DataSet) -> DataSet:
    return test_clean.limited(6)


@pytest.fixture(scope="module")
def uninterrupted(transcriber: Transcriber, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "results"
    return evaluate(transcriber, data, folder), folder
