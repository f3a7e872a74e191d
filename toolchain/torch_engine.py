"""The reference engine: the anchor itself in torch, behind the same protocol as the artifacts' engines."""

import torch

from device_runner.engines import Logits, Waveform, check_length, check_threads
from toolchain.models import AnchorModel


class TorchEngine:
    """Runs an anchor model in this process, batch 1 and exact length."""

    def __init__(self, model: AnchorModel, threads: int = 1) -> None:
        check_threads(threads)
        torch.set_num_threads(threads)
        self._recogniser = model.recogniser
        self._minimum = model.minimum_samples

    @torch.inference_mode()
    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]``."""
        check_length(waveform, self._minimum)
        result: Logits = self._recogniser(torch.from_numpy(waveform)[None])[0].numpy()
        return result
