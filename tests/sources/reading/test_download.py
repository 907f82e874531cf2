"""Fetching an image: what is refused before anything connects, and what a hostile server may try (a local one)."""

from __future__ import annotations

import io
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading import download
from polite_flamingo.sources.reading.download import Limits, fetch
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.records.source import Context, SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.patience import PATIENCE, wait_until

PATIENT = Limits(connect=PATIENCE, read=PATIENCE, total=2 * PATIENCE, pause=0.0)
HERE = "127.0.0.1"
Answer = Callable[[BaseHTTPRequestHandler], None]


def picture() -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 6), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Site:
    """A server on 127.0.0.1 whose pages are functions of the handler; remembers what was asked."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, host: str = HERE) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                site.pages.get(self.path.partition("?")[0], plain(404))(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = family

            def handle_error(self, *arguments: Any) -> None:
                pass  # clients that hang up are what is tested

        self.server = Server((host, 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def plain(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def refused(url: object, *hosts: str, limits: Limits = PATIENT) -> BadSample:
    with pytest.raises(BadSample) as caught:
        fetch(url, hosts, limits)
    return caught.value


def test_an_image_comes_as_it_is_and_is_told_by_its_bytes(site: Site) -> None:
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


@pytest.mark.parametrize(
    "url",
    [
        "http://{here}/", "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST.:{port}/",
        "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://0177.0.0.1:{port}/", "http://127.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/", "http://[::1]:{port}/", "http://example.org@127.0.0.1:{port}/",
        "http://example.org:80@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@example.org/",
        "http://example.org.evil.test/", "http://evil-example.org/", "http://example.org/",
        "http://images.example.org:x/", "http://.example.org/", "http://example.org../",
        "http://user:secret@images.example.org/", "https://images.example.org:99999/", "file:///etc/passwd",
        "ftp://images.example.org/a.png", "gopher://images.example.org/", "//images.example.org/a.png", "/etc/passwd",
        "http://", "http:///a.png", "", "http://[", "http://[::1", "data:image/png;base64,AAAA",
        "HTTP:images.example.org",
        "http://images.example.org\u3002evil.test/", "http://evil.test\0.example.org/", "http://a b.example.org/",
        "http://evil.test%00.example.org\\/",
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_never_connected_to(site: Site, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the resolver"))
    bad = refused(url.replace("{port}", str(site.port)).replace("{here}", HERE), "*.example.org", "*.", "*", "")
    assert bad.reason == "missing_image" and "secret" not in bad.detail.replace(url, "") and site.asked == []


@pytest.mark.parametrize("label", ["", "x" * 64])
def test_a_name_on_the_list_that_no_resolver_takes_is_refused(label: str) -> None:
    bad = refused(f"http://a.{label}.example.org/", "*.example.org")
    assert bad.reason == "missing_image" and "is not a host name" in bad.detail


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_a_public_address_may_be_carried_by_another(address: str) -> None:
    assert download._public(ipaddress.ip_address(address))


@pytest.mark.parametrize("url", [None, 7, ["http://a/"], {"url": "x"}, "http://\ud800/"])
def test_what_is_no_text_is_a_bad_field(url: object) -> None:
    assert refused(url, HERE).reason == "bad_field"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::1", "::",
        "::ffff:10.0.0.1", "::ffff:127.0.0.1", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1",
        "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_a_name_on_the_list_that_leads_inside_the_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Also where that address is on the list for its own sake, and where another address of the name is public."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    for addresses in ([address], ["93.184.216.34", address]):
        answers = [(0, socket.SOCK_STREAM, 6, "", (found, 80)) for found in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answers=answers, **__: answers)
        bad = refused("http://images.example.org/a.png", "images.example.org", address, "localhost")
        assert bad.reason == "missing_image" and f"is at {address}, which is not a public address" in bad.detail


def test_the_connection_goes_to_the_address_that_was_checked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else a moment later (DNS rebinding) is asked for once only."""
    site.pages["/a.png"] = plain(200, picture())
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "1.1.1.1")]

    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        if address[0] == "8.8.8.8":
            raise ConnectionRefusedError("refused")
        made = socket.socket()
        made.connect((HERE, site.port))
        return made

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert fetch("http://Images.EXAMPLE.org./a.png", ["*.example.ORG."], PATIENT).data == picture()
    assert asked == ["images.example.org"] and connected == [("8.8.8.8", 80), ("1.1.1.1", 80)]
    assert site.asked[0][1]["Host"] == "images.example.org"


