"""Figures and tables of post 1: large batch against federated averaging."""

from repro.report.e1 import curves, learning_rates, shards, tables

__all__ = ["curves", "learning_rates", "shards", "tables"]
