"""What makes a fresh instance one of the fleet: one module per tool, found by its name."""
