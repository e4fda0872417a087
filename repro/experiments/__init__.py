"""One experiment: its settings, schedules, and versions of the numerics."""
