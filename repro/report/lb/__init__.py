"""Figures and tables of the paper: performance models, batch size, step-up of gradients, and controls beside them."""

from repro.report.lb import (
    accuracy,
    batch_size,
    gates,
    gradients,
    measured,
    memory,
    remedies,
    runs,
    shards,
    shares,
    step_up,
    taught,
    teacher,
    times,
)

__all__ = [
    "accuracy",
    "batch_size",
    "gates",
    "gradients",
    "measured",
    "memory",
    "remedies",
    "runs",
    "shards",
    "shares",
    "step_up",
    "taught",
    "teacher",
    "times",
]
