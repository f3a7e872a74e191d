"""Build the Arm bundle: a folder that runs this package on an arm64 Linux or Android device without an app, root or an SDK.

The bundle consists of two folders (layers) with the same parent, so that each is sent to a device only once. ``arm64-runtime-DIGEST``
contains Debian's C library and CPython, and the wheels of ONNX Runtime and of everything else that a job imports. It changes with their
versions. ``arm64-DIGEST``, the bundle itself, contains this package's source and two scripts: ``run`` starts the runner, and ``python``
the interpreter. The scripts are POSIX sh, so they also run under Android's mksh and toybox. With qemu-user, the same folder runs on
x86-64, but its times there mean nothing.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePath
from urllib.parse import unquote

from device_runner.errors import AsrDeployError
from device_runner.files import atomic_folder, atomic_path, cache_folder, lock
from device_runner.package import NAME, ROOT

RECIPE = 1  # raise it whenever the code below builds a different runtime from the same lists
SUITE = "bookworm"  # has Python 3.11, and its C library (2.36) is new enough for manylinux_2_28
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVE_VARIABLE = "ASRDEPLOY_DEBIAN_ARCHIVE"  # address of a Debian archive, if this machine's packages come from elsewhere
DEBIAN_PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libbz2-1.0", "liblzma5", "libffi8", "libexpat1", "libssl3"),
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
)
# In the versions that are installed here, so that both machines compute alike. Dependencies of ONNX Runtime that inference does not
# import (flatbuffers, packaging, protobuf, sympy) are left out.
WHEELS = (
    *("onnxruntime", "numpy", "pydantic", "pydantic_core", "annotated-types", "typing_extensions", "typing-inspection"),
    *("soundfile", "cffi", "pycparser"),
)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
UNUSED = (
    *("site/bin", "site/**/tests", "site/**/*.pyi", "site/**/*.a", "site/numpy/f2py", "site/numpy/distutils", "site/numpy/_core/include"),
    *(f"site/onnxruntime/{each}" for each in ("backend", "datasets", "quantization", "tools", "transformers")),
    *(f"usr/lib/python3.11/{each}" for each in ("config-*", "distutils", "ensurepip", "lib2to3", "pydoc_data", "test", "venv")),
)
LIMIT_S = 900.0  # time limit of one download
TAR_TIME = 315_532_800  # 1980-01-01 for all members, so that equal layers give equal archives

# ASRDEPLOY_LAUNCHER is unquoted on purpose: it holds a program and its options, such as `qemu-aarch64-static -cpu cortex-a76`.
# QEMU_LD_PREFIX tells qemu-user where to look for system files. Unlike the option -L, its path may contain spaces.

# The script names the dynamic loader because a device has none at Debian's path. --argv0 makes the script sys.executable, so that child
# processes start the same way. -I is not used because it would ignore PYTHONHOME.
PYTHON = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit
runtime=$(CDPATH= cd -- "$here/../{runtime}" && pwd) || exit
temporary=$here/tmp
mkdir -p "$temporary" || exit
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONINSPECT PYTHONOPTIMIZE PYTHONSTARTUP PYTHONWARNINGS
export HOME="$temporary" TMPDIR="$temporary" QEMU_LD_PREFIX="$here/emulated"
export PYTHONHOME="$runtime/usr" PYTHONPATH="$here:$runtime/site" PYTHONDONTWRITEBYTECODE=1 PYTHONUTF8=1
exec ${{ASRDEPLOY_LAUNCHER:-}} "$runtime/lib/ld-linux-aarch64.so.1" --argv0 "$here/python" --library-path "$runtime/lib" \\
    "$runtime/usr/bin/python3.11" -P -s -S "$@"
"""
RUN = """#!/bin/sh
exec sh "$(dirname -- "$0")/python" -m {module} "$@"
"""

