"""Runs: one spec and one seed in, one record out; sweeps over many."""
