"""The errors that are the user's to mend, kept apart from those that are ours."""


class UserError(Exception):
    """Something outside the program is wrong: an option, a file, a folder, an environment.

    The message is one or two lines: the thing, what was found, what was wanted, what to do.
    Commands print it without a traceback and exit with status 1.
    """


class OptionError(UserError, ValueError):
    """A model or command option that cannot be honoured."""


class CorpusError(UserError):
    """A corpus, an archive or a preparation of one that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded, or that does not fit its neighbours."""


class UnsafeCheckpointError(UserError):
    """A checkpoint that is, or asks for, more than data. It may be whole: nothing mends it, and it is not to be removed."""


def flag(name: str) -> str:
    """An option's name in Python as it is on the command line: ``max_update``, ``--max-update``."""
    return "--" + name.replace("_", "-")


def check_at_least(least: float, **options: float | None) -> None:
    """Raises OptionError, named as on the command line, for the first of these options that is given and below ``least``."""
    check_within(least, float("inf"), **options)


MOST_SEED = 2**32 - 1  # numpy's
MOST_SAMPLES = 1_000_000  # of a test by resampling: more would take days, or all memory


def check_within(least: float, most: float, **options: float | None) -> None:
    """Raises OptionError for the first of these options that is given and not from ``least`` to ``most``."""
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            limits = f"at least {least}" if most == float("inf") else f"from {least} to {most}"
            raise OptionError(f"{flag(name)} is {value}; it must be {limits}")
