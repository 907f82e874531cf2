"""Fetching an image: what comes back, and what a hostile server may try (a local one)."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from polite_flamingo.sources.reading import download
from polite_flamingo.sources.reading.download import Limits, fetch
from tests.support.image_site import HERE, PATIENT, Site, picture, plain, refused
from tests.support.patience import PATIENCE, wait_until


def test_an_image_arrives_unchanged_and_its_bytes_tell_the_format(site: Site) -> None:
    data = picture()
    site.pages["/a b/\u00fc.jpg"] = plain(404)
    site.pages["/a%20b/%C3%BC.jpg"] = plain(200, data, Content_Type="text/html")
    image = fetch(f" {site.url}/a b/\u00fc.jpg?x=1&y=%20#there ", [HERE], PATIENT)
    assert (image.extension, image.data) == ("png", data)
    path, headers = site.asked[0]
    assert path == "/a%20b/%C3%BC.jpg?x=1&y=%20"
    assert headers["Host"] == f"{HERE}:{site.port}" and headers["User-Agent"] == download.AGENT
    assert headers["Accept-Encoding"] == "identity" and not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_a_body_may_come_in_chunks_or_until_the_connection_ends(site: Site) -> None:
    data = picture()

    def chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in (data[:10], data[10:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    def until_the_end(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    site.pages |= {"/chunks": chunks, "/end": until_the_end}
    assert fetch(f"{site.url}/chunks", [HERE], PATIENT).data == fetch(f"{site.url}/end", [HERE], PATIENT).data == data


def test_redirects_are_checked_each_and_counted(site: Site) -> None:
    data = picture()
    site.pages |= {
        "/1": plain(301, Location="/2"), "/2": plain(302, Location="3"), "/3": plain(308, Location=f"{site.url}/a.png"),
        "/a.png": plain(200, data), "/0": plain(303, Location="/1"), "/out": plain(302, Location="http://example.org/a"),
        "/name": plain(302, Location=f"http://localhost:{site.port}/a.png"), "/file": plain(302, Location="file:///a.png"),
        "/user": plain(307, Location=f"http://u:p@{HERE}:{site.port}/a.png"), "/odd": plain(302, Location="http://["),
        "/nowhere": plain(302), "/round": plain(302, Location="/round"),
    }  # fmt: skip
    assert fetch(f"{site.url}/1", [HERE], PATIENT).data == data
    for path, part in {
        "/0": "redirected more than 3 times", "/round": "redirected more than 3 times", "/odd": "redirects to",
        "/nowhere": "redirected more than 3 times", "/out": "'example.org' is not one of the hosts",
        "/name": "'localhost' is not one of the hosts", "/file": "not an http or https", "/user": "carries credentials",
    }.items():  # fmt: skip
        bad = refused(f"{site.url}{path}", HERE)
        assert bad.reason == "missing_image" and part in bad.detail
    assert len(site.asked) == 4 + 4 * 3 + 5


def test_a_busy_or_broken_server_is_asked_again_and_one_that_says_no_is_not(site: Site) -> None:
    data, tries = picture(), iter([503, 429, 200])
    site.pages["/busy"] = lambda handler: plain(next(tries), data)(handler)
    assert fetch(f"{site.url}/busy", [HERE], PATIENT).data == data
    site.pages |= {"/down": plain(500), "/cut": plain(200, data[:9], Content_Length="99")}
    for path, asked, part in (
        ("/404", 1, "the server answers 404"),
        ("/down", 3, "in 3 attempts (the server answers 500)"),
        ("/cut", 3, "the connection ended after 9 of 99 bytes"),
    ):
        site.asked.clear()
        bad = refused(f"{site.url}{path}", HERE)
        assert (bad.reason, len(site.asked)) == ("missing_image", asked) and part in bad.detail
    site.close()
    assert "in 3 attempts" in refused(f"{site.url}/a.png", HERE).detail


def test_a_response_that_is_not_an_image_or_empty(site: Site) -> None:
    site.pages |= {
        "/page": plain(200, b"<html>gone</html>", Content_Type="image/png"),
        "/none": plain(200, Content_Type="image/png"),
    }
    page, none = (refused(f"{site.url}/{name}", HERE) for name in ("page", "none"))
    assert (page.reason, none.reason) == ("unsupported_image", "empty_image") and "an HTML page" in page.detail


def test_a_connection_that_stays_open_after_the_body_is_not_waited_for(site: Site) -> None:
    data = picture()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        plain(200, data)(handler)
        site.over.wait(2 * PATIENCE)

    site.pages["/hold"] = hold
    assert fetch(f"{site.url}/hold", [HERE], replace(PATIENT, read=PATIENCE / 2, attempts=1)).data == data


def test_a_body_without_end_is_left(site: Site) -> None:
    limits = Limits(size=100_000)
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not site.over.is_set():
            handler.wfile.write(bytes(10_000))
            sent.append(1)

    site.pages |= {"/endless": endless, "/promise": plain(200, b"", Content_Length="100001")}
    assert "more than 100000 bytes" in refused(f"{site.url}/endless", HERE, limits=limits).detail
    bad = refused(f"{site.url}/promise", HERE, limits=limits)
    assert bad.reason == "image_too_large" and "100001 bytes, at most 100000" in bad.detail
    assert len(site.asked) == 2


@pytest.mark.parametrize("part", ["status", "headers", "body", "chunks"])
def test_a_server_that_drips_is_left_when_the_time_is_up(site: Site, part: str) -> None:
    """Each byte arrives well within the limit of one read: only the limit of the whole download ends it."""
    start = {
        "status": b"", "headers": b"HTTP/1.1 200 OK\r\nX: ",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
    }[part]  # fmt: skip

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not site.over.wait(0.01):
            handler.wfile.write(b"H")

    site.pages["/drip"] = drip
    bad = refused(f"{site.url}/drip", HERE, limits=Limits(connect=30, read=30, total=0.3, attempts=3, pause=0))
    assert bad.reason == "missing_image" and "did not arrive within 0.3 s" in bad.detail
    wait_until(lambda: site.asked)  # the server may hear of it after the client has left
    assert len(site.asked) == 1


def test_a_silent_server_is_asked_again_after_the_limit_of_a_read(site: Site) -> None:
    site.pages["/silent"] = lambda handler: site.over.wait(2 * PATIENCE) and None
    bad = refused(f"{site.url}/silent", HERE, limits=replace(PATIENT, read=0.05, attempts=2))
    assert "in 2 attempts (timed out)" in bad.detail
    wait_until(lambda: len(site.asked) == 2)  # the server may hear of it after the client has left


def test_proxies_of_the_environment_are_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages["/a.png"] = plain(200, picture())
    assert fetch(f"{site.url}/a.png", [HERE], PATIENT).extension == "png"


def test_https_is_held_to_the_system_s_authorities(site: Site) -> None:
    """A server without TLS serves as well as one with a certificate of its own."""
    bad = refused(f"https://{HERE}:{site.port}/a.png", HERE)
    assert bad.reason == "missing_image" and "in 3 attempts" in bad.detail and site.asked == []
    assert download._trusted().check_hostname and download._trusted().verify_mode.name == "CERT_REQUIRED"


def test_https_reaches_a_server_that_proves_to_be_the_host(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = shutil.which("openssl") or pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    run += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(run, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    site.server.socket = server.wrap_socket(site.server.socket, server_side=True)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        plain(200, b"", Content_Length="9999")(handler)
        while not site.over.wait(0.01):
            handler.wfile.write(b"x")

    site.pages |= {"/a.png": plain(200, picture()), "/drip": drip}
    url = f"https://localhost:{site.port}"
    assert "CERTIFICATE_VERIFY_FAILED" in refused(f"{url}/a.png", "localhost").detail
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(download, "_trusted", lambda: trusting)
    assert fetch(f"{url}/a.png", ["localhost"], PATIENT).data == picture()
    assert "IP address mismatch" in refused(f"https://{HERE}:{site.port}/a.png", HERE).detail
    bad = refused(f"{url}/drip", "localhost", limits=Limits(connect=30, read=30, total=0.5, pause=0))
    assert "did not arrive within 0.5 s" in bad.detail
