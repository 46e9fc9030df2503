"""A server on this machine, archives, and a data set of both."""

import contextlib
import hashlib
import io
import ssl
import struct
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pooch
import pytest

from lossaware.studies.data import download
from lossaware.studies.data.checksums import MANIFEST
from lossaware.studies.data.sets import DataSet, Remote


class Server:
    """Serves bytes by name; a list of answers is served in order, and the last one repeatedly."""

    def __init__(self):
        self.answers = {}
        self.requests = []
        self.stalled, self.release = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                outer.requests.append(name)
                answers = outer.answers.get(name, [404])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                if isinstance(answer, Raw):
                    self.wfile.write(answer)
                    self.close_connection = True
                    return
                if isinstance(answer, Endless):
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while not outer.release.is_set():
                            self.wfile.write(answer)
                    self.close_connection = True
                    return
                content, announced = answer[:2]
                self.send_response(200)
                self.send_header("Content-Length", str(announced))
                self.end_headers()
                with contextlib.suppress(OSError):  # the other side may have enough of it
                    self.wfile.write(content)
                if len(answer) > 2:
                    outer.stalled.set()
                    outer.release.wait()
                self.close_connection = True

            def log_message(self, *what):
                pass

        self.scheme, self.connections = "http", 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def url(self, name):
        return f"{self.scheme}://127.0.0.1:{self.http.server_address[1]}/{name}"

    def use_tls(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        plain = self.http.get_request

        def get_request():
            connection, address = plain()
            self.connections += 1
            with contextlib.closing(connection):  # the other side takes leave within the handshake
                return context.wrap_socket(connection, server_side=True), address

        http: Any = self.http
        http.get_request = get_request
        self.scheme = "https"

    def close(self):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Raw(bytes):
    """An answer byte for byte."""


class Endless(bytes):
    """An answer without a length and without an end."""


def whole(content):
    return (content, len(content))


def cut(content):
    return (content[: len(content) // 2], len(content))


def stalled(content):
    """Half of the file, then nothing."""
    return (*cut(content), "stalled")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


def md5(content):
    return hashlib.md5(content).hexdigest()


def packed_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def changed(content, flag=0, method=0):
    """A zip whose members claim to be encrypted, or compressed by an unknown method."""
    result = bytearray(content)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            result[at + place : at + place + 4] = struct.pack("<HH", flag, method)
    return bytes(result)


MEMBERS = {"things/a.bin": b"first" * 5000, "things/more/b.txt": b"second", "readme.txt": b"is left out"}
TAR, ZIP = packed_tar(MEMBERS), packed_zip(MEMBERS)


def archive_set(server, content=TAR, name="things.tar.gz"):
    remote = Remote(server.url(name), len(content), md5(content))
    return DataSet("Things", "things", ("a.bin", "more/*"), (remote,))


def names(folder):
    """All files below a folder but manifests, and folders that are empty."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in paths if path.name != MANIFEST)


def get(data_set, folder, **more):
    lines = []
    place = download.get(data_set, folder, report=lines.append, **more)
    assert place == folder / data_set.place
    return lines
