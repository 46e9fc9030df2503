"""Downloads from a server on this machine: whole, wrong, cut, refused, already there; archives that do harm."""

import contextlib
import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from lossaware import cli
from lossaware.errors import UsageError
from lossaware.studies.data import download
from lossaware.studies.data.checksums import MANIFEST, Manifest, record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DATA_SETS, DataSet, Remote


class Server:
    """Serves bytes by name; a list of answers is served one after the other, the last one for ever after."""

    def __init__(self):
        self.answers = {}
        self.requests = []
        self.stalled, self.go_on = threading.Event(), threading.Event()
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
                        while not outer.go_on.is_set():
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
                    outer.go_on.wait()
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

        self.http.get_request = get_request
        self.scheme = "https"

    def close(self):
        self.go_on.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Raw(bytes):
    """An answer byte for byte."""


class Endless(bytes):
    """An answer that has no length, and goes on."""


def whole(content):
    return (content, len(content))


def cut(content):
    return (content[: len(content) // 2], len(content))


def stalled(content):
    """Half of it, and then nothing."""
    return (*cut(content), "stalled")


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


def packed_tar(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def packed_zip(members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def changed(content, flag=0, method=0):
    """A zip whose members claim to be encrypted, or compressed in a way that nobody knows."""
    made = bytearray(content)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            made[at + place : at + place + 4] = struct.pack("<HH", flag, method)
    return bytes(made)


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


@pytest.mark.parametrize(("content", "name"), [(TAR, "things.tar.gz"), (ZIP, "things.zip")], ids=["tar", "zip"])
def test_an_archive_is_fetched_checked_and_unpacked(server, tmp_path, content, name):
    server.answers[name] = [whole(content)]
    lines = get(archive_set(server, content, name), tmp_path / "new")
    assert names(tmp_path / "new") == sorted([name, "things/a.bin", "things/more/b.txt"])
    assert (tmp_path / "new" / "things" / "a.bin").read_bytes() == MEMBERS["things/a.bin"]
    assert (tmp_path / "new" / name).read_bytes() == content
    assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o644
    assert lines == [f"unpacking {name}", f"{tmp_path / 'new' / 'things'} is ready"]


def test_what_is_there_is_left_and_not_asked_for(server, tmp_path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "mine.txt").write_text("mine")
    message = "exists, and nothing tells whether it is the published one; move it away to download it"
    assert get(archive_set(server), tmp_path) == [f"{tmp_path / 'things'} {message}"]
    assert names(tmp_path) == ["things/mine.txt"]
    assert server.requests == []


def test_an_archive_that_is_there_is_unpacked_without_a_download(server, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(TAR)
    get(archive_set(server), tmp_path)
    assert "things/a.bin" in names(tmp_path)
    assert server.requests == []


def test_a_foreign_archive_that_is_there_is_neither_used_nor_lost(server, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(TAR[:-10])
    server.answers["things.tar.gz"] = [whole(TAR)]
    message = rf"things\.tar\.gz exists, but is not the published file: its MD5 is {md5(TAR[:-10])}; move it away"
    with pytest.raises(UsageError, match=message):
        get(archive_set(server), tmp_path)
    assert (tmp_path / "things.tar.gz").read_bytes() == TAR[:-10]
    assert names(tmp_path) == ["things.tar.gz"]
    assert server.requests == []


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.answers["things.tar.gz"] = [whole(TAR[:-1] + b"!")]
    with pytest.raises(
        UsageError, match=r"things\.tar\.gz cannot be downloaded: .* not the published file, its MD5 diff"
    ):
        get(archive_set(server), tmp_path, attempts=2)
    assert names(tmp_path) == []
    assert len(server.requests) == 2


def test_a_cut_connection_is_started_again(server, tmp_path):
    server.answers["things.tar.gz"] = [cut(TAR), 503, whole(TAR)]
    lines = get(archive_set(server), tmp_path)
    assert lines[:2] == [
        "things.tar.gz: the connection was cut; attempt 2 of 3",
        "things.tar.gz: the server answers 503 Service Unavailable; attempt 3 of 3",
    ]
    assert (tmp_path / "things" / "a.bin").read_bytes() == MEMBERS["things/a.bin"]
    assert names(tmp_path) == ["things.tar.gz", "things/a.bin", "things/more/b.txt"]


def test_a_connection_that_is_always_cut_leaves_nothing(server, tmp_path):
    server.answers["things.tar.gz"] = [cut(TAR)]
    with pytest.raises(UsageError, match="the connection was cut; nothing of it was kept") as error:
        get(archive_set(server), tmp_path, attempts=2)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []
    assert not (tmp_path / "things").exists()


def test_a_killed_download_leaves_nothing_under_the_names_and_can_be_started_again(server, tmp_path):
    """Killed while half of the file is there: no cleaning up is possible."""
    server.answers["things.tar.gz"] = [stalled(TAR), whole(TAR)]
    code = (
        "from pathlib import Path; from lossaware.studies.data.download import *; "
        "from lossaware.studies.data.sets import *; "
        f"get({archive_set(server)!r}, Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    assert server.stalled.wait(120)
    process.kill()
    process.wait()
    assert not (tmp_path / "things.tar.gz").exists()
    assert not (tmp_path / "things").exists()
    get(archive_set(server), tmp_path)
    assert names(tmp_path) == ["things.tar.gz", "things/a.bin", "things/more/b.txt"]


def test_a_full_disk_is_told(server, tmp_path, monkeypatch):
    def full(*what, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "tmp123"))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(UsageError, match="tmp123: No space left on device"):
        get(archive_set(server), tmp_path / "new")
    assert names(tmp_path) == []
    assert not (tmp_path / "new").exists()


def test_a_file_that_the_server_has_not_is_asked_for_once(server, tmp_path):
    with pytest.raises(UsageError, match="the server answers 404 Not Found"):
        get(archive_set(server), tmp_path)
    assert server.requests == ["things.tar.gz"]


@pytest.mark.parametrize("announced", [len(TAR), 3 * len(TAR), 0])
def test_a_download_without_end_is_stopped(server, tmp_path, announced):
    """Whatever the server announces, no more is written than the published file has."""
    server.answers["things.tar.gz"] = [(TAR * 3, announced)] if announced else [Endless(TAR)]
    content = TAR[: len(TAR) // 2]
    data_set = archive_set(server, content)
    with pytest.raises(UsageError, match=f"the server sends more than the {len(content)} bytes of the published file"):
        get(data_set, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx"), "the server's answer is not valid HTTP"),
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: /things.tar.gz\r\n\r\n"), "the server redirects without end"),
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"), "redirects to an address that cannot"),
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"), "the server's answer is not valid HTTP"),
        (Raw(b"SSH-2.0-server\r\n"), "there is no connection"),
    ],
    ids=["length", "loop", "file", "brackets", "other protocol"],
)
def test_answers_that_make_no_sense_are_told(server, tmp_path, answer, message):
    server.answers["things.tar.gz"] = [answer]
    with pytest.raises(UsageError, match=message) as error:
        get(archive_set(server), tmp_path / "new", attempts=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which makes a certificate")
def test_a_tls_error_is_called_so(server, tmp_path):
    """A certificate that no authority signed."""
    certificate = tmp_path / "certificate.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout {certificate} -out {certificate}.crt"
    subprocess.run(make.split(), check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + Path(f"{certificate}.crt").read_text())
    server.use_tls(certificate)
    data_set = archive_set(server)
    with pytest.raises(UsageError, match=r"its TLS connection is not secure or not possible .*certificate verify fail"):
        get(data_set, tmp_path / "new")
    assert server.connections == 1, "a second attempt can find nothing else"
    assert not (tmp_path / "new").exists()


def test_a_server_without_tls_is_told(server, tmp_path):
    server.answers["things.tar.gz"] = [whole(TAR)]
    remote = Remote(server.url("things.tar.gz").replace("http:", "https:"), len(TAR), md5(TAR))
    with pytest.raises(UsageError, match="its TLS connection is not secure or not possible"):
        get(DataSet("Things", "things", ("a.bin",), (remote,)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_proxy_that_is_not_there_is_told(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UsageError, match="the proxy does not connect"):
        get(archive_set(server), tmp_path, attempts=1)


@pytest.mark.parametrize("mask", [0o077, 0o002])
@pytest.mark.parametrize(("content", "name"), [(TAR, "things.tar.gz"), (ZIP, "things.zip")])
def test_new_files_have_the_permissions_of_new_files(server, tmp_path, content, name, mask):
    server.answers[name] = [whole(content)]
    before = os.umask(mask)
    try:
        get(archive_set(server, content, name), tmp_path / "new")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_dir()} == {0o777 & ~mask}


def test_two_downloads_of_one_set_do_not_meet(server, tmp_path):
    server.answers["things.tar.gz"] = [stalled(TAR), whole(TAR)]
    first = threading.Thread(target=get, args=(archive_set(server), tmp_path))
    first.start()
    assert server.stalled.wait(120)
    with pytest.raises(UsageError, match="another process downloads this data set; wait for it"):
        get(archive_set(server), tmp_path)
    server.go_on.set()
    first.join()
    assert names(tmp_path) == ["things.tar.gz", "things/a.bin", "things/more/b.txt"]


def test_no_server_is_told(server, tmp_path, monkeypatch):
    data_set = archive_set(server)
    server.http.server_close()
    with pytest.raises(UsageError, match="cannot be downloaded: there is no connection to its server"):
        get(data_set, tmp_path, attempts=1)

    def unknown(*what, **more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match="cannot be downloaded: its server is not known here"):
        get(data_set, tmp_path, attempts=1)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (packed_tar({"../evil.txt": b"out", "things/a": b"a"}), "things.tar.gz", "cannot be unpacked .*outside"),
        (packed_tar({"other/a": b"a"}), "things.tar.gz", "does not hold the folder things"),
        (packed_zip({"other/a": b"a"}), "things.zip", "does not hold the folder things"),
        (TAR[: len(TAR) // 2], "things.tar.gz", "cannot be unpacked"),
        (b"no archive at all", "things.tar.gz", "cannot be unpacked"),
        (ZIP[:100], "things.zip", "cannot be unpacked"),
        (changed(ZIP, flag=1), "things.zip", r"cannot be unpacked \(File '?things/a.bin'? is encrypted"),
        (changed(ZIP, method=97), "things.zip", r"cannot be unpacked \(.*compression"),
        (TAR[:40] + bytes(len(TAR) - 40), "things.tar.gz", "cannot be unpacked"),
    ],
    # Bytes make no name for a test: those of an archive hold the time, which every worker of xdist reads for itself.
    ids=[
        "a member outside",
        "another folder",
        "another folder in a zip",
        "half a tar",
        "no archive",
        "the start of a zip",
        "encrypted",
        "unknown compression",
        "damaged in the middle",
    ],
)
def test_an_archive_that_cannot_be_unpacked_leaves_no_folder(server, tmp_path, content, name, message):
    folder = tmp_path / "below"
    server.answers[name] = [whole(content)]
    with pytest.raises(UsageError, match=message):
        get(archive_set(server, content, name), folder)
    assert names(tmp_path) == [f"below/{name}"]
    assert [path.name for path in folder.iterdir()] == [name]


def test_members_outside_of_a_zip_stay_inside(server, tmp_path):
    content = packed_zip({"../evil.txt": b"out", "/evil2.txt": b"out", **MEMBERS})
    server.answers["things.zip"] = [whole(content)]
    get(archive_set(server, content, "things.zip"), tmp_path / "below")
    assert names(tmp_path) == ["below/things.zip", "below/things/a.bin", "below/things/more/b.txt"]


def test_a_killed_extraction_leaves_no_folder(server, tmp_path, monkeypatch):
    server.answers["things.tar.gz"] = [whole(TAR)]

    def stopped(self, *what, **more):
        (tmp_path / ".things.download" / "things").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "extractall", stopped)
    with pytest.raises(KeyboardInterrupt):
        get(archive_set(server), tmp_path)
    assert names(tmp_path) == ["things.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["things.tar.gz"]


@pytest.mark.parametrize(("content", "name"), [(TAR, "things.tar.gz"), (ZIP, "things.zip")])
def test_the_files_of_an_archive_are_verified_when_they_are_read(server, tmp_path, content, name):
    server.answers[name] = [whole(content)]
    get(archive_set(server, content, name), tmp_path)
    manifest = Manifest.load(tmp_path / "things")
    assert manifest.published
    assert set(manifest.files) == {"a.bin", "more/b.txt"}
    size, sha256 = manifest.files["more/b.txt"]
    assert (size, sha256) == (6, hashlib.sha256(b"second").hexdigest())
    files = DataFiles(tmp_path / "things")
    assert files.read("a.bin") == MEMBERS["things/a.bin"]
    assert str(files.summary()).startswith("things: verified (the published files); content ")
    (tmp_path / "things" / "a.bin").write_bytes(MEMBERS["things/a.bin"][:-1] + b"!")
    with pytest.raises(UsageError, match=r"a\.bin: it differs from the published files"):
        files.read("a.bin")


def test_a_folder_without_manifest_gets_that_of_its_archive(server, tmp_path):
    server.answers["things.tar.gz"] = [whole(TAR)]
    get(archive_set(server), tmp_path)
    (tmp_path / "things" / MANIFEST).unlink()
    (tmp_path / "things" / "a.bin").write_bytes(b"mine")
    lines = get(archive_set(server), tmp_path)
    assert f"{tmp_path / 'things'} exists; it is now compared with the published files whenever it is read" in lines
    assert (tmp_path / "things" / "a.bin").read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"a\.bin: 4 bytes; 25000 are expected; cut short"):
        DataFiles(tmp_path / "things").read("a.bin")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_not_a_file_is_told_at_once(server, tmp_path, make):
    make(tmp_path / "things.tar.gz")
    with pytest.raises(
        UsageError, match=r"things\.tar\.gz: this is a (pipe|device|folder); a regular file is expected"
    ):
        get(archive_set(server), tmp_path)
    assert server.requests == []


# --- files that are no archives ---------------------------------------------------------------------------------------

CONTENTS = {"a.gz": b"alpha" * 100, "b.gz": b"beta" * 100}
ZIPPED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


@pytest.fixture
def files(server):
    for name, content in ZIPPED.items():
        server.answers[name] = [whole(content)]
    remotes = (Remote(server.url(name), len(ZIPPED[name]), md5(ZIPPED[name]), md5(CONTENTS[name])) for name in ZIPPED)
    return DataSet("Files", "deep/raw", ("*",), tuple(remotes))


def test_files_come_as_they_are(files, tmp_path):
    get(files, tmp_path)
    assert names(tmp_path) == ["deep/raw/a.gz", "deep/raw/b.gz"]
    assert (tmp_path / "deep" / "raw" / "a.gz").read_bytes() == ZIPPED["a.gz"]


def test_only_what_is_missing_is_fetched(files, server, tmp_path):
    get(files, tmp_path)
    (tmp_path / "deep" / "raw" / "b.gz").unlink()
    server.requests.clear()
    lines = get(files, tmp_path)
    assert server.requests == ["b.gz"]
    assert lines[0] == f"{tmp_path / 'deep' / 'raw' / 'a.gz'} exists; it is the published file"


def test_one_failure_keeps_the_files_that_came(files, server, tmp_path):
    server.answers["b.gz"] = [404]
    with pytest.raises(UsageError, match=r"b\.gz cannot be downloaded"):
        get(files, tmp_path)
    assert names(tmp_path) == ["deep/raw/a.gz"]


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_the_same_content_packed_anew_or_unpacked_counts(files, server, tmp_path, name):
    raw = tmp_path / "deep" / "raw"
    raw.mkdir(parents=True)
    anew = gzip.compress(CONTENTS["a.gz"], compresslevel=1, mtime=7) if name.endswith(".gz") else CONTENTS["a.gz"]
    (raw / name).write_bytes(anew)
    get(files, tmp_path)
    assert server.requests == ["b.gz"]
    assert (raw / name).read_bytes() == anew
    assert DataFiles(raw).read(name) == anew


def test_a_folder_that_cannot_be_written_is_ready_where_all_is_there(files, server, tmp_path, monkeypatch):
    get(files, tmp_path)
    (tmp_path / "deep" / "raw" / MANIFEST).unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (tmp_path / "deep" / "raw").chmod(0o555)
    try:
        assert get(files, tmp_path)[-1] == f"{tmp_path / 'deep' / 'raw'} is ready"
    finally:
        (tmp_path / "deep" / "raw").chmod(0o755)
    assert len(server.requests) == 2
    assert not (tmp_path / "deep" / "raw" / MANIFEST).exists()


@pytest.mark.parametrize(
    "content",
    [b"other", gzip.compress(b"other", mtime=0), ZIPPED["a.gz"][:-9], b""],
    ids=["not compressed", "compressed", "cut short", "empty"],
)
def test_other_content_is_told_and_kept(files, server, tmp_path, content):
    raw = tmp_path / "deep" / "raw"
    raw.mkdir(parents=True)
    (raw / "a.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.gz exists, but is not the published file"):
        get(files, tmp_path)
    assert (raw / "a.gz").read_bytes() == content
    assert server.requests == []


# --- the command ----------------------------------------------------------------------------------------------------


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_the_command_downloads_and_says_so(server, tmp_path, monkeypatch, capsys):
    server.answers["things.tar.gz"] = [whole(TAR)]
    monkeypatch.setitem(DATA_SETS, "things", archive_set(server))
    code, _, said = command(capsys, "get", "things", "--data", tmp_path)
    assert code == 0
    assert said.splitlines() == ["unpacking things.tar.gz", f"{tmp_path / 'things'} is ready"]
    assert (tmp_path / "things" / "a.bin").is_file()


def test_the_command_shows_a_bar_on_a_terminal(server, tmp_path, monkeypatch):
    from rich.console import Console

    from lossaware.cli import data as data_cli

    server.answers["things.tar.gz"] = [cut(TAR), whole(TAR)]
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with data_cli._bars(console) as bar:
        get(archive_set(server), tmp_path, bar=bar)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "things.tar.gz" in shown
    assert f"{len(TAR)}/{len(TAR)} bytes" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "cifar", "--data", "d"), "unknown data set 'cifar'; did you mean cifar10"),
        (("get", "tacos", "--data", "d"), "tacos cannot be downloaded: train.json"),
        (("get", "segmentation", "--data", "d"), "segmentation cannot be downloaded: .*bag_data"),
        (("stand-in", "tacos", "--data", "no-such-folder"), "there is no folder no-such-folder/tacos"),
        (("stand-in", "tacos", "--data", "d", "--seed", "-1"), "--seed must be at least 0, got -1"),
        (("record", "imagenet", "--data", "d"), "unknown data set 'imagenet'; did you mean tinyimagenet"),
        (("record", "cifar10", "--data", "d"), "there is no folder d/cifar-10-batches-bin"),
        (("get", "mnist"), "--data"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, said = command(capsys, *arguments)
    assert code == 2
    assert re.search(message, said)
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_list_says_what_is_there(capsys, tmp_path):
    (tmp_path / "cifar-100-binary").mkdir()
    code, out, _ = command(capsys, "list", "--data", tmp_path)
    assert code == 0
    there = {line.split()[0]: line.split()[1] for line in out.splitlines()[:6]}
    expected = dict.fromkeys(DATA_SETS, "missing")
    assert there == {**expected, "cifar100": "there"}


def test_the_command_records_what_is_there(capsys, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"mine")
    code, out, _ = command(capsys, "record", "mnist", "--data", tmp_path)
    assert (code, out) == (0, f"{raw / MANIFEST} is written\n")
    assert DataFiles(raw, "MNIST/raw").read("train-labels-idx1-ubyte") == b"mine"


def test_stand_ins_by_the_command(capsys, tmp_path):
    (tmp_path / "tacos").mkdir()
    for part in ("train", "val", "test"):
        (tmp_path / "tacos" / f"{part}.json").write_text(
            f'{{"{part}.avi": {{"timestamps": [[0, 9]], "sentences": ["x"], "fps": 29.4, "num_frames": 100}}}}'
        )
    record_files(DATA_SETS["tacos"], tmp_path)
    code, _, said = command(capsys, "stand-in", "tacos", "--data", tmp_path)
    assert (code, said.split()[:2]) == (0, ["3", "videos"])
    assert len(list((tmp_path / "tacos" / "stand-in-features").glob("*.npy"))) == 3


def test_the_real_mnist_is_known(data_folder):
    """Three of the four files are byte for byte the published ones, the fourth has the published content."""
    raw = data_folder / "MNIST" / "raw"
    packed = [md5((raw / remote.name).read_bytes()) == remote.md5 for remote in DATA_SETS["mnist"].files]
    assert packed.count(True) >= 3
    assert get(DATA_SETS["mnist"], data_folder)[-1] == f"{raw} is ready"
