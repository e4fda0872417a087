"""What the commands of ``python -m repro`` do: a module for each, whose ``run`` returns the exit code."""
