"""Figures and tables of post 3: normalisation on label-skewed data, in large batches and in federated averaging."""

from repro.report.e3 import curves, devices, layers, runs, shards, tables, training

__all__ = ["curves", "devices", "layers", "runs", "shards", "tables", "training"]
