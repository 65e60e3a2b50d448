"""The bare relay once more, over the libraries that we could have used. Started by ``benchmarks.proxy``."""
