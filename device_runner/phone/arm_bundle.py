"""The Arm bundle: a folder that runs this package on an arm64 device, a Linux or Android one, without an app, root or an SDK.

It has two layers, folders side by side, so that a device gets each only once. ``arm64-runtime-DIGEST`` is Debian's C library and CPython
with the wheels of ONNX Runtime and what else a job imports; it changes with their versions. ``arm64-DIGEST``, the bundle itself, is this
package's source and what starts it: ``run`` is ``python -m device_runner``, ``python`` the interpreter. Both are POSIX sh, for Android's
mksh and toybox too. Where qemu-user is installed, the same folder runs on x86-64: for function only, its times mean nothing.
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
from device_runner.files import atomic_folder, atomic_path, cache_folder

RECIPE = 1  # to be raised whenever the code below makes another runtime of the same lists
SUITE = "bookworm"  # its Python is 3.11, its C library (2.36) new enough for manylinux_2_28
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVE_VARIABLE = "ASRDEPLOY_DEBIAN_ARCHIVE"  # the address of a Debian archive, where this machine's own packages come from elsewhere
DEBIAN_PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libbz2-1.0", "liblzma5", "libffi8", "libexpat1", "libssl3"),
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
)
# Of the versions that are installed here, so that both compute alike; without what ONNX Runtime lists but inference does not import
# (flatbuffers, packaging, protobuf, sympy).
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
LIMIT_S = 900.0  # of one download
TAR_TIME = 315_532_800  # 1980-01-01: the same for all members, so that equal layers give equal archives

# The words of ASRDEPLOY_LAUNCHER are split on purpose: it holds a program and its options, such as `qemu-aarch64-static -cpu cortex-a76`.
# QEMU_LD_PREFIX is where qemu-user looks for the machine's files; unlike the option -L it may hold spaces. Devices ignore it.
# The dynamic loader is named because a device has none of its own at Debian's place, and --argv0 makes this script sys.executable,
# so that child processes start the same way. No -I: it would ignore PYTHONHOME.
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
exec sh "$(dirname -- "$0")/python" -m device_runner "$@"
"""

# A Cortex-A76, as `-cpu cortex-a76` is. ONNX Runtime crashes on a file of another architecture, and takes what is claimed here for granted.
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
    """Make the bundle for the versions that are installed here and return its folder, ``arm64-DIGEST``; at once where it is there.

    The digest stands for the wanted packages and this package's source. The runtime lies beside it and is shared.

    Args:
        folder: where both layers are kept; by default the cache folder, ``ASRDEPLOY_CACHE`` or ~/.cache/asrdeploy.
        progress: is told what is being done, a line at a time.

    Raises:
        AsrDeployError: this is no Debian, a package is not to be had, there is no connection, or the folder cannot be written.
    """
    folder = folder or cache_folder()
    if ":" in str(folder.resolve()):
        raise AsrDeployError(f"{folder} has a colon in its path, which separates folders of the bundle's libraries; choose another folder.")
    pins = pinned_versions()
    recipe = (RECIPE, SUITE, DEBIAN_PACKAGES, sorted(pins.items()), PLATFORMS, UNUSED)
    runtime = folder / f"arm64-runtime-{_digest(repr(recipe).encode())}"
    files = own_source() | starters(runtime.name)
    bundle = folder / f"arm64-{_digest(*(part for path in sorted(files) for part in (path.encode(), files[path])))}"
    if runtime.is_dir() and bundle.is_dir():
        return bundle
    with _locked(folder):  # another process may be building the same
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
                _compile(temporary / "device_runner", temporary)
    return bundle


def layers(bundle: Path) -> tuple[Path, ...]:
    """Return the folders of a bundle: the runtime, which seldom changes, and the bundle itself."""
    named = [line for line in (bundle / "python").read_text().splitlines() if line.startswith("runtime=")]
    return bundle.with_name(named[0].partition("/../")[2].partition('"')[0]), bundle


def pack_bundle(bundle: Path) -> tuple[Path, ...]:
    """Pack every layer of a bundle into one tar archive beside it, where there is none yet, and return the archives.

    They are to be unpacked into one folder; each makes one folder there, with the layer's name. Equal layers give equal archives.

    Raises:
        AsrDeployError: an archive cannot be written.
    """
    archives = tuple(layer.with_name(layer.name + ".tar") for layer in layers(bundle))
    for layer, archive in zip(layers(bundle), archives, strict=True):
        if not archive.is_file():
            # USTAR, without extensions: toybox and busybox read it.
            with atomic_path(archive) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                tar.add(layer, layer.name, filter=_plain)
    return archives


def command(bundle: PurePath, *, emulated: bool, program: str = "run") -> list[str]:
    """Return the words that start a bundle, to which its arguments are added.

    Args:
        bundle: its folder, on the machine where the words are run.
        emulated: on x86-64, by qemu-user.
        program: ``run``, which takes a job and a result, or ``python``, which takes what an interpreter takes.

    Raises:
        AsrDeployError: there is no qemu-user.
    """
    launcher = ["env", "ASRDEPLOY_LAUNCHER=" + " ".join(qemu_launcher())] if emulated else []
    return [*launcher, "sh", str(bundle / program)]


def qemu_launcher() -> list[str]:
    """Return the words before an arm64 program that run it here. Its machine is named: the default one, ``max``, gets int8 wrong.

    Raises:
        AsrDeployError: there is no qemu-user.
    """
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        if shutil.which(name):
            return [name, "-cpu", "cortex-a76"]
    raise AsrDeployError("There is no qemu-aarch64 here to run arm64 programs; install Debian's package qemu-user-static.")


