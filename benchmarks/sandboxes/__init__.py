"""Parts of ``benchmarks.environments``: programs with tool environments, and witnesses of what is left of them."""