# Describes a Cortex-A76, like `-cpu cortex-a76`. ONNX Runtime trusts this file, and crashes on one of another architecture.
CPUINFO = """processor\t: 0
BogoMIPS\t: 125.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


def _silent(_: str) -> None:
    pass


def build_bundle(folder: Path | None = None, progress: Callable[[str], None] = _silent) -> Path:
    """Build the bundle for the installed versions, unless it exists already, and return its folder ``arm64-DIGEST``.

    The digest covers the required packages and this package's source. The runtime is in the same parent folder and is shared.

    Args:
        folder: Parent folder of both layers (default: the cache folder, ``ASRDEPLOY_CACHE`` or ~/.cache/asrdeploy).
        progress: Function that receives progress messages, one line each.

    Raises:
        AsrDeployError: If this system is not Debian, a package is not available, a download fails, or the folder cannot be written.
    """
    folder = folder or cache_folder()
    if ":" in str(folder.resolve()):
        raise AsrDeployError(f"{folder} has a colon in its path, which library search paths do not allow. Choose another folder.")
    pins = pinned_versions()
    recipe = (RECIPE, SUITE, DEBIAN_PACKAGES, sorted(pins.items()), PLATFORMS, UNUSED)
    runtime = folder / f"arm64-runtime-{_digest(repr(recipe).encode())}"
    files = own_source() | starters(runtime.name)
    bundle = folder / f"arm64-{_digest(*(part for path in sorted(files) for part in (path.encode(), files[path])))}"
    if runtime.is_dir() and bundle.is_dir():
        return bundle
    with _locked(folder):  # another process may be building the same bundle
        if not runtime.is_dir():
            check_tools()
            with atomic_folder(runtime, owned=lambda _: False) as temporary:
                _build_runtime(temporary, pins, progress)
        if not bundle.is_dir():
            with atomic_folder(bundle, owned=lambda _: False) as temporary:
                for name, content in files.items():
                    path = temporary / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                for name in ("run", "python"):
                    (temporary / name).chmod(0o755)
                _compile(temporary / NAME.partition(".")[0], temporary)
    return bundle


def layers(bundle: Path) -> tuple[Path, ...]:
    """Return the folders of a bundle: the runtime, which rarely changes, and the bundle itself."""
    named = [line for line in (bundle / "python").read_text().splitlines() if line.startswith("runtime=")]
    return bundle.with_name(named[0].partition("/../")[2].partition('"')[0]), bundle


def pack_bundle(bundle: Path) -> tuple[Path, ...]:
    """Pack each layer of a bundle into a tar archive in the same parent folder, unless the archive exists, and return the archives.

    Unpack all archives into one folder: each creates a folder with the layer's name. Equal layers give equal archives.

    Raises:
        AsrDeployError: If an archive cannot be written.
    """
    archives = tuple(layer.with_name(layer.name + ".tar") for layer in layers(bundle))
    for layer, archive in zip(layers(bundle), archives, strict=True):
        if not archive.is_file():
            # toybox and busybox can read USTAR, which has no extensions.
            with atomic_path(archive) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                tar.add(layer, layer.name, filter=_plain)
    return archives


def command(bundle: PurePath, *, emulated: bool, program: str = "run") -> list[str]:
    """Return the command that starts a bundle, to which the caller adds arguments.

    Args:
        bundle: Folder of the bundle on the machine that runs the command.
        emulated: Whether qemu-user runs the bundle on x86-64.
        program: ``run``, which takes the paths of a job and a result, or ``python``, which takes the arguments of an interpreter.

    Raises:
        AsrDeployError: If qemu-user is not installed.
    """
    launcher = ["env", "ASRDEPLOY_LAUNCHER=" + " ".join(qemu_launcher())] if emulated else []
    return [*launcher, "sh", str(bundle / program)]


def qemu_launcher() -> list[str]:
    """Return the command prefix that runs an arm64 program here. It names a CPU, because qemu's default, ``max``, computes int8 wrongly.

    Raises:
        AsrDeployError: If qemu-user is not installed.
    """
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        if shutil.which(name):
            return [name, "-cpu", "cortex-a76"]
    raise AsrDeployError("qemu-aarch64, which is required to run arm64 programs, was not found. Install Debian's package qemu-user-static.")


def pinned_versions() -> dict[str, str]:
    """Return the versions of the bundle's wheels, which are those installed on this machine.

    Raises:
        AsrDeployError: If a package is not installed here.
    """
    return {name: _version_here(name) for name in WHEELS}


def _version_here(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise AsrDeployError(f"{name} is not installed here, so its version for the device is unknown. Reinstall asrdeploy.") from error


def own_source() -> dict[str, bytes]:
    """Return the content of this package's files by path in the bundle. They are read once, because a checkout may change meanwhile."""
    package = ROOT / NAME.replace(".", "/")
    above = [ROOT / each / "__init__.py" for each in Path(NAME.replace(".", "/")).parents if each.name]
    files = {path.relative_to(ROOT): path for path in (*above, *package.rglob("*")) if path.is_file()}
    return {place.as_posix(): path.read_bytes() for place, path in files.items() if not _passing(place)}


