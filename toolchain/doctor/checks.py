"""Check what is installed on this machine, and name the command that installs each missing part.

The checks change nothing, do not use the network and do not import torch. Each has a time limit.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from rich import filesize

from device_runner.contract import DeviceFacts
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts, package_versions, usable_cpus
from device_runner.files import cache_folder
from device_runner.phone.adb import bundled_adb, checked_version
from device_runner.phone.adb_output import parse_devices, short
from device_runner.phone.arm_bundle import check_tools, qemu_launcher
from device_runner.phone.remedies import READY, remedy
from toolchain.doctor.probes import (
    CUDA,
    RUNTIMES,
    Said,
    adb_devices,
    built_bundle,
    debian_command,
    free_memory,
    java_tool,
    json_lines,
    pinned,
    run_bounded,
    server_address,
    server_name,
    torch_build,
)
from toolchain.extras import EXTRAS, asrdeploy_command, extra_of, installed, pip_command

# Debian packages by program. A test compares them with the Makefile's lists.
DEBIAN = {"adb": "adb", "qemu-aarch64-static": "qemu-user-static", "javac": "openjdk-17-jdk-headless", "mvn": "maven"}
OLDEST_JDK = 17  # android/build refuses older versions
MEMORY = 7_100_000_000  # bytes that exporting HUBERT_ASR_LARGE to ONNX requires
ROOM = 2_000_000_000  # bytes of free space; the weights of HUBERT_ASR_LARGE take 1.3 GB
NEEDS = {
    "torch": ("export", "compress", "sweep", "evaluate MODEL"),
    "onnxruntime": ("export", "evaluate", "transcribe", "bench"),
    "executorch": ("--format executorch",),
    "toolchain": ("export", "compress", "sweep", "report", "deliver", "evaluate MODEL", "executorch"),
    "ray": ("evaluate, sweep, smallest: --engine ray",),
    "phones": ("--device SERIAL, if no other adb is installed",),
    "training": ("make train",),
    "docs": ("make docs",),
    "adb": ("devices", "--device SERIAL"),
    "JDK": ("android/build", "make device-demo"),
    "Maven": ("android/build", "make device-demo"),
    "qemu": ("--device qemu-arm64",),
    "Arm bundle": ("--via shell", "--device qemu-arm64"),
}


def _printable(text: object) -> object:
    """Replace unprintable characters: output of other programs may contain control sequences or invalid bytes."""
    return "".join(each if each.isprintable() else "�" for each in text) if isinstance(text, str) else text


Words = Annotated[str, BeforeValidator(_printable)]


class Row(BaseModel):
    """Result of one check.

    Args:
        name: Name of the part.
        state: ``ok``, ``missing``, or ``note`` (present, with a remark).
        found: What was found, or what is wrong.
        command: Shell command that installs a missing part, or None if there is none for this system.
        needed_by: Commands and options of asrdeploy that require the part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: Literal["ok", "missing", "note"]
    found: Words
    command: Words | None = None
    needed_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _only_what_is_missing_has_a_command(self) -> "Row":
        if self.command is not None and self.state != "missing":
            raise ValueError(f"{self.name} is {self.state}, but has a command")
        return self


