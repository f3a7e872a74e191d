"""Latency benchmarks of artifacts on real speech: what `asrdeploy bench` and ``asrdeploy.benchmark`` run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from device_runner.artifact import Artifact, open_artifact
from device_runner.devices import Device
from device_runner.engines import PROVIDERS, check_threads
from device_runner.errors import AsrDeployError
from device_runner.latency import QUICK, STANDARD, STRICT, LatencyResult, measure
from device_runner.suggestions import nearest
from toolchain.data.speech import bundled_speech

PROTOCOLS = {each.name: each for each in (STANDARD, STRICT, QUICK)}
LONGEST_SECONDS = 60


def benchmark(
    artifacts: Artifact | str | Path | Sequence[Artifact | str | Path],
    seconds: float | Sequence[float] = (2, 5, 10, 15),
    *,
    protocol: str = "standard",
    rounds: int | None = None,
    device: Device | None = None,
    threads: int = 1,
    provider: str = "cpu",
    failed: Callable[[int, AsrDeployError], None] | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> list[LatencyResult]:
    """Measure cold load, first inference and steady-state latency of artifacts on bundled speech.

    Every artifact runs in a fresh process in every round, and artifacts take turns within a round.

    Example:
        >>> (result,) = asrdeploy.benchmark("artifacts/tiny", [2], protocol="quick")  # doctest: +SKIP
        >>> result.steady[0].p90  # seconds for 2 s of audio  # doctest: +SKIP

    Args:
        artifacts: One artifact or several, as objects or folders. Several must have the same sample rate.
        seconds: Lengths of audio, in seconds.
        protocol: ``standard``, ``strict`` or ``quick``; a quick result is never valid.
        rounds: Number of rounds (default: the protocol's).
        device: Where to run (default: this machine).
        threads: Runtime threads.
        provider: ONNX Runtime execution provider.
        failed: Called with the number of an artifact that could not be measured, counted from 0, and the reason. The others are
            measured, and the returned list lacks it. By default, the error is raised.
        progress: Called with the current step and the finished share, 0 to 1.

    Raises:
        AsrDeployError: An unknown protocol, lengths or rounds out of range, artifacts of different sample rates, or a device that failed.
    """
    lengths = [float(seconds)] if isinstance(seconds, int | float) else [float(each) for each in seconds]
    if protocol not in PROTOCOLS:
        raise nearest(protocol, PROTOCOLS, "protocol")
    check_threads(threads)
    if rounds is not None and rounds < 1:
        raise AsrDeployError(f"--rounds {rounds} measures nothing. Use 1 or more.")
    if not lengths or not all(0 < length <= LONGEST_SECONDS for length in lengths):
        given = ",".join(f"{each:g}" for each in lengths)
        raise AsrDeployError(f"--seconds {given}: give lengths above 0 and up to {LONGEST_SECONDS} seconds.")
    several = [artifacts] if isinstance(artifacts, Artifact | str | Path) else list(artifacts)
    opened = [each if isinstance(each, Artifact) else open_artifact(Path(each)) for each in several]
    if not opened:
        raise AsrDeployError("There is no artifact to measure. Give at least one.")
    rates = {each.manifest.sample_rate for each in opened}
    if len(rates) > 1:
        raise AsrDeployError("These artifacts have different sample rates. Measure them one at a time.")
    conditions = PROTOCOLS[protocol] if rounds is None else PROTOCOLS[protocol].model_copy(update={"rounds": rounds})
    if provider not in PROVIDERS:
        raise nearest(provider, PROVIDERS, "provider")
    waveforms = bundled_speech(lengths, rates.pop())
    return measure(
        opened, waveforms, device=device, threads=threads, provider=provider, conditions=conditions, failed=failed, progress=progress
    )
