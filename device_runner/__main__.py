"""Run a job in this process: `python -m device_runner JOB.json RESULT.json`."""

import sys

from device_runner.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
