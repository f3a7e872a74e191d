"""Code that runs on a device, and code that drives devices; see docs/devices.md."""

import os

# Since 1.29, ONNX Runtime's Linux wheels collect telemetry in ~/.cache/Microsoft and can upload it: opt out unless the user opts in.
# onnxruntime reads the variable at import; child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