def pinned_versions() -> dict[str, str]:
    """Return the versions of the wheels that the bundle takes: those of this machine.

    Raises:
        AsrDeployError: one is not installed here.
    """
    return {name: _version_here(name) for name in WHEELS}


def _version_here(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise AsrDeployError(f"{name} is not installed here, so its version for the device is unknown; install asrdeploy anew.") from error


def own_source() -> dict[str, bytes]:
    """Return the files of this package by their path in the bundle; read once, as a checkout may change meanwhile."""
    package = Path(__file__).parent.parent
    files = {path.relative_to(package.parent): path for path in package.rglob("*") if path.is_file()}
    return {place.as_posix(): path.read_bytes() for place, path in files.items() if not _passing(place)}


def _passing(place: Path) -> bool:
    """Tell whether a file belongs to a checkout or a run and not to the package."""
    return any(part == "__pycache__" or part.startswith(".") for part in place.parts)


def starters(runtime: str) -> dict[str, bytes]:
    """Return the files that start the bundle on a device, by path; ``runtime``: the name of its lower layer.

    Raises:
        AsrDeployError: asrdeploy itself is not installed here, only its source lies here.
    """
    version = _version_here("asrdeploy")  # as an installed package has it, so that results on the device name it
    return {
        "run": RUN.encode(),
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
    import fcntl  # not on Windows, where this module is imported too

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".arm64.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror or error}.") from error


def check_tools() -> None:
    """Raise AsrDeployError where the programs that the bundle is made with are not here."""
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise AsrDeployError("The Arm bundle is made of Debian packages, which takes apt-get and dpkg-deb; build it on Debian or Ubuntu.")
    if not KEYRING.is_file():
        raise AsrDeployError(f"There is no {KEYRING} to check Debian's packages with; install the package debian-archive-keyring.")


def _build_runtime(folder: Path, pins: dict[str, str], progress: Callable[[str], None]) -> None:
    # The system's temporary folder: apt, which drops its rights as root, gets into it.
    with tempfile.TemporaryDirectory(prefix="asrdeploy-arm64-") as name:
        work = Path(name)
        progress(f"Fetching {len(DEBIAN_PACKAGES)} Debian packages for arm64")
        debs = _fetch_debs(work)
        for deb in debs:
            _call(["dpkg-deb", "-x", str(deb), str(work / "root")], f"unpack {deb.name}", "free space in the temporary folder")
        _take_system(work / "root", folder)
    progress(f"Fetching {len(pins)} wheels for arm64")
    _fetch_wheels(pins, folder / "site")
    progress("Putting them together")
    for pattern in UNUSED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _compile(folder, folder)
    versions = {unquote(each.name).split("_")[0]: unquote(each.name).split("_")[1] for each in debs}
    (folder / "packages.json").write_text(json.dumps({"debian": versions, "wheels": pins}, indent=2) + "\n")


def _fetch_debs(work: Path) -> list[Path]:
    """Download the arm64 packages into ``work``; apt checks the signature of the list and the hashes of the packages."""
    for name in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (work / name).mkdir(parents=True)
    sources = "".join(f"deb [arch=arm64 target=Packages signed-by={KEYRING}] {url} {suite} main\n" for suite, url in _archives())
    (work / "sources.list").write_text(sources)
    # What the host does after its own updates would take longer than the download.
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
    advice = "check the connection to Debian's archive and run the same command again"
    _call([*apt, "update"], "fetch the list of Debian packages", advice)
    _call([*apt, "download", *DEBIAN_PACKAGES], "fetch the Debian packages", advice, cwd=work / "debs")
    return sorted((work / "debs").glob("*.deb"))


def _archives() -> list[tuple[str, str]]:
    """Return suite and address of the archives: those of this machine's own packages, whatever its release, or the one that is named."""
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
        raise AsrDeployError(f"This machine's packages come from no Debian archive; name the address of one with {ARCHIVE_VARIABLE}.")
    return found


def _take_system(root: Path, folder: Path) -> None:
    """Take the libraries and CPython out of unpacked packages, files in the place of links: not every file system has them."""
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
    _call([*pip, *wanted], "fetch the wheels for arm64", "check the connection to PyPI and run the same command again")


def _call(words: list[str], what: str, advice: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise AsrDeployError(f"Cannot {what} within {LIMIT_S:g} s: {advice}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"{words[0]} ended with code {done.returncode}"]
        causes = [each for each in lines if each.startswith("E: ")][:1] or [each for each in lines if each.startswith("ERROR: ")] or lines
        told = causes[-1]  # apt says the cause first, pip last
        raise AsrDeployError(f"Cannot {what} ({told.removeprefix('E: ').removeprefix('ERROR: ').rstrip('. ')}): {advice}.")


def _compile(folder: Path, root: Path) -> None:
    """Add the bytecode, which halves the time of a start, where this interpreter makes the device's."""
    if sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11):
        # In a process of its own: what else lives in this one shows in the bytes. Unchecked: a device may not keep the files' times.
        words = ["-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), str(folder)]
        _call([sys.executable, *words], "compile the bundle's modules", "build it again")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what a run makes, and what differs between equal layers."""
    if member.name.partition("/")[2] == "tmp":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = TAR_TIME
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
