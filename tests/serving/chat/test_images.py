"""URLs of images, as hostile as they come: bytes that may be decoded, or one line and the field at fault."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image as Pillow

from polite_flamingo.sources.reading.errors import SourceError
from serving.chat import images
from serving.chat.images import ImageLoader, ImageReference
from serving.config import LimitsConfig, RemoteImagesConfig
from serving.errors import ApiError
from tests.support.chat_service import data_url, picture
from tests.support.patience import PATIENCE


def load(*urls: str, remote: RemoteImagesConfig | None = None, **limits: Any) -> list[bytes]:
    shown = [ImageReference(url=url, param=f"messages.0.content.{number}.image_url") for number, url in enumerate(urls)]
    return asyncio.run(ImageLoader(LimitsConfig(**limits), remote or RemoteImagesConfig()).load(shown))


def refused(*urls: str, remote: RemoteImagesConfig | None = None, **limits: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        load(*urls, remote=remote, **limits)
    assert caught.value.param and caught.value.param in caught.value.message
    assert caught.value.status == 400 and len(caught.value.message) < 400
    return caught.value


def noise(size: int) -> bytes:
    """Return a picture that no format compresses well."""
    import io

    buffer = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_comes_bit_exact_in_order_and_whatever_its_kind_is_said_to_be() -> None:
    first, second, large = picture(1), picture(2), noise(400)
    assert len(large) > images._BLOCK, "more than one piece of base64"
    urls = [data_url(first), data_url(large), data_url(second, "jpeg"), data_url(first), data_url(second).upper()[:22]]
    urls[4] += data_url(second)[22:]
    assert load(*urls) == [first, large, second, first, second]
    assert load() == []


def test_what_is_too_large_is_refused_by_its_length_before_it_is_decoded() -> None:
    assert refused("data:image/png;base64," + "!" * 1000, image_bytes=700).code == "image_too_large"
    data = picture(3)
    assert load(data_url(data), image_bytes=len(data)) == [data]
    error = refused(data_url(picture(2)), data_url(data + b"\0"), image_bytes=len(data))
    assert error.code == "image_too_large" and str(len(data)) in error.message and ".1." in str(error.param)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises that many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    body = b"".join(struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_bomb_is_refused_by_its_header() -> None:
    assert refused(data_url(bomb(60_000, 60_000))).code == "image_too_large"
    assert refused(data_url(bomb(20_000, 20_000))).code == "image_too_large"
    assert "256 pixels" not in refused(data_url(picture(1)), image_pixels=255).message
    assert "may have 255" in refused(data_url(picture(1)), image_pixels=255).message
    assert load(data_url(picture(1)), image_pixels=256)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:text/html;base64,aGk=",
        "data:image/png,aGk=",
        f"data:image/png;{'x' * 300};base64,aGk=",
        "data:image/png;base64,aGk",
        "data:image/png;base64,aGk=\n",
        "data:image/png;base64,a Gk",
        "data:image/png;base64,aGk=aGk=",
        "data:image/png;base64,____",
        "data:image/png;base64,é",
        "data:image/png;base64," + "A" * (images._BLOCK - 4) + "aGk=" + "AAAA",
        "file:///etc/passwd",
        "ftp://example.org/x.png",
        "javascript:alert(1)",
        "image.png",
    ],
)
def test_what_is_no_data_url_of_an_image_is_said_to_be_none(url: str) -> None:
    assert refused(url).code == "invalid_image"


@given(st.one_of(st.text(), st.binary().map(data_url), st.text().map("data:image/png;base64,".__add__)))
@example(data_url(b"\x89PNG\r\n\x1a\n" + bytes(40)))
def test_random_bytes_are_an_image_or_a_refusal(url: str) -> None:
    try:
        assert load(url)
    except ApiError as error:
        assert error.status == 400 and error.code in ("invalid_image", "image_too_large", "remote_images_disabled")


def test_headers_are_read_on_a_thread_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    where = []
    inspect = images.inspect
    monkeypatch.setattr(images, "inspect", lambda data: where.append(threading.current_thread().name) or inspect(data))
    load(data_url(picture(1)))
    assert where[0].startswith("image-decoder")


class Site(BaseHTTPRequestHandler):
    """/N.png is a picture; /slow waits; /elsewhere redirects to a host that is not allowed."""

    asked: list[str]
    over: threading.Event

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/slow":
            type(self).over.wait(2 * PATIENCE)
        status = {"/elsewhere": 302, "/none": 404}.get(self.path, 200)
        data = b"<html>" if self.path == "/page" else noise(60) if self.path == "/large" else picture(9)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Location", f"http://localhost:{self.server.server_port}/1.png")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, type[Site]]]:
    pages = type("Pages", (Site,), {"asked": [], "over": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", pages
    finally:
        pages.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


HERE = RemoteImagesConfig(hosts=("127.0.0.1",), seconds=PATIENCE)


def test_urls_are_fetched_from_named_hosts_only_and_each_once(site: tuple[str, type[Site]]) -> None:
    url, pages = site
    assert refused(f"{url}/1.png").code == "remote_images_disabled" and not pages.asked
    assert load(f"{url}/1.png", data_url(picture(2)), f"{url}/1.png", remote=HERE) == [
        picture(9),
        picture(2),
        picture(9),
    ]
    assert pages.asked == ["/1.png"]
    elsewhere = RemoteImagesConfig(hosts=("images.example.org",))
    for bad in (f"{url}/1.png", "http://user:secret@images.example.org/x.png", "http://images.example.org.evil.test/"):
        assert refused(bad, remote=elsewhere).code == "remote_image_refused"
    assert refused("http://images.example.org/" + "x" * 9000, remote=elsewhere).code == "invalid_image"


def test_what_a_host_answered_is_not_told(site: tuple[str, type[Site]]) -> None:
    """Otherwise the server would be a probe into its network."""
    url, _ = site
    told = {refused(f"{url}/{page}", remote=HERE).message for page in ("none", "elsewhere")}
    closed = RemoteImagesConfig(hosts=("localhost", "127.0.0.1"), seconds=2.0)
    told |= {refused("http://127.0.0.1:9/", remote=closed).message.replace("2 s", f"{PATIENCE:g} s")}
    assert len(told) == 1 and "404" not in told.pop()
    assert refused(f"{url}/page", remote=HERE).code == "invalid_image"
    assert refused(f"{url}/large", remote=HERE, image_bytes=5000).code == "image_too_large"
    assert refused(f"{url}/large", remote=HERE, image_pixels=100).code == "image_too_large"


def test_a_host_inside_the_network_is_reached_by_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr("polite_flamingo.sources.reading.download.socket.getaddrinfo", resolve)
    remote = RemoteImagesConfig(hosts=("*.example.org",), seconds=2.0)
    error = refused("http://images.example.org/meta-data", remote=remote)
    assert error.code == "remote_image_failed" and "169.254" not in error.message and asked == ["images.example.org"]


def test_a_slow_host_holds_nobody_longer_than_allowed_and_few_wait_for_it(site: tuple[str, type[Site]]) -> None:
    url, pages = site
    quick = RemoteImagesConfig(hosts=("127.0.0.1",), seconds=0.3, at_once=1)
    assert refused(f"{url}/slow", remote=quick).code == "remote_image_failed"
    crowd = RemoteImagesConfig(hosts=("127.0.0.1",), seconds=PATIENCE, at_once=1)
    with pytest.raises(ApiError) as caught:
        load(*(f"{url}/slow?{number}" for number in range(10)), f"{url}/slow", remote=crowd)
    assert caught.value.status == 503 and caught.value.retry_after
    pages.over.set()


def test_a_list_that_no_url_can_match_is_refused_at_the_start() -> None:
    with pytest.raises(SourceError, match="not a host"):
        ImageLoader(LimitsConfig(), RemoteImagesConfig(hosts=("https://example.org/",)))


def test_base64_says_what_is_wrong_with_it() -> None:
    assert "base64" in refused("data:image/png;base64," + base64.b64encode(b"ab").decode().rstrip("=")).message
