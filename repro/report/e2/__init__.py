"""Figures and tables of post 2: what compressed messages weigh, how long they take, and what they cost in accuracy."""

from repro.report.e2 import curves, links, messages, parameters, runs, shards, totals

__all__ = ["curves", "links", "messages", "parameters", "runs", "shards", "totals"]
