"""What sends traffic to instances: one module per balancer, found by its name."""
