"""Transcribe with sherpa-onnx: python sherpa.py FOLDER FILE... Each FILE holds float32 samples. Prints a JSON list of transcripts."""

import json
import sys

import numpy as np
import sherpa_onnx

folder, *files = sys.argv[1:]
recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(f"{folder}/model.onnx", f"{folder}/tokens.txt")
texts = []
for file in files:
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, np.fromfile(file, dtype=np.float32))
    recogniser.decode_stream(stream)
    texts.append(stream.result.text)
print(json.dumps(texts))