class Report(BaseModel):
    """Report of ``asrdeploy doctor --json``.

    Args:
        version: Version of the file format.
        broken: Reasons why no command of asrdeploy works here, one sentence each.
        machine: Facts about this machine, as in results of jobs.
        packages: Versions of the packages on which results depend.
        rows: Results of the checks, in the order in which they are shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    broken: tuple[Words, ...] = ()
    machine: DeviceFacts
    packages: dict[str, str]
    rows: tuple[Row, ...]


def examine(say: Callable[[str], None] = lambda sentence: None) -> Report:
    """Check this machine.

    Args:
        say: Callback that receives progress messages.
    """
    python = (sys.executable, "-B", "-P", "-c")
    versions, machine = package_versions(), device_facts()
    adb = shutil.which("adb") or bundled_adb()
    build = torch_build() if "torch" in versions else {}
    asked = {
        "numpy and onnxruntime": (*python, RUNTIMES),
        "CUDA": (*python, CUDA) if "cuda" in build else None,
        "adb": (adb, "version") if adb else None,
        "javac": (javac, "-J-XX:-UsePerfData", "-version") if (javac := java_tool("javac")) else None,
        "java": (java, "-XX:-UsePerfData", "-version") if (java := java_tool("java")) else None,
        "mvn": (mvn, "-version") if (mvn := shutil.which("mvn")) else None,
    }
    calls = {name: words for name, words in asked.items() if words is not None}
    say(f"Checking {', '.join(calls)}")
    with ThreadPoolExecutor(len(calls)) as threads:
        known = dict(zip(calls, threads.map(run_bounded, calls.values()), strict=True))
    say("Checking the adb server, the cache and the disks")
    call = known["numpy and onnxruntime"]
    runtimes, cuda = json_lines(call.text), json_lines(known["CUDA"].text) if "CUDA" in known else {}
    pins = pinned()
    rows = (
        python_row(versions.get("asrdeploy")),
        cpu_row(machine, usable_cpus()),
        memory_row(machine.memory_bytes, *free_memory()),
        disk_row("cache", cache_folder()),
        disk_row("this folder", Path.cwd()),
        torch_row(versions.get("torch"), build, cuda, pins.get("torch")),
        onnxruntime_row(versions.get("onnxruntime"), runtimes.get("onnxruntime"), call, pins.get("onnxruntime")),
        executorch_row(versions.get("executorch"), pins.get("executorch")),
        *(extra_row(name, {each: installed(each) for each in packages}, shutil.which("adb")) for name, packages in EXTRAS.items()),
        adb_row(adb, known.get("adb")),
        devices_row(adb is not None),
        jdk_row(known.get("javac"), known.get("java")),
        maven_row(known.get("mvn")),
        qemu_row(),
        bundle_row(cache_folder()),
    )
    return Report(broken=broken(runtimes.get("numpy"), call), machine=machine, packages=versions, rows=rows)


def broken(numpy: dict[str, Any] | None, call: Said) -> tuple[str, ...]:
    """Return the reasons why no command works: Python is too old, or numpy cannot be imported."""
    found = []
    if sys.version_info < (3, 11):  # noqa: UP036  # an installer that ignores requires-python gets here
        found.append(f"Python {platform.python_version()} is too old. asrdeploy requires Python 3.11 or newer.")
    if (numpy is None and not call.silent) or (numpy is not None and "error" in numpy):
        why = (call.problem or "no output") if numpy is None else short(numpy["error"]).rstrip(".")
        found.append(f"numpy cannot be imported ({why}). Reinstall it: {pip_command('--force-reinstall', '--no-deps', 'numpy')}")
    return tuple(found)


def python_row(version: str | None) -> Row:
    """Report the Python interpreter and the version of asrdeploy."""
    ours = f"asrdeploy {version}" if version else f"asrdeploy in {Path(__file__).parents[2]}, not installed"
    return Row(name="Python", state="ok" if version else "note", found=f"{platform.python_version()} ({sys.executable}), {ours}")


def cpu_row(machine: DeviceFacts, usable: int) -> Row:
    """Report the CPU and whether its 8-bit arithmetic is exact.

    Args:
        machine: Facts about this machine.
        usable: Number of logical CPUs that this process may use.
    """
    cores = f"{usable} of {machine.logical_cpus} cores" if usable < machine.logical_cpus else f"{usable} cores"
    known = f"{machine.cpu}, {cores}, {' '.join(machine.cpu_features) or 'no relevant features'}"
    if machine.int8_exact:
        return Row(name="CPU", state="ok", found=f"{known}: int8 is exact")
    return Row(name="CPU", state="note", found=f"{known}: int8 saturates; export with --quant int8+reduce_range")


def memory_row(total: int, free: int | None, limit: int | None) -> Row:
    """Report the memory in bytes: total, free, and the limit of the container."""
    most = min(total, limit or total)
    limited = f", limited to {filesize.decimal(most)}" if most < total else ""
    known = f"{filesize.decimal(total)}{limited}" + (f", {filesize.decimal(free)} free" if free is not None else "")
    if min(most, most if free is None else free) < MEMORY:
        known += f"; exporting HUBERT_ASR_LARGE requires {filesize.decimal(MEMORY)}"
        return Row(name="memory", state="note", found=known)
    return Row(name="memory", state="ok", found=known)


def disk_row(name: str, folder: Path) -> Row:
    """Report the free disk space for a folder, which need not exist."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Row(name=name, state="note", found=f"{folder} cannot be read: {error.strerror}")
    known = f"{filesize.decimal(free)} free in {folder}"
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Row(name=name, state="note", found=f"{known}, which cannot be written")
    return Row(name=name, state="ok" if free >= ROOM else "note", found=known if free >= ROOM else f"{known}: low")


