"""Extras of the package: their packages, and the error message for a missing one."""

import shlex
import shutil
import sys
from pathlib import Path

# Packages of each extra with the names of their modules. A test compares them with pyproject.toml.
EXTRAS: dict[str, dict[str, str]] = {
    "toolchain": {
        name: name.replace("-", "_")
        for name in (
            *("torch", "torchaudio", "executorch", "onnx", "onnxscript", "onnx-ir", "torcheval", "safetensors", "constriction", "numba"),
            *("starlette", "uvicorn", "plotly", "jinja2", "huggingface_hub"),
        )
    },
    "ray": {"ray": "ray"},
    "phones": {"adbutils": "adbutils"},
    "training": {"scipy": "scipy", "ttspico": "ttspico"},
    "docs": {"zensical": "zensical", "mkdocstrings": "mkdocstrings", "mkdocstrings-python": "mkdocstrings_handlers"},
}


def extra_of(module: str) -> str | None:
    """Return the extra that contains a module, such as ``toolchain`` for ``torch.nn``, or None."""
    top = module.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages.values()), None)


def lacking(error: ModuleNotFoundError) -> str | None:
    """Return the message for a module that is not installed, or None if no extra contains it, which is a defect."""
    extra = extra_of(error.name or "")
    if extra is None:
        return None
    return f"This command requires {error.name}, which is not installed. Install the extra {extra}: `{asrdeploy_command(extra)}`."


def installed(name: str) -> str | None:
    """Return the version of an installed package without importing it, or None."""
    from importlib import metadata  # imported here because it slows the start of every command

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def pip_command(*words: str) -> str:
    """Return the shortest command that installs packages into the environment of this process."""
    program, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).absolute() == program:
        shown = "python"
    else:
        shown = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    return shlex.join((shown, "-m", "pip", "install", *words))


def asrdeploy_command(extra: str | None = None) -> str:
    """Return the command that installs asrdeploy or one of its extras."""
    part = f"[{extra}]" if extra else ""
    if installed("asrdeploy") is not None:
        return pip_command(f"asrdeploy{part}")
    return pip_command("-e", f"{Path(__file__).parents[1]}{part}")
