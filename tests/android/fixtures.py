"""The Kotlin core, built by `android/build` where it is not."""

import functools
import subprocess
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY


@functools.cache
def benchcore_jar() -> Path:
    """Return the core's jar, built from the sources that are there."""
    done = subprocess.run([REPOSITORY / "android" / "build"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def benchcore() -> Path:
    """The core's jar: ``java -jar JAR JOB RESULT``."""
    return benchcore_jar()
