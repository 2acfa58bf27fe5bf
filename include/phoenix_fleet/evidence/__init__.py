"""What proves to an outsider that a refresh happened as it should: reports today, signed bundles to come."""
