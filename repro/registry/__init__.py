"""What is declared in YAML, read into objects: experiments, statements, the study, and the records they have."""
