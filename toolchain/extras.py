"""The extras of the package: what each adds to a base install, and the sentence of a command that misses one."""

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
    from toolchain.doctor.probes import asrdeploy_command  # only here: it takes longer than most commands

    return f"This needs {error.name}, which is not installed: `{asrdeploy_command(extra)}` adds the extra {extra}."
