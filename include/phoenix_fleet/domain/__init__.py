"""What the product means, without I/O: models, ladder, verdicts, waves, windows and the planner."""
