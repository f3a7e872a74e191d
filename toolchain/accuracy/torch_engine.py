"""The reference engine: the anchor itself in torch, behind the same protocol as the artifacts' engines."""

import copy

import torch

from device_runner.engines import Logits, Waveform, check_length, check_threads
from device_runner.errors import AsrDeployError
from toolchain.models.anchor_model import AnchorModel


class TorchEngine:
    """Runs an anchor model in this process, batch 1 and exact length. Several Python threads may use it at once.

    Args:
        model: it stays as it is; on the CPU in full precision it is used without a copy.
        threads: of torch, for every Python thread that calls.
        device: in torch's words.
        half: weights and products in half precision, and with them other logits.

    Raises:
        AsrDeployError: fewer than one thread, or no such device here.
    """

    def __init__(self, model: AnchorModel, threads: int = 1, device: str = "cpu", *, half: bool = False) -> None:
        check_threads(threads)
        self._threads = threads
        self._device = torch_device(device)
        self._dtype = torch.float16 if half else torch.float32
        self._recogniser = model.recogniser
        if half or self._device.type != "cpu":
            self._recogniser = copy.deepcopy(self._recogniser).to(self._device, self._dtype)
        if self._device.type == "cuda":
            # TensorFloat-32 rounds products to ten bits; transcripts shall be the CPU's.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._minimum = model.minimum_samples
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]``."""
        check_length(waveform, self._minimum)
        if torch.get_num_threads() != self._threads:  # OpenMP counts for every thread that calls it
            torch.set_num_threads(self._threads)
        entered = torch.from_numpy(waveform)[None].to(self._device, self._dtype)
        try:
            result: Logits = self._recogniser(entered)[0].to("cpu", torch.float32).numpy()
        except Exception as error:  # a network of somebody's own may take no such length, a device may have no room
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AsrDeployError(f"The network fails on {waveform.size} samples: {first[:300].rstrip('.')}.") from error
        return result


def torch_device(name: str) -> torch.device:
    """Return a device of torch by its name.

    Raises:
        AsrDeployError: it is not a name that we know, or torch does not find the device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise AsrDeployError(f"--torch-device {name} is none that we know; give cpu, cuda or cuda:NUMBER.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise AsrDeployError(f"torch {torch.__version__} finds {found} CUDA devices here, so there is no {name}; leave --torch-device out.")
    return torch.device(name)
