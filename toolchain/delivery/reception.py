"""The receiver's side: a bitstream is decoded while it arrives, becomes a model, and transcribes for the first time."""

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

AUDIO_SECONDS = 2.0  # of the first inference
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 1 << 21  # of malloc.h; blocks from 2 MiB are mapped by themselves


class Shares(BaseModel):
    """Where the time to the first transcript goes, in seconds, one after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transfer: float = Field(description="from the request to the last byte")
    decode: float = Field(description="from there to the last weight: what decoding took beyond the transfer")
    load: float = Field(description="the model around the weights")
    first_inference: float = Field(description="to the first transcript")

    @property
    def total(self) -> float:
        """Time to first transcript."""
        return self.transfer + self.decode + self.load + self.first_inference


class Reception(BaseModel):
    """One reception in a process of its own. Times in seconds; the process and its imports were there before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    configuration: str = Field(description="the codec with its parameters")
    trained: bool
    size_bytes: int
    bits_per_second: float | None = Field(description="limit of the rate of the content; None: none")
    resumed_from: int = Field(description="bytes that an earlier reception had left")
    connections: int
    seconds: Shares
    decode_busy: float = Field(description="what decoding computed in all, most of it during the transfer")
    audio_seconds: float
    transcript: str
    float_bytes: int = Field(description="of the weights in float32")
    baseline_bytes: int = Field(description="high-water mark of resident memory before the request")
    peak_bytes: int = Field(description="high-water mark after the first transcript")
    versions: dict[str, str]

    @property
    def memory(self) -> float:
        """Peak memory over the baseline, in multiples of the float model."""
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
        url: where the bitstream is.
        path: where it is kept; None: nowhere.
        bits_per_second: limit of the rate.
        base: weights that an update is made against (a file), ``own``: the model's.
        decoder: command of an external codec's decoder.
        model: the custom model that the bitstream is of, where a factory makes it, or for its update.
        progress: is told the step.

    Raises:
        AsrDeployError: the connection failed for good, the bitstream is damaged, or it does not fit the model.
    """
    # Before the clock starts: on a UE the application runs already when a model is sent to it.
    import torch

    from toolchain.accuracy.transcriber import transcriber_of
    from toolchain.compression.bitstreams import base_for, case_of_header, decode_weights, model_of
    from toolchain.data.speech import bundled_speech
    from toolchain.models.loading import load_model

    if path is None:
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            path = Path(folder) / f"received{SUFFIX}"
            return receive(url, path, bits_per_second=bits_per_second, base=base, decoder=decoder, model=model, progress=progress)
    _return_freed_memory()
    torch.set_num_threads(1)  # as for the inference; more would wait for each other at every small tensor
    custom = None if model is None else load_model(model)  # its code was there before the weights, as an application's is
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
    transcriber = transcriber_of(received, header.configuration, url, 8 * receiver.offer.length, threads=1)
    loaded = time.perf_counter()
    waveform = bundled_speech([AUDIO_SECONDS], rate)[AUDIO_SECONDS]
    progress("transcribing")
    ready = time.perf_counter()  # reading the speech is the microphone's part
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
    """Let the C library give large blocks back to the system as soon as they are free.

    glibc raises its threshold after every large block that is freed (mallopt(3)), up to 32 MB: then the scratch memory of decoding lies
    between the weights for good, a seventh of a float model.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


if (
    __name__ == "__main__"
):  # the fresh process that ``delivery.deliver`` starts: URL, bits per second, and a custom model where it takes one
    try:
        print(receive(sys.argv[1], None, bits_per_second=float(sys.argv[2]), model=next(iter(sys.argv[3:]), None)).model_dump_json())
    except AsrDeployError as problem:
        sys.exit(str(problem))
