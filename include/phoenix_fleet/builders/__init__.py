"""How images come to be on each platform: one module per platform, found by its name (decision 0080)."""
