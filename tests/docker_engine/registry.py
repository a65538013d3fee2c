"""A registry that holds images of one small file each: the part of the distribution specification that a pull needs.

(OCI distribution-spec 1.1, "Pull"; OCI image-spec 1.1, manifest and config; docker's image manifest version 2, schema 2.)
An engine takes a registry on 127.0.0.1 without TLS.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DOCKER = ("vnd.docker.distribution.manifest.v2", "vnd.docker.container.image.v1", "vnd.docker.image.rootfs.diff.tar")
OCI = ("vnd.oci.image.manifest.v1", "vnd.oci.image.config.v1", "vnd.oci.image.layer.v1.tar")
LAYER_BYTES = 1 << 20  # enough for the engine to report on it


class Registry:
    """`manifests` by tag and digest, `blobs` by digest; `fetched` kinds and `sent` bytes; `denied` answers every request with 401."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.sent: list[int] = []
        self.denied = False

    def add(self, tag: str, architecture: str, kinds: tuple[str, str, str] = DOCKER) -> str:
        """An image `FROM scratch` with one file; its reference. `kinds` are the media types of its parts."""
        manifest_type, config_type, layer_type = f"{kinds[0]}+json", f"{kinds[1]}+json", kinds[2]
        archive = io.BytesIO()
        with tarfile.open(mode="w", fileobj=archive) as layer:
            entry = tarfile.TarInfo("file")
            entry.size = LAYER_BYTES
            layer.addfile(entry, io.BytesIO(os.urandom(LAYER_BYTES)))
        layer_digest = self._keep(archive.getvalue())
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/file"]},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
        content = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"application/{manifest_type}",
            "config": _described(f"application/{config_type}", content),
            "layers": [_described(f"application/{layer_type}", archive.getvalue())],
        }
        self._keep(content)
        whole = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[digest(whole)] = whole
        return f"{self.host}/tiny:{tag}"

    def _keep(self, blob: bytes) -> str:
        self.blobs[digest(blob)] = blob
        return digest(blob)

    def answer(self, path: str) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers for a GET."""
        if self.denied:
            return 401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}', {}
        if path == "/v2/":
            return 200, b"{}", {}
        kind, _, name = path.removeprefix("/v2/tiny/").partition("/")
        held = {"manifests": self.manifests, "blobs": self.blobs}.get(kind, {}).get(name)
        if held is None:
            return 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}', {}
        self.fetched.append(kind)
        self.sent.append(len(held))
        media_type = json.loads(held)["mediaType"] if kind == "manifests" else "application/octet-stream"
        return 200, held, {"Content-Type": media_type, "Docker-Content-Digest": digest(held)}


def digest(content: bytes) -> str:
    """As the registry names it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _described(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(content), "digest": digest(content)}


@contextlib.contextmanager
def serving() -> Iterator[Registry]:
    """A registry on a port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body, headers = registry.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = Registry(f"127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield registry
        server.shutdown()
