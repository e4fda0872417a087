"""What the commands of ``python -m repro`` do."""
