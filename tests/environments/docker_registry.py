"""A registry with one image, on this machine, which Docker's daemon trusts without encryption."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@contextmanager
def registry(root_file_system: bytes, repository: str = "some/image", tag: str = "1") -> Iterator[str]:
    """Yield the reference of an image that can be pulled; every other one is unknown there."""
    pages = _pages(root_file_system, repository, tag)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("", b""))
            status = 200 if kind else 404
            if not kind:
                kind, body = (
                    "application/json",
                    json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode(),
                )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}/{repository}:{tag}"
        finally:
            server.shutdown()
            thread.join()


def _pages(root_file_system: bytes, repository: str, tag: str) -> dict[str, tuple[str, bytes]]:
    layer = gzip.compress(root_file_system, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["FROM_REGISTRY=yes"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(root_file_system)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)}],
        }
    ).encode()
    base = f"/v2/{repository}"
    return {
        "/v2/": ("application/json", b"{}"),
        f"{base}/manifests/{tag}": (_MANIFEST, manifest),
        f"{base}/manifests/{_digest(manifest)}": (_MANIFEST, manifest),
        f"{base}/blobs/{_digest(config)}": ("application/octet-stream", config),
        f"{base}/blobs/{_digest(layer)}": ("application/octet-stream", layer),
    }


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
