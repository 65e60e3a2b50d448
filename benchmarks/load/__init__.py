"""A stub engine, a load generator and the proxies that are measured between them."""
