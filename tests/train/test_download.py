"""Downloads: continued, verified, and never taken for whole when they are not."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scotoma.defective import UserError
from scotoma.train.download import fetch

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT with ranges; ``cut`` limits how much an answer delivers, ``log`` notes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges[0] else 0
            log.append((self.path, start))
            if self.path == "/missing":
                return self.send_error(404)
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + cut[0]])

        def log_message(self, *_):
            pass

    log, cut, ranges = [], [len(CONTENT)], [True]
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.log, httpd.cut, httpd.ranges = log, cut, ranges
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
