"""A small Hugging Face hub on this machine: repositories of datasets, for uploads by huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WRITER, READER = "hf_may_write", "hf_may_read"
OWNER = "me"


class FakeHub:
    """What the hub holds and was asked.

    Attributes:
        repositories: name -> path -> content.
        private: name -> whether it is private.
        commits: paths that each commit changed, with a `-` before those it deleted.
        large: whether files are stored as large ones (Git LFS), apart from the commit.
        refuse: returns a status instead of an answer to a request, or 0.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[list[str]] = []
        self.large: Callable[[str], bool] = lambda path: False
        self.refuse: Callable[[str], int] = lambda path: 0
        self.objects: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = hub.answer(self.command, self.path, self.headers.get("Authorization") or "", body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                if status >= 400:
                    self.send_header("X-Error-Message", str(answer.get("error")))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = _answer

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, address: str, authorization: str, body: bytes) -> tuple[int, Any]:
        """Answer a request as the hub does, as far as uploads go."""
        path = address.partition("?")[0]
        if status := self.refuse(path):
            return status, {"error": "Something is wrong here"}
        if path.startswith("/objects/"):
            self.objects[path.removeprefix("/objects/")] = body
            return 200, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        token = authorization.removeprefix("Bearer ")
        if token not in (WRITER, READER):
            return 401, {"error": "Invalid username or password."}
        if method == "POST" and token != WRITER:
            return 403, {"error": "You don't have the rights"}
        asked = json.loads(body) if body and not path.endswith("/commit/main") else {}
        if path == "/api/repos/create":
            return self._create(asked)
        name = "/".join(path.removeprefix("/api/").removeprefix("/").split("/")[1:3]).removesuffix(".git")
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._in_repository(name, path, asked, body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if not name.startswith(f"{OWNER}/"):
            return 403, {"error": f"You don't have the rights to create a dataset under {name.partition('/')[0]}"}
        known = name in self.repositories
        self.repositories.setdefault(name, {".gitattributes": b"*.parquet filter=lfs"})
        self.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
        return (409 if known else 200), {"url": f"{self.url}/datasets/{name}", "error": "You already created this"}

    def _in_repository(self, name: str, path: str, asked: dict[str, Any], body: bytes) -> tuple[int, Any]:
        files = self.repositories[name]
        if "/preupload/" in path:
            found = []
            for file in asked["files"]:
                large = self.large(file["path"])
                oid = _oid(files[file["path"]], large=large) if file["path"] in files else None
                mode = "lfs" if large else "regular"
                found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            return 200, {"files": found}
        if path.endswith("/info/lfs/objects/batch"):
            actions = {one["oid"]: {"upload": {"href": f"{self.url}/objects/{one['oid']}"}} for one in asked["objects"]}
            objects = [{**one, "actions": actions[one["oid"]]} for one in asked["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if "/tree/" in path:
            return 200, [
                {"type": "file", "path": file, "size": len(data), "oid": _oid(data, large=False)}
                for file, data in files.items()
            ]
        if "/commit/" in path:
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return 200, {"id": name, "sha": f"{len(self.commits):040x}", "siblings": [], "private": self.private[name]}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files, changed = self.repositories[name], []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            if line["key"] != "header":
                changed.append(("-" if line["key"].startswith("deleted") else "") + value["path"])
        self.commits.append(sorted(changed))
        oid = f"{len(self.commits):040x}"
        return 200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{oid}", "commitOid": oid}


def _oid(data: bytes, *, large: bool) -> str:
    """Return what names a content: SHA-256 of a large file, Git's SHA-1 of others."""
    return hashlib.sha256(data).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
