"""Figures and tables of post 2: what compressed messages weigh, how long they take, and what they cost in accuracy."""

from repro.report.e2 import accuracy, curves, links, messages, parameters, totals

__all__ = ["accuracy", "curves", "links", "messages", "parameters", "totals"]
