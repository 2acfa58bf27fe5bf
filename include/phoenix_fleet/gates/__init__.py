"""What measures an image or an instance: one module per gate, found by its name."""
