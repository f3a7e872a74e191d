"""Transcribe with onnx-asr: python onnx_asr_next.py FOLDER FILE... Each FILE holds float32 samples. Prints a JSON list of transcripts.

Release 0.12.0 has no class for raw waveforms. This one calls the model as the class wav2vec2-ctc of onnx-asr's main branch does, and leaves
the vocabulary, the label selection and the text to 0.12.0.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_asr.asr import _AsrWithCtcDecoding
from onnx_asr.preprocessors.preprocessor import IdentityPreprocessor


class RawWaveforms(_AsrWithCtcDecoding):
    """CTC model of raw waveforms."""

    def __init__(self, folder: Path) -> None:
        files = {"model": folder / "model.onnx", "vocab": folder / "vocab.txt", "config": folder / "config.json"}
        super().__init__(files, lambda name: IdentityPreprocessor(), {})
        self.session = onnxruntime.InferenceSession(files["model"])

    @property
    def _preprocessor_name(self) -> str:
        return "identity"

    @property
    def _subsampling_factor(self) -> int:
        return int(self.config["subsampling_factor"])

    def _encode(self, waveforms: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.session.run(["logprobs"], {"input_values": waveforms, "input_lengths": lengths})[0]
        return found, np.minimum(lengths // self._subsampling_factor + 1, found.shape[1])


RawWaveforms.__abstractmethods__ = frozenset()  # the files are named above
model = RawWaveforms(Path(sys.argv[1]))
texts = []
for file in sys.argv[2:]:
    samples = np.fromfile(file, dtype=np.float32)
    texts += [each.text for each in model.recognize_batch(samples[None], np.array([len(samples)]))]
print(json.dumps(texts))
