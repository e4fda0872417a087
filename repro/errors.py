"""The one exception type that reaches a user as a single line."""

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """A problem the user can act on.

    ``str(error)`` is one line that says what was wrong, what was expected and what to do.
    The command line prints it and exits with code 2; everything else is a bug and shows a traceback.
    """


class Diverged(ReproError):
    """Training has diverged. A run that meets it stops and says so in its record."""


class NotFinite(Diverged):
    """Training produced NaN or infinity."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The ids nearest to one that does not exist, as the middle of a message; empty where none is near.

    >>> did_you_mean("lb.fig77", ["lb.fig7", "e1.table1"]), did_you_mean("zzz", ["lb.fig7"])
    ('did you mean lb.fig7? ', '')
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {', '.join(near)}? " if near else ""
