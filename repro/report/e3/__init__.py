"""Figures and tables of post 3: normalisation on label-skewed data, in large batches and in federated averaging."""

from repro.report.e3 import collapse, curves, devices, divergence, layers, tables, training

__all__ = ["collapse", "curves", "devices", "divergence", "layers", "tables", "training"]
