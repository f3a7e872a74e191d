"""The reference engine: runs a model in PyTorch with the same interface as the engines of artifacts."""

import copy

import torch

from device_runner.engines import Logits, Waveform, check_length, check_threads
from device_runner.errors import AsrDeployError
from toolchain.models.anchor_model import AnchorModel


class TorchEngine:
    """Runs a model in this process with batch size 1 and the exact length. Several Python threads may use it at once.

    Args:
        model: The model. It is not changed. On the CPU in full precision it is not copied.
        threads: Number of PyTorch threads for every Python thread that calls.
        device: PyTorch device: ``cpu``, ``cuda`` or ``cuda:N``.
        half: Compute in half precision, which changes the logits.

    Raises:
        AsrDeployError: The number of threads is below 1, or the device does not exist.
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
            # TensorFloat-32 rounds products to 10 bits, and transcripts must match those of the CPU.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._minimum, self._sample_rate = model.minimum_samples, model.case.sample_rate
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def logits(self, waveform: Waveform) -> Logits:
        """Return logits ``[frames, labels]`` of a waveform ``[samples]``."""
        check_length(waveform, self._minimum)
        if torch.get_num_threads() != self._threads:  # OpenMP keeps the number per calling thread
            torch.set_num_threads(self._threads)
        entered = torch.from_numpy(waveform)[None].to(self._device, self._dtype)
        try:
            result: Logits = self._recogniser(entered)[0].to("cpu", torch.float32).numpy()
        except Exception as error:  # a custom model may reject the length; a device may run out of memory
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
                seconds = waveform.size / self._sample_rate
                raise AsrDeployError(
                    f"There is not enough memory for a recording of {seconds:.1f} s. Split it into shorter ones."
                ) from error
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AsrDeployError(f"The model fails on {waveform.size} samples: {first[:300].rstrip('.')}.") from error
        return result


def torch_device(name: str) -> torch.device:
    """Return a PyTorch device by its name.

    Raises:
        AsrDeployError: The name is unknown, or PyTorch does not find the device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise AsrDeployError(f"--torch-device {name} is unknown. Use cpu, cuda or cuda:N.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise AsrDeployError(
            f"--torch-device {name} does not exist: PyTorch {torch.__version__} finds {found} CUDA devices. Leave --torch-device out."
        )
    return torch.device(name)
