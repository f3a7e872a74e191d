"""Run the device demo: jobs on an emulated phone through the real adb client, in the app and in the shell, compared with this machine.

The phone is `tests/device_runner/phone/emulated_device`. Its app is benchcore on this machine's JVM, and its shell runs the Arm bundle
under qemu. Its times mean nothing.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from device_runner.phone.arm_bundle import qemu_launcher
from device_runner.phone.runners import APP, APP_VERSION_CODE
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.fixtures import connect, disconnect
from tests.device_runner.phone.emulated_device.server import AdbServer

RESULTS = Path("results/device-demo")
ARTIFACT = RESULTS / "DIGITS_ASR_TINY-onnx-int8"
EMULATOR = {"ro.kernel.qemu": "1", "ro.product.model": "Emulated One", "ro.product.cpu.abi": "arm64-v8a", "ro.build.version.release": "15"}


def run(*words: object) -> None:
    """Print a command of `asrdeploy` and run it. A failure ends the demo."""
    command = ["asrdeploy", *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "asrdeploy", *command[1:]], check=True)


def transcripts(name: str) -> list[str]:
    """Return the hypotheses of an evaluation."""
    return [json.loads(line)["hypothesis"] for line in (RESULTS / name / "transcripts.jsonl").read_text().splitlines()]


def main(jar: str) -> None:
    """Run the demo.

    Args:
        jar: Path of benchcore's jar file.
    """
    app = {"versionName": "0.1.0", "versionCode": APP_VERSION_CODE, "path": f"/data/app/{APP}/base.apk"}
    state = {
        "properties": EMULATOR,
        "packages": {APP: app},
        "instrument": ["java", "-jar", str(Path(jar).resolve())],
        "environment": {"ASRDEPLOY_LAUNCHER": " ".join(qemu_launcher())},
    }
    with tempfile.TemporaryDirectory(prefix="asrdeploy-demo-") as name:
        folder = Path(name)
        (folder / "adb").mkdir()
        with AdbServer(folder / "adb") as server, EmulatedDevice(folder / "phone", state=state) as phone:
            connect(server.adb(), phone)
            os.environ["ASRDEPLOY_ADB_SERVER"] = server.socket  # the demo's own server, so that a user's server is not touched
            serial = phone.serial
            run("devices")
            run("export", "--quant", "int8+reduce_range", "-o", ARTIFACT)
            for where, options in (("here", ()), ("app", ("--device", serial, "--via", "app"))):
                run("evaluate", ARTIFACT, "-o", RESULTS / where, *options)
            run("evaluate", ARTIFACT, "--limit", 10, "-o", RESULTS / "shell", "--device", serial, "--via", "shell")
            run("bench", ARTIFACT, "--seconds", "1,2", "--protocol", "quick", "-o", RESULTS / "bench.json", "--device", serial)
            run("test", REPOSITORY / "jobs/emulator.toml", "--device", serial, "--junit", RESULTS / "report.xml", "-o", RESULTS / "test")
            disconnect(server.adb(), phone)
    here, app_heard, shell_heard = map(transcripts, ("here", "app", "shell"))
    same = sum(ours == theirs for ours, theirs in zip(here, app_heard, strict=True))
    print(
        f"\nApp: {same} of {len(here)} transcripts equal those of this machine. Shell: {len(shell_heard)} transcripts compared, ",
        end="",
    )
    print("all equal." if shell_heard == here[: len(shell_heard)] else "not all equal.")
    print(f"Results are in {RESULTS}.")
    if app_heard != here or shell_heard != here[: len(shell_heard)]:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
