"""Whether published statements reproduce: rules, parts, evidence, verdicts."""
