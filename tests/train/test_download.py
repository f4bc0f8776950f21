"""Downloads: continued, verified, and never taken for whole when they are not."""

import hashlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scotoma.defective import UserError
from scotoma.train import datasets as download
from scotoma.train.datasets import alone, fetch

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT with ranges; ``cut`` limits how much an answer delivers, ``log`` notes it.

    ``pause`` is the time in seconds that an answer takes. Some paths are answered in other ways.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges[0] else 0
            log.append((self.path, start))
            if self.path == "/missing":
                return self.send_error(404)
            if self.path == "/chunks":  # ends before its chunk does
                self.send_response(206 if start else 200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                rest = CONTENT[start : start + 50_000]
                return self.wfile.write(b"%x\r\n%b\r\nffff\r\nand" % (len(rest), rest))
            if self.path == "/noise":
                return self.wfile.write(b"What?\r\n\r\n")
            if self.path == "/silence":
                return None
            if self.path == "/reset":  # in the middle of the file
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(CONTENT) - start))
                self.end_headers()
                self.wfile.write(CONTENT[start : start + 50_000])
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return self.connection.close()
            if self.path == "/login":
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                return self.wfile.write(b"<html>Please log in</html>")
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            half = start + (len(CONTENT) - start) // 2
            self.wfile.write(CONTENT[start : min(half, start + cut[0])])
            time.sleep(pause[0])
            self.wfile.write(CONTENT[half : start + cut[0]])

        def log_message(self, *_):
            pass

    log, cut, ranges, pause = [], [len(CONTENT)], [True], [0]
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.log, httpd.cut, httpd.ranges, httpd.pause = log, cut, ranges, pause
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def get(server, path, *, urls=("/file",), md5=MD5):
    fetch([server.url + url for url in urls], path, md5, progress=False)


def test_a_file_arrives_whole(server, tmp_path):
    get(server, tmp_path / "new" / "data.bin")
    assert (tmp_path / "new" / "data.bin").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(server, tmp_path, ranges):
    """Also from a server that ignores ranges and sends all of it again."""
    server.cut[0], server.ranges[0] = 100_000, ranges
    with pytest.raises(UserError, match=r"connection ended|IncompleteRead"):
        get(server, tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()
    server.cut[0] = len(CONTENT)
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.log[-1] == ("/file", 100_000 if ranges else 0)


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    with pytest.raises(UserError, match=f"MD5 {MD5}, expected {'0' * 32}"):
        get(server, tmp_path / "data.bin", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/chunks", r"the connection broke off, or is no HTTP \(IncompleteRead\)"),
        ("/noise", r"is no HTTP \(BadStatusLine\)"),
        ("/silence", "closed connection without response"),
        ("/reset", "(?i)reset|connection ended"),
        ("/login", "answered by a web page"),
        ("/slow", "timed out"),
    ],
)
def test_a_failing_server_is_told_and_what_is_here_is_kept(
    server, tmp_path, monkeypatch, path, words
):
    monkeypatch.setattr(download, "SECONDS", 0.2)
    server.pause[0] = 1 if path == "/slow" else 0
    part = tmp_path / "data.bin.part"
    part.write_bytes(CONTENT[:100_000])
    with pytest.raises(UserError, match=words) as refused:
        get(server, tmp_path / "data.bin", urls=(path,))
    assert "run the command again to continue" in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == [part.name]
    assert part.stat().st_size >= 100_000 and CONTENT.startswith(part.read_bytes())
    server.pause[0] = 0
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.log[-1][1] >= 100_000


def test_the_next_address_is_tried(server, tmp_path):
    get(server, tmp_path / "data.bin", urls=("/missing", "/file"))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_and_right_is_not_fetched(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT)
    get(server, tmp_path / "data.bin")
    assert server.log == []


def test_without_a_network_the_error_says_where_to_put_the_file(tmp_path):
    with pytest.raises(UserError) as refused:
        fetch(["http://127.0.0.1:9/data.bin"], tmp_path / "data.bin", MD5, progress=False)
    assert str(tmp_path / "data.bin") in str(refused.value)
    assert MD5 in str(refused.value)


def test_of_several_that_want_a_file_one_fetches_it(server, tmp_path):
    """Without a lock the second continued what the first was still writing."""
    server.pause[0] = 0.3

    def wants(delay):
        time.sleep(delay)
        get(server, tmp_path / "data.bin")

    with ThreadPoolExecutor() as pool:
        list(pool.map(wants, (0, 0.1, 0.2)))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.log == [("/file", 0)]
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_failure_lets_the_next_one_try(server, tmp_path):
    server.pause[0] = 0.2
    with ThreadPoolExecutor() as pool:
        wrong = pool.submit(get, server, tmp_path / "data.bin", md5="0" * 32)
        time.sleep(0.1)
        right = pool.submit(get, server, tmp_path / "data.bin")
        right.result()
        with pytest.raises(UserError, match="expected 0000"):
            wrong.result()
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_never_two_at_once(tmp_path):
    """Also while the lock's file is removed and made again all the time."""
    inside, most = [], []

    def work(number):
        for _ in range(40):
            with alone(tmp_path / "new" / "data"):
                inside.append(number)
                time.sleep(0.0002)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert most == [1] * 240
    assert list((tmp_path / "new").iterdir()) == []


def test_without_locks_there_is_nobody_else(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(download.fcntl, "flock", refuse)
    with alone(tmp_path / "data"):
        pass


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="file: cannot be written to"):
        fetch(["http://127.0.0.1:9/data.bin"], tmp_path / "file" / "data.bin", MD5, progress=False)
