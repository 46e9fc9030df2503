"""Downloads from a server on this machine: whole, wrong, cut, refused, already there."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pooch
import pytest

from lossaware.errors import UsageError
from lossaware.studies.data.sets import DATA_SETS, DataSet, Remote
from support.download import MEMBERS, TAR, ZIP, Endless, Raw, archive_set, cut, get, md5, names, stalled, whole


@pytest.mark.parametrize(("content", "name"), [(TAR, "things.tar.gz"), (ZIP, "things.zip")], ids=["tar", "zip"])
def test_an_archive_is_fetched_checked_and_unpacked(server, tmp_path, content, name):
    server.answers[name] = [whole(content)]
    lines = get(archive_set(server, content, name), tmp_path / "new")
    assert names(tmp_path / "new") == sorted([name, "things/a.bin", "things/more/b.txt"])
    assert (tmp_path / "new" / "things" / "a.bin").read_bytes() == MEMBERS["things/a.bin"]
    assert (tmp_path / "new" / name).read_bytes() == content
    assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o644
    assert lines == [f"unpacking {name}", f"{tmp_path / 'new' / 'things'} is ready"]


def test_existing_files_are_not_requested(server, tmp_path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "mine.txt").write_text("mine")
    message = "exists, but it is not known whether it is the published one; move it away to download it"
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
        UsageError, match=r"things\.tar\.gz cannot be downloaded: .* not the published one: its MD5 diff"
    ):
        get(archive_set(server), tmp_path, attempts=2)
    assert names(tmp_path) == []
    assert len(server.requests) == 2


def test_a_cut_connection_is_started_again(server, tmp_path):
    server.answers["things.tar.gz"] = [cut(TAR), 503, whole(TAR)]
    lines = get(archive_set(server), tmp_path)
    assert lines[:2] == [
        "things.tar.gz: the connection was interrupted; attempt 2 of 3",
        "things.tar.gz: the server responded with 503 Service Unavailable; attempt 3 of 3",
    ]
    assert (tmp_path / "things" / "a.bin").read_bytes() == MEMBERS["things/a.bin"]
    assert names(tmp_path) == ["things.tar.gz", "things/a.bin", "things/more/b.txt"]


def test_a_connection_that_is_always_cut_leaves_nothing(server, tmp_path):
    server.answers["things.tar.gz"] = [cut(TAR)]
    with pytest.raises(UsageError, match="the connection was interrupted; nothing of it was kept") as error:
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


def test_a_foreign_folder_is_not_emptied(server, tmp_path):
    work = tmp_path / ".things.download"
    (work / "thesis").mkdir(parents=True)
    (work / "thesis" / "text").write_text("mine")
    with pytest.raises(UsageError, match=r"things\.download exists, but is not of a download by lossaware: move it"):
        get(archive_set(server), tmp_path)
    assert (work / "thesis" / "text").read_text() == "mine"


def test_a_full_disk_is_reported(server, tmp_path, monkeypatch):
    def full(*what, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "tmp123"))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(UsageError, match="tmp123: No space left on device"):
        get(archive_set(server), tmp_path / "new")
    assert names(tmp_path) == []
    assert not (tmp_path / "new").exists()


def test_a_file_missing_on_the_server_is_requested_once(server, tmp_path):
    with pytest.raises(UsageError, match="the server responded with 404 Not Found"):
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
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: /things.tar.gz\r\n\r\n"), "the server redirects in a loop"),
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"), "redirects to an address that cannot"),
        (Raw(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"), "the server's answer is not valid HTTP"),
        (Raw(b"SSH-2.0-server\r\n"), "cannot connect to the server"),
    ],
    ids=["length", "loop", "file", "brackets", "other protocol"],
)
def test_invalid_answers_are_errors(server, tmp_path, answer, message):
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


def test_a_server_without_tls_is_an_error(server, tmp_path):
    server.answers["things.tar.gz"] = [whole(TAR)]
    remote = Remote(server.url("things.tar.gz").replace("http:", "https:"), len(TAR), md5(TAR))
    with pytest.raises(UsageError, match="its TLS connection is not secure or not possible"):
        get(DataSet("Things", "things", ("a.bin",), (remote,)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_proxy_is_an_error(server, tmp_path, monkeypatch):
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
    with pytest.raises(UsageError, match="another process is downloading this data set; wait for it to finish"):
        get(archive_set(server), tmp_path)
    server.release.set()
    first.join()
    assert names(tmp_path) == ["things.tar.gz", "things/a.bin", "things/more/b.txt"]


def test_a_missing_server_is_an_error(server, tmp_path, monkeypatch):
    data_set = archive_set(server)
    server.http.server_close()
    with pytest.raises(UsageError, match="cannot be downloaded: cannot connect to the server"):
        get(data_set, tmp_path, attempts=1)

    def unknown(*what, **more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match="cannot be downloaded: the host name cannot be resolved"):
        get(data_set, tmp_path, attempts=1)
    assert names(tmp_path) == []


def test_the_real_mnist_is_known(data_folder):
    """Three of the four files are byte for byte the published ones, the fourth has the published content."""
    raw = data_folder / "MNIST" / "raw"
    packed = [md5((raw / remote.name).read_bytes()) == remote.md5 for remote in DATA_SETS["mnist"].files]
    assert packed.count(True) >= 3
    assert get(DATA_SETS["mnist"], data_folder)[-1] == f"{raw} is ready"
