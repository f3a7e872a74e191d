"""The extras of the package: what each adds to a base install, and the sentence of a command that misses one."""

import shlex
import shutil
import sys
from pathlib import Path

# Of pyproject.toml, with the module where its name is another one; a test compares them.
EXTRAS: dict[str, dict[str, str]] = {
    "toolchain": {
        name: name.replace("-", "_")
        for name in (
            *("torch", "torchaudio", "executorch", "onnx", "onnxscript", "onnx-ir", "torcheval", "safetensors", "constriction", "numba"),
            *("starlette", "uvicorn", "plotly", "jinja2"),
        )
    },
    "ray": {"ray": "ray"},
    "phones": {"adbutils": "adbutils"},
    "training": {"scipy": "scipy", "ttspico": "ttspico"},
    "docs": {"mkdocs": "mkdocs", "mkdocs-material": "material", "mkdocstrings": "mkdocstrings"},
}


def extra_of(module: str) -> str | None:
    """Return the extra that brings a module, such as ``toolchain`` for ``torch.nn``; None: no extra does."""
    top = module.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages.values()), None)


def lacking(error: ModuleNotFoundError) -> str | None:
    """Return the sentence for a module that is not installed; None: it is of no extra, so its absence is a defect."""
    extra = extra_of(error.name or "")
    if extra is None:
        return None
    return f"This needs {error.name}, which is not installed: `{asrdeploy_command(extra)}` adds the extra {extra}."


def installed(name: str) -> str | None:
    """Return the version of an installed package, without its import."""
    from importlib import metadata  # only here: it takes longer to import than most commands need

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def pip_command(*words: str) -> str:
    """Return the command that installs packages into the environment of this process, as short as it can be typed here."""
    program, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).absolute() == program:
        shown = "python"
    else:
        shown = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    return shlex.join((shown, "-m", "pip", "install", *words))


def asrdeploy_command(extra: str | None = None) -> str:
    """Return the command that installs what asrdeploy, or an extra of it, asks for."""
    part = f"[{extra}]" if extra else ""
    if installed("asrdeploy") is not None:
        return pip_command(f"asrdeploy{part}")
    return pip_command("-e", f"{Path(__file__).parents[1]}{part}")
