"""The one exception type that reaches a user as a single line."""


class ReproError(Exception):
    """A problem the user can act on.

    ``str(error)`` is one line that says what was wrong, what was expected and what to do.
    The command line prints it and exits with code 2; everything else is a bug and shows a traceback.
    """


class Diverged(ReproError):
    """Training has diverged. A run that meets it stops and says so in its record."""


class NotFinite(Diverged):
    """Training produced NaN or infinity."""
