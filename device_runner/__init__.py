"""What happens at the UE; see docs/devices.md."""

import os

# From 1.29 on, ONNX Runtime's wheels for Linux keep a record of their use in ~/.cache/Microsoft and hold an uploader for it. Nothing is
# told to anybody unless our user says so. It is read when onnxruntime is imported, and inherited by the processes that we start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
