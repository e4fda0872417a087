"""Records, and every number that is read off them; nothing here imports torch."""
