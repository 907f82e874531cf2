"""Fetches an image by its URL: from named hosts only, never from inside the network, in bounded time.

URLs in annotation files are written by strangers. So each URL, and each redirect, must pass three checks: `http` or
`https` without credentials; a host on the user's list; only public addresses. The connection goes to one of the very
addresses that were checked, so a name that resolves differently a moment later changes nothing. Proxies of the
environment are ignored: a proxy would resolve the name itself, and the check would mean nothing.

This is the standard library's `http.client` over a socket of our own. The common libraries resolve names out of sight,
and their time limits apply to single reads: a server that sends a byte now and then holds them forever. Only the
resolver's own time limit is beyond our control.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_text
from polite_flamingo.sources.reading.image_folder import MAX_IMAGE_BYTES, checked_image

AGENT = "polite-flamingo-on-ray (fetches the images that a dataset's annotations name)"

MAX_REDIRECTS = 3

_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_HOST = re.compile(r"[a-z0-9_.:%-]+")
"""Excludes NUL, among others: resolvers stop at it, so `evil.test<NUL>.example.org` would match `*.example.org`."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a download, in seconds except for `attempts` and `size`; `total` includes redirects and retries."""

    connect: float = 10.0
    read: float = 15.0
    total: float = 60.0
    attempts: int = 3
    pause: float = 1.0
    """Wait before the second attempt; doubled before each further one."""
    size: int = MAX_IMAGE_BYTES
    """Maximum bytes of an image."""


class _Retry(Exception):
    """The server, or the connection to it, is busy or broken."""


def fetch(url: object, hosts: Sequence[str], limits: Limits = Limits()) -> Image:
    """Fetch the image at `url`; its bytes tell the format.

    Args:
        url: the URL as the annotation gives it.
        hosts: where images may come from: a host's exact name or address, or `*.example.org` for its subdomains. An
            address inside the network is reached only if the list holds that very address, or `localhost`.
        limits: limits of time, size and attempts.

    Raises:
        BadSample: `bad_field` (not a string), `missing_image` (not a URL, not allowed, not found, too slow),
            `image_too_large`, or what `images.inspect` says about the bytes.
    """
    given = as_text(url, "the image's URL")
    if not hosts:
        raise BadSample("missing_image", f"{given[:120]!r} is not fetched: name its host with --download")
    deadline = time.monotonic() + limits.total
    for attempt in range(limits.attempts):
        try:
            return checked_image(_follow(given, hosts, limits, deadline), given[:120])[0]
        except (_Retry, OSError, http.client.HTTPException) as error:
            failure = str(error) or type(error).__name__
        wait = limits.pause * 2**attempt
        if time.monotonic() + wait >= deadline:
            raise BadSample("missing_image", f"{given[:120]!r} did not arrive within {limits.total:g} s ({failure})")
        if attempt + 1 < limits.attempts:
            time.sleep(wait)
    raise BadSample("missing_image", f"{given[:120]!r} did not arrive in {limits.attempts} attempts ({failure})")


