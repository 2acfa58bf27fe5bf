"""Disks read as bytes, never mounted: what a guest has written there is hostile, and a kernel would trust it."""
