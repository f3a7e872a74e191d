"""Run an emulated device until Ctrl-C: ``python -m tests.device_runner.phone.emulated_device --port N --folder DIR``.

Connect to it with ``adb connect 127.0.0.1:N``.
"""

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.device_runner.phone.emulated_device.device import FEATURES, EmulatedDevice
from tests.device_runner.phone.emulated_device.faults import KINDS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="emulated_device", description=__doc__)
    made.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="Folder of the device's files and of state.json, which may be edited while the device runs.",
    )
    made.add_argument("--port", type=int, default=0, help="TCP port, which is printed (default: 0, any free port).")
    made.add_argument("--state", type=json.loads, default={}, help="Changes of the initial state, as JSON.")
    made.add_argument("--without-cmd", action="store_true", help="Push apps before installing them, like old devices.")
    made.add_argument("--unauthorized", action="store_true", help="Trust no host.")
    made.add_argument("--drop-after-bytes", type=int, metavar="N", help="Drop the connection after N bytes.")
    made.add_argument("--drop-at-message", type=int, metavar="N", help="Drop the connection at message N.")
    made.add_argument("--refuse", type=float, metavar="S", help="Refuse connections for the first S seconds.")
    made.add_argument("--free-bytes", type=int, metavar="N", help="Free space on the device's disk, in bytes.")
    made.add_argument("--hot", action="store_true", help="Report a battery temperature of 45 C and thermal status 3.")
    made.add_argument("--delay", type=float, default=0.0, metavar="S", help="Delay before every message, in seconds.")
    made.add_argument("--kill-app", type=float, metavar="S", help="After S seconds, kill the app as soon as it runs.")
    made.add_argument("--fault-seed", type=int, default=0, help="Seed of the random faults (default: %(default)s).")
    made.add_argument(
        "--fault-probability", type=float, default=0.0, help="Probability of a fault for each message (default: %(default)s)."
    )
    made.add_argument("--fault-kinds", default=",".join(KINDS), help="Kinds of random faults, separated by commas (default: %(default)s).")
    return made


def main() -> None:
    given = parser().parse_args()
    features = tuple(each for each in FEATURES if each != "cmd" or not given.without_cmd)
    device = EmulatedDevice(given.folder, port=given.port, state=given.state, features=features, authorised=not given.unauthorized)
    device.slow(given.delay)
    device.random_faults(given.fault_seed, given.fault_probability, given.fault_kinds.split(","))
    if given.drop_after_bytes is not None:
        device.drop_after_bytes(given.drop_after_bytes)
    if given.drop_at_message is not None:
        device.drop_at_message(given.drop_at_message)
    if given.free_bytes is not None:
        device.fill_disk(given.free_bytes)
    if given.hot:
        device.run_hot()
    if given.refuse:
        device.refuse(given.refuse)
    if given.kill_app is not None:
        timer = threading.Timer(given.kill_app, device.kill_app)
        timer.daemon = True
        timer.start()
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    with device:
        print(f"listening on {device.serial}", flush=True)
        stop.wait()
    print(*(f"{kind}: {count}" for kind, count in sorted(device.fault_counts.items())), sep="\n")


if __name__ == "__main__":
    main()