@pytest.mark.parametrize("name", ["localhost", "LocalHost."])
def test_localhost_is_reached_where_it_is_named(site: Site, name: str) -> None:
    site.pages["/a.png"] = plain(200, picture())
    assert fetch(f"http://{name}:{site.port}/a.png", ["localhost"], PATIENT).extension == "png"
    assert "not a public address" in refused(f"http://2130706433:{site.port}/a.png", "2130706433", HERE).detail
    assert refused(f"http://{HERE}:{site.port}/a.png", "localhost", "*.0.0.1").reason == "missing_image"


def test_an_ipv6_address_is_reached_where_it_is_named() -> None:
    try:
        site = Site(socket.AF_INET6, "::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    site.pages["/a.png"] = plain(200, picture())
    for entry in ("::1", "[::1]"):
        assert fetch(f"{site.url}/a.png", [entry], PATIENT).extension == "png"
    assert site.asked[0][1]["Host"] == f"[::1]:{site.port}"
    site.close()


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


def test_what_comes_is_no_image_or_none_at_all(site: Site) -> None:
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
def test_a_server_that_drips_is_left_when_the_time_is_over(site: Site, part: str) -> None:
    """Each byte comes well within the limit of one read: only the limit of the whole ends it."""
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
    """A server that speaks no TLS is as good as one that speaks it with a certificate of its own."""
    bad = refused(f"https://{HERE}:{site.port}/a.png", HERE)
    assert bad.reason == "missing_image" and "in 3 attempts" in bad.detail and site.asked == []
    assert download._trusted().check_hostname and download._trusted().verify_mode.name == "CERT_REQUIRED"


def test_https_reaches_who_can_prove_to_be_the_host(
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


def test_a_context_fetches_only_where_hosts_are_named_and_no_file_is_there(site: Site, tmp_path: Path) -> None:
    site.pages["/a.png"] = plain(200, picture())
    url = f"{site.url}/a.png"
    never = Context(SourceOptions(annotations=()), ImageFolder(tmp_path))
    with pytest.raises(BadSample, match="name its host with --download"):
        never.download(url)
    with pytest.raises(BadSample, match="is in the image folder"):
        never.local_or_downloaded(url, "b.png")
    for folder in (None, tmp_path):
        asked = Context(SourceOptions(annotations=(), download_from=(HERE,)), ImageFolder(folder))
        assert asked.local_or_downloaded(url, "b.png").data == picture()
    with pytest.raises(BadSample) as caught:
        asked.local_or_downloaded(url, "../b.png")
    assert caught.value.reason == "unsafe_name"
    (tmp_path / "b.png").write_bytes(picture() + b"local")
    assert asked.local_or_downloaded(url, "b.png").data == picture() + b"local"
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "https://example.org", "example.org/", "example.org:80", "[", "a b", "::x"]
)
def test_an_entry_that_no_host_could_match_is_a_clear_error(entry: str, tmp_path: Path) -> None:
    options = SourceOptions(annotations=(), images=tmp_path, download_from=("*.example.org", entry))
    with pytest.raises(SourceError, match="is not a host to download from: name a host or its address"):
        SOURCES["cc3m"].context(options)


@pytest.mark.parametrize(
    "entry", ["localhost", HERE, "::1", "[::1]", "*.Example.org.", "b\u00fccher.example", "a_b.example"]
)
def test_hosts_and_addresses_are_entries(entry: str, tmp_path: Path) -> None:
    SOURCES["cc3m"].context(SourceOptions(annotations=(), images=tmp_path, download_from=(entry,)))


@given(url=st.text(max_size=30) | st.text("htps:/@[]%.#?\\0x1é。", max_size=25).map("http://".__add__))
def test_no_text_raises_anything_else(url: str) -> None:
    with pytest.raises(BadSample):
        fetch(url, ["nowhere.invalid"], PATIENT)
