"""Where instances run: one module per platform, found by its name."""
