"""The receiver: decode a bitstream while it arrives, load the model and transcribe for the first time."""

import ctypes
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from device_runner.bitstream.format import SUFFIX, BitstreamReader
from device_runner.bitstream.receiver import Receiver
from device_runner.errors import AsrDeployError
from device_runner.facts import high_water_mark, package_versions

AUDIO_SECONDS = 2.0  # length of the audio of the first inference
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 1 << 21  # M_MMAP_THRESHOLD of malloc.h; blocks from 2 MiB get their own mapping


class Shares(BaseModel):
    """The consecutive parts of the time to first transcript, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transfer: float = Field(description="time from the request to the last byte")
    decode: float = Field(description="time from the last byte to the last decoded weight")
    load: float = Field(description="time to build the model from the weights")
    first_inference: float = Field(description="time of the first inference")

    @property
    def total(self) -> float:
        """Time to first transcript in seconds."""
        return self.transfer + self.decode + self.load + self.first_inference


class Reception(BaseModel):
    """One reception in a separate process. Times are in seconds and exclude starting the process and its imports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    configuration: str = Field(description="codec with its parameters")
    trained: bool
    size_bytes: int
    bits_per_second: float | None = Field(description="rate limit of the content; None: unlimited")
    resumed_from: int = Field(description="bytes that an earlier reception had already received")
    connections: int
    seconds: Shares
    decode_busy: float = Field(description="total computing time of decoding, most of it during the transfer")
    audio_seconds: float
    transcript: str
    float_bytes: int = Field(description="size of the weights in float32")
    baseline_bytes: int = Field(description="peak resident memory before the request")
    peak_bytes: int = Field(description="peak resident memory after the first transcript")
    versions: dict[str, str]

    @property
    def memory(self) -> float:
        """Peak memory above the baseline, in multiples of the float32 weights."""
        return (self.peak_bytes - self.baseline_bytes) / self.float_bytes


def receive(
    url: str,
    path: Path | None,
    *,
    bits_per_second: float | None = None,
    base: str | None = None,
    decoder: str | None = None,
    model: str | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Reception:
    """Receive a bitstream, decode it while it arrives, and transcribe two seconds of bundled speech with its model.

    Args:
        url: Address of the bitstream.
        path: File to keep the bitstream in; None keeps nothing.
        bits_per_second: Rate limit of the content.
        base: File with the weights that an update is based on, or ``own`` for the model's published weights.
        decoder: Command of an external codec's decoder.
        model: Custom model of the bitstream. Required if a factory builds it, and for updates of custom models.
        progress: Callback that receives the name of the current step.

    Raises:
        AsrDeployError: The connection failed permanently, the bitstream is damaged, or it does not fit the model.
    """
    # Imported before the clock starts: on a UE the application is already running when a model arrives.
    import torch

    from toolchain.accuracy.transcriber import model_transcriber
    from toolchain.compression.bitstreams import base_for, case_of_header, decode_weights, model_of
    from toolchain.data.speech import bundled_speech
    from toolchain.models.loading import load_model

    if path is None:
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            path = Path(folder) / f"received{SUFFIX}"
            return receive(url, path, bits_per_second=bits_per_second, base=base, decoder=decoder, model=model, progress=progress)
    _return_freed_memory()
    torch.set_num_threads(1)  # as for the inference; more threads only wait for each other on small tensors
    custom = None if model is None else load_model(model)  # an application has the code before the weights arrive
    baseline = high_water_mark()
    with Receiver(url, path, bits_per_second=bits_per_second) as receiver:
        progress("receiving and decoding")
        reader = BitstreamReader(receiver)
        header = reader.header
        waited, opened = receiver.waited_seconds, time.perf_counter()
        rate = case_of_header(header, url).sample_rate
        known = base_for(header, url, base, custom)
        state = decode_weights(reader, base=known, decoder=decoder)
        decoded = time.perf_counter()
        busy = decoded - opened - (receiver.waited_seconds - waited)
        receiver.keep()
    progress("loading")
    float_bytes = sum(each.numel() * 4 for each in state.values())
    received = model_of(header, state, url, custom)
    del state, custom, known
    transcriber = model_transcriber(received, header.configuration, identity=url)
    loaded = time.perf_counter()
    waveform = bundled_speech([AUDIO_SECONDS], rate)[AUDIO_SECONDS]
    progress("transcribing")
    ready = time.perf_counter()  # on a UE the audio comes from the microphone, so reading it does not count
    transcript = transcriber.transcribe(waveform)
    finished = time.perf_counter()
    arrived = receiver.arrived_at or decoded
    return Reception(
        model=header.model,
        configuration=header.configuration,
        trained=header.trained,
        size_bytes=receiver.offer.length,
        bits_per_second=bits_per_second,
        resumed_from=receiver.resumed_from,
        connections=receiver.connections,
        seconds=Shares(
            transfer=arrived - receiver.started_at,
            decode=max(decoded - arrived, 0.0),
            load=loaded - max(decoded, arrived),
            first_inference=finished - ready,
        ),
        decode_busy=busy,
        audio_seconds=AUDIO_SECONDS,
        transcript=transcript,
        float_bytes=float_bytes,
        baseline_bytes=baseline,
        peak_bytes=high_water_mark(),
        versions=package_versions(),
    )


def _return_freed_memory() -> None:
    """Make the C library return large blocks to the operating system as soon as they are freed.

    By default glibc raises its threshold after every large block that is freed, up to 32 MB (mallopt(3)). The scratch memory of decoding
    would then stay allocated between the weights: a seventh of a float model.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


# The fresh process that ``server.deliver`` starts. Arguments: URL, rate in bit/s, and optionally a custom model.
if __name__ == "__main__":
    try:
        print(receive(sys.argv[1], None, bits_per_second=float(sys.argv[2]), model=next(iter(sys.argv[3:]), None)).model_dump_json())
    except AsrDeployError as problem:
        sys.exit(str(problem))
