"""Transcribe with optimum: python optimum_onnx.py FOLDER FILE... Each FILE holds float32 samples. Prints a JSON list of transcripts."""

import json
import sys

import numpy as np
from optimum.onnxruntime import ORTModelForCTC
from transformers import AutoProcessor

folder, *files = sys.argv[1:]
model, processor = ORTModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
texts = []
for file in files:
    inputs = processor(np.fromfile(file, dtype=np.float32), sampling_rate=16_000, return_tensors="pt")
    texts += processor.batch_decode(model(**inputs).logits.argmax(-1))
print(json.dumps(texts))