def torch_row(version: str | None, build: dict[str, str], cuda: dict[str, Any], pin: str | None) -> Row:
    """Report PyTorch.

    Args:
        version: Installed version, or None.
        build: Build, see ``torch_build``.
        cuda: Answer of the NVIDIA driver.
        pin: Version that asrdeploy requires.
    """
    if version is None:
        return _absent("torch")
    if not build:
        again = pip_command("--force-reinstall", "--no-deps", f"torch=={pin}" if pin else "torch")
        return Row(name="torch", state="missing", found=f"{version} is incomplete", command=again, needed_by=NEEDS["torch"])
    kind = next((f"{name.upper()} {build[name]} build" for name in ("cuda", "hip") if name in build), "CPU build")
    known = f"{build['__version__']}, {kind}"
    if "cuda" not in build:
        return _versioned("torch", known, version, pin)
    devices = cuda.get("devices") or []
    if devices:
        known += f", {len(devices)} CUDA device{'s' * (len(devices) > 1)}: {', '.join(dict.fromkeys(devices))}"
        if cuda["driver"] < int(build["cuda"].partition(".")[0]):
            return Row(name="torch", state="note", found=f"{known}; the driver supports CUDA {cuda['driver']}, too old for this build")
        return _versioned("torch", known, version, pin)
    why = cuda.get("why", "the NVIDIA driver does not answer")
    return _versioned("torch", f"{known}, no CUDA device{f' ({why})' if why else ''}", version, pin)


def onnxruntime_row(version: str | None, answer: dict[str, Any] | None, call: Said, pin: str | None) -> Row:
    """Report ONNX Runtime.

    Args:
        version: Installed version, or None.
        answer: Result of importing it, or None if the process ended before.
        call: The process that imported it.
        pin: Version that asrdeploy requires.
    """
    if version is None:
        return _absent("onnxruntime")
    if answer is None and call.silent:
        return Row(name="onnxruntime", state="note", found=f"{version}, but importing it takes too long")
    if answer is None or "error" in answer:
        why = call.problem if answer is None else short(answer["error"])
        again = pip_command("--force-reinstall", "--no-deps", f"onnxruntime=={pin}" if pin else "onnxruntime")
        return Row(name="onnxruntime", state="missing", found=f"{version} is broken: {why}", command=again, needed_by=NEEDS["onnxruntime"])
    providers = ", ".join(each.removesuffix("ExecutionProvider") for each in answer["providers"])
    return _versioned("onnxruntime", f"{version}, providers: {providers}", version, pin)


def executorch_row(version: str | None, pin: str | None) -> Row:
    """Report ExecuTorch without importing it, because it imports torch."""
    return _absent("executorch") if version is None else _versioned("executorch", version, version, pin)


def extra_row(name: str, versions: dict[str, str | None], adb: str | None) -> Row:
    """Report an extra.

    Args:
        name: Name in pyproject.toml.
        versions: Installed versions by package, None for a missing one.
        adb: adb program on the PATH, with which the extra ``phones`` is not needed.
    """
    title, lacking = f"extra {name}", [each for each, version in versions.items() if version is None]
    if not lacking:
        return Row(name=title, state="ok", found=", ".join(f"{each} {version}" for each, version in versions.items()))
    if name == "phones" and adb is not None:
        return Row(name=title, state="note", found=f"not installed, and not needed because of {adb}")
    known = f"{', '.join(lacking)} not installed" + ("; the build requires a C compiler" if "ttspico" in lacking else "")
    return Row(name=title, state="missing", found=known, command=asrdeploy_command(name), needed_by=NEEDS[name])


def adb_row(program: str | None, answer: Said | None) -> Row:
    """Report adb: the program on the PATH, otherwise that of the package adbutils."""
    if program is None or answer is None:
        if shutil.which("apt-get") is None:  # the extra works on every system
            return Row(name="adb", state="missing", found="not found", command=asrdeploy_command("phones"), needed_by=NEEDS["adb"])
        return _debian("adb", "adb", "not found")
    where = "on the PATH" if shutil.which("adb") else "in the package adbutils"
    if answer.problem:
        return Row(name="adb", state="note", found=f"{program} ({where}) {answer.problem}; choose another with --adb")
    try:
        return Row(name="adb", state="ok", found=f"{checked_version(answer.text, Path(program))}, {program} ({where})")
    except AsrDeployError as error:
        return Row(name="adb", state="note", found=str(error).rstrip("."))