def check_url(url: str, hosts: Sequence[str]) -> None:
    """Raise `BadSample` for a URL that `fetch` would not even look up: not http(s), credentials, a host not listed."""
    _target(url, hosts)


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise `SourceError` for an entry that no host could ever match: a URL, a port, a lone star."""
    for entry in hosts:
        host = _canonical(entry.removeprefix("*."))
        if not host or (":" in host and not _is_address(host)):
            remedy = "name a host or its address, such as images.example.org, or *.example.org for its subdomains"
            raise SourceError(f"{entry!r} is not a host to download from: {remedy}")


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _follow(url: str, hosts: Sequence[str], limits: Limits, deadline: float) -> bytes:
    """Follow at most `MAX_REDIRECTS` redirects and return the body."""
    for _ in range(MAX_REDIRECTS + 1):
        target, host, port = _target(url, hosts)
        with _answer(target, host, port, _addresses(host, port, hosts), limits, deadline) as answer:
            if answer.status in _REDIRECTS:
                url = _joined(url, answer.headers.get("Location", ""))
            elif answer.status == 429 or answer.status >= 500:
                raise _Retry(f"the server answers {answer.status}")
            elif answer.status != 200:
                raise BadSample("missing_image", f"{url[:120]!r}: the server answers {answer.status}")
            else:
                return _body(answer, url, limits.size, deadline)
    raise BadSample("missing_image", f"{url[:120]!r}: redirected more than {MAX_REDIRECTS} times")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise BadSample("missing_image", f"{url[:120]!r} redirects to {location[:120]!r}: {error}") from None


def _target(url: str, hosts: Sequence[str]) -> tuple[SplitResult, str, int]:
    """Check that a URL may be fetched; return its parts, its host (`_canonical`) and its port."""
    try:
        target = urlsplit(url)
        port = target.port or (443 if target.scheme == "https" else 80)
    except ValueError as error:
        raise BadSample("missing_image", f"{url[:120]!r} is not a URL ({error})") from None
    host = _canonical(target.hostname or "")
    if target.scheme not in ("http", "https") or not host:
        raise BadSample("missing_image", f"{url[:120]!r} is not an http or https URL")
    if "@" in target.netloc:
        raise BadSample("missing_image", f"the URL to {host[:80]!r} carries credentials, and none are sent")
    if not any(_covers(pattern, host) for pattern in hosts):
        raise BadSample("missing_image", f"{host[:80]!r} is not one of the hosts to download from")
    return target, host, port


def _canonical(host: str) -> str:
    """Return a host in lower-case ASCII, without trailing dot and an address's brackets; "" if it is not a host."""
    host = host.removesuffix(".").removeprefix("[").removesuffix("]").lower()
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return ""
    return host if _HOST.fullmatch(host) else ""


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of the list admits a host."""
    if entry.startswith("*."):
        above = _canonical(entry[2:])
        return bool(above) and host.endswith(f".{above}") and not host.startswith(".")
    return _canonical(entry) == host


def _addresses(host: str, port: int, hosts: Sequence[str]) -> list[str]:
    """Resolve a host. One address that must not be reached is enough to refuse it."""
    try:
        found = list(dict.fromkeys(str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    except ValueError as error:  # an empty or overlong label, a NUL
        raise BadSample("missing_image", f"{host[:80]!r} is not a host name ({error})") from None
    for text in found:
        address = ipaddress.ip_address(text)
        named = text == host and text in map(_canonical, hosts)
        if not (named or _public(address) or (host == "localhost" and address.is_loopback)):
            raise BadSample("missing_image", f"{host[:80]!r} is at {text}, which is not a public address")
    return found


def _public(address: Address) -> bool:
    """Whether an address is on the public internet; if it embeds an IPv4 address, whether that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return _public(carried)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


@contextmanager
def _answer(
    target: SplitResult, host: str, port: int, addresses: list[str], limits: Limits, deadline: float
) -> Iterator[http.client.HTTPResponse]:
    """Send a GET and yield the response; at `deadline` the connection is shut, whatever it is waiting for."""
    sock = _connect(addresses, port, limits, deadline)
    late = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: _shut(sock))
    try:
        if target.scheme == "https":
            sock = _trusted().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        late.start()
        sock.settimeout(limits.read)
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection = http.client.HTTPConnection(host, port)  # asks for the bytes uncompressed
        connection.sock = sock
        asked = f"{target.path or '/'}?{target.query}" if target.query else target.path or "/"
        name = f"[{host}]" if ":" in host else host
        headers = {
            "Host": name if target.port is None else f"{name}:{port}",
            "User-Agent": AGENT,
            "Accept": "image/*",
            "Connection": "close",
        }
        connection.request("GET", quote(asked, safe="/?%:@!$&'()*+,;=~"), headers=headers)
        with connection.getresponse() as answer:
            yield answer
    finally:
        late.cancel()
        sock.close()


def _connect(addresses: list[str], port: int, limits: Limits, deadline: float) -> socket.socket:
    """Connect to the first address that accepts."""
    failure: OSError = TimeoutError("no time is left to connect")
    for address in addresses:
        left = deadline - time.monotonic()
        if left > 0:
            try:
                return socket.create_connection((address, port), min(limits.connect, left))
            except OSError as error:
                failure = error
    raise failure


def _shut(sock: socket.socket) -> None:
    """Wake whatever waits on a socket. SSL's own `shutdown` would let the waiting thread read on without SSL."""
    with suppress(OSError):  # already closed
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _body(answer: http.client.HTTPResponse, url: str, size: int, deadline: float) -> bytes:
    """Read the whole body in pieces, so that an oversized one is never held in memory."""
    promised = answer.length
    if promised is not None and promised > size:
        raise BadSample("image_too_large", f"{url[:120]!r}: {promised} bytes, at most {size} are read")
    data = bytearray()
    while promised is None or len(data) < promised:
        piece = answer.read1(1 << 16)
        if not piece:
            break
        data += piece
        if len(data) > size:
            raise BadSample("image_too_large", f"{url[:120]!r}: more than {size} bytes")
    if time.monotonic() >= deadline:
        raise _Retry("the time is up")
    if promised is not None and len(data) < promised:
        raise _Retry(f"the connection ended after {len(data)} of {promised} bytes")
    return bytes(data)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Trust the system's certificate authorities."""
    return ssl.create_default_context()
