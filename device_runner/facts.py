"""Facts about the machine that produces a result."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from device_runner.contract import DeviceFacts, Kind, State
from device_runner.package import ROOT

# CPU features that affect the speed and the exactness of quantised inference.
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve")
PACKAGES = ("asrdeploy", "numpy", "onnxruntime", "onnx", "torch", "torchaudio", "executorch")


def machine_facts() -> dict[str, Any]:
    """Return the CPU model and features, number of CPUs, memory, operating system, package versions and git commit."""
    model, features = _cpu()
    return {
        "cpu": model,
        "cpu_features": features,
        "int8_exact": int8_is_exact(features),
        "logical_cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": package_versions(),
        "commit": _commit(),
    }


def device_facts() -> DeviceFacts:
    """Return the facts about this machine that a job's result contains."""
    cpu, features = _cpu()
    return DeviceFacts(
        kind=_kind(),
        model=cpu,
        cpu=cpu,
        cpu_features=tuple(features),
        int8_exact=int8_is_exact(features),
        abi=platform.machine(),
        system=platform.platform(),
        logical_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _kind() -> Kind:
    if os.environ.get("ASRDEPLOY_LAUNCHER"):  # set by the Arm bundle under qemu
        return "emulated"
    if "ANDROID_ROOT" not in os.environ:
        return "host"
    return "emulator" if Path("/dev/qemu_pipe").exists() or Path("/dev/goldfish_pipe").exists() else "phone"


def device_state() -> State:
    """Return the state that may change while a job runs, as far as Linux reports it in sysfs."""
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*"))
    frequencies = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=lambda path: len(str(path)))
    celsius = {f"{zone.name} {_read(zone / 'type')}".strip(): _number(zone / "temp") for zone in zones}
    return State(
        celsius={name: value / 1000 for name, value in celsius.items() if value is not None},
        kilohertz=tuple(int(value) for value in map(_number, frequencies) if value is not None),
        load_average=os.getloadavg()[0],
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # phones hide some files from the shell, and sleeping sensors return errors
        return ""


def _number(path: Path) -> float | None:
    text = _read(path)
    return float(text) if text.lstrip("-").isdigit() else None


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that results depend on, without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def int8_is_exact(features: list[str]) -> bool:
    """Return whether 8-bit products are summed without saturation: always on Arm, on x86 with VNNI or AMX."""
    return platform.machine() in {"aarch64", "arm64"} or any("vnni" in each or each == "amx_int8" for each in features)


def usable_cpus() -> int:
    """Return the number of logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def high_water_mark() -> int:
    """Return the peak resident memory of this process in bytes."""
    # Linux keeps ru_maxrss across fork and exec (getrusage(2)), so a child would start with the peak of its parent.
    # VmHWM (proc(5)) belongs to the address space, which exec replaces.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource  # missing on Windows, where this module must still be importable

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cpu() -> tuple[str, list[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return facts.get("model name") or platform.machine(), [name for name in CPU_FEATURES if name in flags]


@cache
def _commit() -> str | None:
    # Cached, because the code was loaded at the start of the process and the checkout may change later.
    # Only in a checkout: a .git folder above site-packages would belong to another project.
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
