"""The Kotlin core, built by `android/build` if necessary."""

import functools
import subprocess
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY


@functools.cache
def benchcore_jar() -> Path:
    """Build the core from the current sources and return its jar."""
    done = subprocess.run([REPOSITORY / "android" / "build"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def benchcore() -> Path:
    """Jar of the core, for ``java -jar JAR JOB RESULT``."""
    return benchcore_jar()