def devices_row(client: bool) -> Row:
    """Report the devices that the adb server lists, without starting a server.

    Args:
        client: Whether an adb program is available.
    """
    name = server_name(os.environ)
    address = server_address(name)
    if address is None:
        return Row(name="devices", state="note", found=f"the adb server {name} is not queried here; run `asrdeploy devices`")
    try:
        text = adb_devices(address)
    except AsrDeployError as error:
        return Row(name="devices", state="note", found=str(error).rstrip("."))
    if text is None:
        how = "`asrdeploy devices` starts it and lists devices" if client else "devices require adb"
        return Row(name="devices", state="note", found=f"the adb server is not running; {how}")
    devices = parse_devices(text)
    listed = [f"{each.serial} ({'ready' if each.state == READY else each.state})" for each in devices]
    remedies = [remedy(each.serial, each.state).rstrip(".") for each in devices if each.state != READY]
    return Row(name="devices", state="note" if remedies else "ok", found=". ".join([", ".join(listed) or "none connected", *remedies]))


def jdk_row(javac: Said | None, java: Said | None) -> Row:
    """Report the Java Development Kit that android/build uses."""
    if javac is None:
        if os.environ.get("JAVA_HOME"):
            return Row(name="JDK", state="note", found=f"JAVA_HOME is {os.environ['JAVA_HOME']}, which contains no bin/javac")
        return _debian("JDK", "javac", "not found")
    version = re.search(r"^javac ((\d+)\S*)", javac.text, re.MULTILINE)
    if version is None or javac.problem:
        return Row(name="JDK", state="note", found=f"{javac.program} {javac.problem or f'says “{short(javac.text)}”'}")
    if int(version[2]) < OLDEST_JDK:
        return _debian("JDK", "javac", f"{version[1]} is too old: {OLDEST_JDK} or newer is required")
    if java is None or java.problem:
        return Row(name="JDK", state="note", found=f"javac {version[1]}, but java {java.problem if java else 'was not found'}")
    return Row(name="JDK", state="ok", found=f"{version[1]}, {javac.program}")


def maven_row(answer: Said | None) -> Row:
    """Report Maven."""
    if answer is None:
        return _debian("Maven", "mvn", "not found")
    version = re.search(r"Apache Maven (\d[\w.-]*)", answer.text)
    if version is None or answer.problem:
        return Row(name="Maven", state="note", found=f"{answer.program} {answer.problem or f'says “{short(answer.text)}”'}")
    return Row(name="Maven", state="ok", found=f"{version[1]}, {answer.program}")


def qemu_row() -> Row:
    """Report qemu-user, which runs the Arm bundle on this machine."""
    try:
        return Row(name="qemu", state="ok", found=str(shutil.which(qemu_launcher()[0])))
    except AsrDeployError:
        return _debian("qemu", "qemu-aarch64-static", "not found")


def bundle_row(folder: Path) -> Row:
    """Report whether a cache folder contains the Arm bundle of this version."""
    try:
        built = built_bundle(folder)
        if built is not None:
            return Row(name="Arm bundle", state="ok", found=f"built: {built}")
        check_tools()
    except AsrDeployError as error:
        return Row(name="Arm bundle", state="note", found=f"not built. {str(error).rstrip('.')}")
    known = f"not built for this version in {folder}"
    return Row(name="Arm bundle", state="missing", found=known, command="asrdeploy setup arm64", needed_by=NEEDS["Arm bundle"])


def _absent(name: str) -> Row:
    return Row(name=name, state="missing", found="not installed", command=asrdeploy_command(extra_of(name)), needed_by=NEEDS[name])


def _versioned(name: str, known: str, version: str, pin: str | None) -> Row:
    """Note a version other than the required one, because results depend on exported graphs and kernels."""
    if pin is None or version.partition("+")[0] == pin:
        return Row(name=name, state="ok", found=known)
    return Row(name=name, state="note", found=f"{known}; asrdeploy requires {pin}")


def _debian(name: str, program: str, found: str) -> Row:
    command = debian_command(DEBIAN[program])
    if command is None:
        found += f"; install your system's counterpart of Debian's {DEBIAN[program]}"
    return Row(name=name, state="missing", found=found, command=command, needed_by=NEEDS[name])
