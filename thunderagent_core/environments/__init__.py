"""Tool environments: sandboxes that belong to programs, prepared ahead and reclaimed for certain."""
