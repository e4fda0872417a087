"""Large-batch and federated training at the edge: regenerates the tables and figures of four sources."""

__version__ = "0.1.0"
