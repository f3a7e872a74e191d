"""Read an Android device's build, battery, temperatures and screen state from `getprop` and `dumpsys`."""

import re
from collections.abc import Mapping

from device_runner.contract import Kind, State
from device_runner.phone.adb import CommandFailed, Phone
from device_runner.phone.adb_output import parse_properties
from device_runner.phone.transfers import said

ABI = "ro.product.cpu.abi"
# Properties of an emulator's build; a phone has none of them.
EMULATED = {"ro.kernel.qemu": "1", "ro.boot.qemu": "1", "ro.hardware": "ranchu"}


def kind_of(properties: Mapping[str, str]) -> Kind:
    """Return whether the system properties are those of an emulator or a phone."""
    return "emulator" if any(properties.get(name) == value for name, value in EMULATED.items()) else "phone"


def model_of(properties: Mapping[str, str]) -> str:
    """Return manufacturer, model and system on chip, if the properties name them."""
    words = [properties.get(name, "") for name in ("ro.product.manufacturer", "ro.product.model")]
    chip = properties.get("ro.soc.model") or properties.get("ro.board.platform") or ""
    return " ".join(word for word in words if word) + (f" ({chip})" if chip else "") or "unknown"


def system_of(properties: Mapping[str, str]) -> str:
    """Return the Android version and build."""
    release, level = (properties.get(name, "?") for name in ("ro.build.version.release", "ro.build.version.sdk"))
    return f"Android {release} (API {level}), {properties.get('ro.build.fingerprint', 'build unknown')}"


def read_properties(phone: Phone) -> dict[str, str]:
    """Return the device's system properties.

    Raises:
        DeviceLost: If the connection is lost.
    """
    return parse_properties(said(phone, "getprop"))


def read_state(phone: Phone) -> State:
    """Return battery, temperatures and screen state. Values that this Android version does not report are None.

    Raises:
        DeviceLost: If the connection is lost.
    """
    battery, thermal, power = (_dumpsys(phone, service) for service in ("battery", "thermalservice", "power"))
    return parse_state(battery, thermal, power)


def parse_state(battery: str, thermal: str, power: str) -> State:
    """Parse the state from the output of the three services."""
    tenths, level, scale = (_number(battery, name) for name in ("temperature", "level", "scale"))
    plugged = re.findall(r"^\s*(?:AC|USB|Wireless|Dock) powered: (true|false)\s*$", battery, re.MULTILINE)
    status = re.search(r"Thermal Status: (\d+)", thermal)
    awake = re.search(r"mWakefulness=(\w+)", power)
    return State(
        celsius=_sensors(thermal),
        battery_celsius=None if tenths is None else tenths / 10,
        battery_percent=None if level is None or not scale else 100 * level / scale,
        charging="true" in plugged if plugged else None,
        screen_on=awake[1] == "Awake" if awake else None,
        thermal_status=int(status[1]) if status else None,
    )


def merged(ours: State, theirs: State) -> State:
    """Combine the state from the runner (``ours``) with the state from adb (``theirs``). The runner's values take precedence."""
    seen = {name: value for name, value in ours if value not in (None, {}, ())}
    return theirs.model_copy(update=seen)


def _sensors(thermal: str) -> dict[str, float]:
    """Return temperatures in degrees C by sensor. Current values come after cached ones and replace them."""
    found = re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=\d+, mName=([^,}]+)", thermal)
    return {name: float(value) for value, name in found}


def _number(text: str, name: str) -> int | None:
    found = re.search(rf"^\s*{name}: (-?\d+)\s*$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _dumpsys(phone: Phone, service: str) -> str:
    try:
        return said(phone, f"dumpsys {service}")
    except CommandFailed:  # older Android versions have no thermalservice
        return ""
