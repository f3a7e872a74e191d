"""The `asrdeploy` command line: each command parses its options, calls one function and prints the result."""

import logging
import sys
from collections.abc import Callable, Sequence

import typer

from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import shown
from device_runner.home import finds_home
from device_runner.terminal import check_current_folder, escape_output, flush_output
from toolchain.cli import compression, data_sets, delivery, devices, environment, evaluation, latency, models, scenario, scores
from toolchain.cli.options import complain, give_output_back
from toolchain.extras import lacking

# Commands import torch and the runtimes inside their functions, so that `--help` and mistakes are answered at once.

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compress, export and evaluate speech recognition models on devices: word error rate, size and latency.",
)
USER_ERROR, DEVICE_FAILED, INTERRUPTED = 2, 3, 130  # exit codes; 130 is what typer makes of Ctrl-C
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Models and export": models.COMMANDS,
    "Compression": compression.COMMANDS,
    "Evaluation": (*data_sets.COMMANDS, *evaluation.COMMANDS, *scores.COMMANDS, *latency.COMMANDS),
    "Devices": devices.COMMANDS,
    "Scenario and delivery": (*scenario.COMMANDS, *delivery.COMMANDS),
    "Environment": environment.COMMANDS,
}


class Complaints(logging.Handler):
    """Prints warnings of the library as the command line prints errors: one sentence on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        complain(record.getMessage())


COMPLAINTS = Complaints(logging.WARNING)


def main() -> None:
    """Run `asrdeploy`."""
    run(app)


def run(application: typer.Typer) -> None:
    """Run a command line and turn errors into one sentence and an exit code.

    Exit codes: 2 for what the user can fix, 3 for a device that failed, 130 for Ctrl-C.
    """
    logging.getLogger("asrdeploy").addHandler(COMPLAINTS)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it has no cache folder, and makes a temporary one
    escape_output()
    try:
        check_current_folder()
        check_arguments(sys.argv[1:])
        try:
            application()
        finally:
            flush_output()
    except AsrDeployError as error:
        complain(str(error))
        sys.exit(DEVICE_FAILED if isinstance(error, DeviceFailed) else USER_ERROR)
    except ModuleNotFoundError as error:
        sentence = lacking(error)
        if sentence is None:
            raise
        complain(sentence)
        sys.exit(USER_ERROR)
    except OSError as error:  # a full disk, a folder without write permission
        complain(f"{shown(error.filename or 'Output')} cannot be read or written: {error.strerror or error}.")
        sys.exit(USER_ERROR)
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            complain(getattr(ending, "sentence", "Interrupted. Finished work is saved; repeat the command to resume."))
        raise
    finally:
        give_output_back()
        logging.getLogger("asrdeploy").removeHandler(COMPLAINTS)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: as a path it would mean the current folder, and it is usually a variable that a script did not set.

    Raises:
        AsrDeployError: There is one.
    """
    for number, argument in enumerate(arguments):
        if not argument:
            place = f"behind {arguments[number - 1]}" if number else "given to asrdeploy"
            raise AsrDeployError(f"The argument {place} is empty. Check the variable that it comes from.")


def _add(command: Callable[..., None], group: str) -> None:
    """Add a command to a group of the help; the example in its docstring ends its own help."""
    text, _, example = (command.__doc__ or "").partition("Example: ")
    app.command(help=text.strip(), epilog=f"Example: {example.strip()}", rich_help_panel=group)(finds_home(command))


for _group, _commands in GROUPS.items():
    for _command in _commands:
        _add(_command, _group)


if __name__ == "__main__":
    main()
