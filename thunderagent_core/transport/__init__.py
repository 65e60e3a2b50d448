"""HTTP/1.1 on the request path: a server and a client over httptools and asyncio.

Owned rather than taken from a library because the proxy's own speed is a promise; docs/performance.md has the
measurements behind that.
"""
