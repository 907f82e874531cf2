"""Which hosts and addresses images may be fetched from: all else is refused before anything connects."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading import download
from polite_flamingo.sources.reading.download import fetch
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.records.source import Context, SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.image_site import HERE, PATIENT, Site, picture, plain, refused


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
def test_a_host_that_is_not_listed_is_never_connected_to(site: Site, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the resolver"))
    bad = refused(url.replace("{port}", str(site.port)).replace("{here}", HERE), "*.example.org", "*.", "*", "")
    assert bad.reason == "missing_image" and "secret" not in bad.detail.replace(url, "") and site.asked == []


@pytest.mark.parametrize("label", ["", "x" * 64])
def test_a_listed_name_that_no_resolver_accepts_is_refused(label: str) -> None:
    bad = refused(f"http://a.{label}.example.org/", "*.example.org")
    assert bad.reason == "missing_image" and "is not a host name" in bad.detail


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_a_public_address_may_be_carried_by_another(address: str) -> None:
    assert download._public(ipaddress.ip_address(address))


@pytest.mark.parametrize("url", [None, 7, ["http://a/"], {"url": "x"}, "http://\ud800/"])
def test_a_url_that_is_not_a_string_is_a_bad_field(url: object) -> None:
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
def test_a_listed_name_that_resolves_inside_the_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Also if that address is on the list itself, and if another address of the name is public."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    for addresses in ([address], ["93.184.216.34", address]):
        answers = [(0, socket.SOCK_STREAM, 6, "", (found, 80)) for found in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answers=answers, **__: answers)
        bad = refused("http://images.example.org/a.png", "images.example.org", address, "localhost")
        assert bad.reason == "missing_image" and f"is at {address}, which is not a public address" in bad.detail


def test_the_connection_goes_to_the_address_that_was_checked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else a moment later (DNS rebinding) is looked up only once."""
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
def test_no_string_raises_anything_else(url: str) -> None:
    with pytest.raises(BadSample):
        fetch(url, ["nowhere.invalid"], PATIENT)