def _passing(place: Path) -> bool:
    """Tell whether a file is a cache or belongs to the checkout, and not to the package."""
    return any(part == "__pycache__" or part.startswith(".") for part in place.parts)


def starters(runtime: str) -> dict[str, bytes]:
    """Return the content of the files that start the bundle on a device, by path.

    Args:
        runtime: Name of the runtime layer's folder.

    Raises:
        AsrDeployError: If asrdeploy is not installed here, and only its source is present.
    """
    version = _version_here("asrdeploy")  # stored like that of an installed package, so that results name it
    return {
        "run": RUN.format(module=NAME).encode(),
        "python": PYTHON.format(runtime=runtime).encode(),
        "emulated/proc/cpuinfo": CPUINFO.encode(),
        f"asrdeploy-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: asrdeploy\nVersion: {version}\n".encode(),
    }


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".arm64.lock").open("w") as file:
            lock(file.fileno(), folder)
            yield
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror or error}.") from error


def check_tools() -> None:
    """Raise AsrDeployError if the programs that build the bundle are not installed."""
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise AsrDeployError("Building the Arm bundle from Debian packages requires apt-get and dpkg-deb. Build it on Debian or Ubuntu.")
    if not KEYRING.is_file():
        raise AsrDeployError(f"{KEYRING} is required to verify Debian's packages. Install the package debian-archive-keyring.")


def _build_runtime(folder: Path, pins: dict[str, str], progress: Callable[[str], None]) -> None:
    # Use the system's temporary folder: apt, which drops root privileges, can read it.
    with tempfile.TemporaryDirectory(prefix="asrdeploy-arm64-") as name:
        work = Path(name)
        progress(f"Fetching {len(DEBIAN_PACKAGES)} Debian packages for arm64")
        debs = _fetch_debs(work)
        for deb in debs:
            _call(["dpkg-deb", "-x", str(deb), str(work / "root")], f"unpack {deb.name}", "Free some space in the temporary folder")
        _take_system(work / "root", folder)
    progress(f"Fetching {len(pins)} wheels for arm64")
    _fetch_wheels(pins, folder / "site")
    progress("Building the runtime")
    for pattern in UNUSED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _compile(folder, folder)
    versions = {unquote(each.name).split("_")[0]: unquote(each.name).split("_")[1] for each in debs}
    (folder / "packages.json").write_text(json.dumps({"debian": versions, "wheels": pins}, indent=2) + "\n")


