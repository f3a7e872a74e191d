"""Run the command line: `asrdeploy`, or `python -m asrdeploy`."""

from toolchain.cli.main import main

if __name__ == "__main__":
    main()
