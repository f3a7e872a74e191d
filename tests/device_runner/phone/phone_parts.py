"""Helpers for tests of jobs on an emulated phone: short waiting times, tasks, and the Python runner in place of the app."""

import sys

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Result
from device_runner.jobs import Task, make_task
from device_runner.phone.device import AdbDevice, Patience
from device_runner.phone.runners import APP, AppRunner
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.fixtures import Connected
from toolchain.data.datasets import DataSet

HASTY = Patience(connection=30, silence=60, poll=0.05, cool_down=0, heat=0, heat_poll=0.05)


def accuracy(artifact: Artifact, data: DataSet, count: int, **settings: object) -> Task:
    recordings = [(each.id, read_audio(each.path, 16_000)) for each in data.utterances[:count]]
    return make_task(artifact, recordings, mode="accuracy", **settings)


def latency(artifact: Artifact, data: DataSet, **settings: object) -> Task:
    recordings = [(each.id, read_audio(each.path, 16_000)) for each in data.utterances[:2]]
    return make_task(artifact, recordings, mode="latency", warmup=1, repeats=2, **settings)


def with_app(device: EmulatedDevice, *command: str, version: int = 1) -> None:
    """Install an app whose instrumentation is a command (default: the Python runner, which reads and writes the same files)."""
    words = command or (sys.executable, "-m", "device_runner")
    device.change(
        packages={APP: {"versionName": f"0.{version}.0", "versionCode": version, "path": f"/data/app/{APP}/base.apk"}}, instrument=[*words]
    )


def opened(emulated: Connected, patience: Patience = HASTY) -> AdbDevice:
    return AdbDevice(emulated.phone, AppRunner(), patience)


def texts(result: Result) -> list[str]:
    return [each.hypothesis for each in result.transcripts]
