"""Records, and every number that is read off them; nothing here imports torch."""

from repro.results.table import frame

__all__ = ["frame"]