def _fetch_debs(work: Path) -> list[Path]:
    """Download the arm64 packages into ``work``. apt checks the signature of the package list and the hashes of the packages."""
    for name in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (work / name).mkdir(parents=True)
    sources = "".join(f"deb [arch=arm64 target=Packages signed-by={KEYRING}] {url} {suite} main\n" for suite, url in _archives())
    (work / "sources.list").write_text(sources)
    # The host's hooks after an update would take longer than the download.
    hooks = (f"APT::Update::{each}" for each in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"))
    (work / "apt.conf").write_text("".join(f"#clear {each};\n" for each in hooks))
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Dir::Cache": str(work / "cache"),
        "Dir::Etc::SourceList": str(work / "sources.list"),
        "Dir::Etc::SourceParts": "-",
        "Dir::State": str(work),
        "Dir::State::Lists": str(work / "lists"),
        "Dir::State::Status": "/dev/null",  # the host's own list of packages stays untouched
    }
    apt = ["apt-get", "-qq", "-c", str(work / "apt.conf"), *(word for key in options for word in ("-o", f"{key}={options[key]}"))]
    advice = "Check the connection to Debian's archive and repeat the command"
    _call([*apt, "update"], "fetch the list of Debian packages", advice)
    _call([*apt, "download", *DEBIAN_PACKAGES], "fetch the Debian packages", advice, cwd=work / "debs")
    return sorted((work / "debs").glob("*.deb"))


def _archives() -> list[tuple[str, str]]:
    """Return suite and address of the archives: the one in ``ASRDEPLOY_DEBIAN_ARCHIVE``, or those of this machine's packages."""
    named = os.environ.get(ARCHIVE_VARIABLE)
    if named:
        return [(SUITE, named)]
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.split()
    except subprocess.TimeoutExpired:
        listed = []
    suites = {"debian": SUITE, "debian-security": f"{SUITE}-security"}
    found = [(suites[name], url) for url in dict.fromkeys(listed) if (name := url.rstrip("/").rpartition("/")[2]) in suites]
    if not any(suite == SUITE for suite, _ in found):
        raise AsrDeployError(f"This machine's packages do not come from a Debian archive. Set {ARCHIVE_VARIABLE} to the address of one.")
    return found


def _take_system(root: Path, folder: Path) -> None:
    """Copy the libraries and CPython out of the unpacked packages. Links become files, because not every file system has links."""
    (folder / "lib").mkdir()
    for place in (root / "lib/aarch64-linux-gnu", root / "usr/lib/aarch64-linux-gnu"):
        targets = {path.readlink().name for path in place.iterdir() if path.is_symlink()}
        for path in place.glob("*.so.*"):
            if path.name not in targets:
                shutil.copy(path, folder / "lib" / path.name)
    (folder / "usr/bin").mkdir(parents=True)
    shutil.copy(root / "usr/bin/python3.11", folder / "usr/bin/python3.11")
    shutil.copytree(root / "usr/lib/python3.11", folder / "usr/lib/python3.11", ignore_dangling_symlinks=True)


def _fetch_wheels(pins: dict[str, str], site: Path) -> None:
    platforms = [word for each in PLATFORMS for word in ("--platform", each)]
    options = ["--no-deps", "--only-binary=:all:", *platforms, "--python-version", "3.11", "--implementation", "cp", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--target", str(site), *options]
    wanted = [f"{name}=={version}" for name, version in pins.items()]
    _call([*pip, *wanted], "fetch the wheels for arm64", "Check the connection to PyPI and repeat the command")


def _call(words: list[str], what: str, advice: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise AsrDeployError(f"Cannot {what} within {LIMIT_S:g} s. {advice}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"{words[0]} exited with code {done.returncode}"]
        causes = [each for each in lines if each.startswith("E: ")][:1] or [each for each in lines if each.startswith("ERROR: ")] or lines
        told = causes[-1]  # apt reports the cause first, pip last
        raise AsrDeployError(f"Cannot {what} ({told.removeprefix('E: ').removeprefix('ERROR: ').rstrip('. ')}). {advice}.")


def _compile(folder: Path, root: Path) -> None:
    """Add bytecode, which halves the start time, if this interpreter has the same version as the device's."""
    if sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11):
        # Compile in a separate process, because the state of this one would show in the bytecode. Hashes are unchecked, because
        # a device may not keep the files' times.
        words = ["-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), str(folder)]
        _call([sys.executable, *words], "compile the bundle's modules", "Repeat the command")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out the temporary folder of runs, and normalise everything that differs between equal layers."""
    if member.name.partition("/")[2] == "tmp":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = TAR_TIME
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
