"""Platforms that roll their own workloads: one module per kind, found by its name."""
