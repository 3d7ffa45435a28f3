"""A Hugging Face Hub of this machine's own: the routes that its library takes to download files and to upload them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN, SIGNATURE = "hf_SecretOfTheTests", "SignedForAnHour"


class Hub:
    """Serves repositories while it is entered; writing needs :data:`TOKEN`, as reading a private one does.

    Attributes:
        commits: files by name, by repository and commit.
        refs: commits by repository and branch or tag.
        private: repositories that only :data:`TOKEN` may read.
        asked: requests for content, by their range.
        cuts: how many downloads break off half-way; endless where it is negative.
        spoils: whether content has another last byte than was uploaded.
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.private, self.blobs = set[str](), dict[str, bytes]()
        self.asked, self.cuts, self.spoils = Counter[str](), 0, False

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit to a repository and let branches or tags name it; return its hash."""
        before = self.commits.get((name, self.refs.get((name, "main"), "")), {})
        after = {**before, **files}
        found = hashlib.sha1(repr(sorted((k, hashlib.sha256(v).digest()) for k, v in after.items())).encode()).hexdigest()
        self.commits[name, found] = after
        self.refs |= {(name, ref): found for ref in refs or ("main",)}
        self.blobs |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        return found


def git_sha1(content: bytes) -> str:
    """The name of content in git."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one request to a :class:`Hub`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *message: object) -> None:
        """Keep the tests' output clean."""

    def answer(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content_Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, **headers: object) -> None:
        """Answer as a server does that tells whom it sees, token and all."""
        seen = f"refused {self.headers.get('Authorization')}"
        self.answer(status, {"error": seen}, X_Error_Code=code, X_Error_Message=seen, **headers)

    @property
    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if blob := re.match(r"/cdn/([0-9a-f]{64})\?signature=", self.path):
            return self.send_blob(self.hub.blobs[blob[1]])
        asked = r"(?:/api/models/([^/]+/[^/]+)/(?:revision|tree)|/([^/]+/[^/]+)/resolve)/([^/?]+)(?:/(.+))?(?:\?.*)?"
        found = re.fullmatch(asked, self.path)
        if found is None:
            return self.refuse(404, "Unknown")
        name, revision, file = found[1] or found[2], found[3].replace("%2F", "/"), found[4]
        if name not in {known for known, _ in self.hub.refs} or (name in self.hub.private and not self.is_owner):
            return self.refuse(401, "RepoNotFound")
        commit = self.hub.refs.get((name, revision), revision)
        files = self.hub.commits.get((name, commit))
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if "/tree/" in self.path:
            return self.answer(200, [self.entry(path, content) for path, content in files.items()])
        if found[1]:
            return self.answer(200, {"id": name, "sha": commit})
        if file not in files:
            return self.refuse(404, "EntryNotFound", X_Repo_Commit=commit)
        content, size = files[file], len(files[file])
        if not file.endswith(".safetensors"):
            return self.answer(200, content, X_Repo_Commit=commit, ETag=f'"{git_sha1(content)}"')
        digest = hashlib.sha256(content).hexdigest()
        place = f"http://localhost:{self.hub.server.server_port}/cdn/{digest}?signature={SIGNATURE}"  # another host
        linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": size}
        self.answer(302, b"", Location=place, X_Repo_Commit=commit, **linked)

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        """A file in a listing of a commit."""
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        lfs = {"lfs": {"oid": digest, "size": size, "pointerSize": 130}} if path.endswith(".safetensors") else {}
        return {"type": "file", "path": path, "oid": git_sha1(content), "size": size, **lfs}

    def send_blob(self, content: bytes) -> None:
        asked = self.headers.get("Range", "")
        assert "Authorization" not in self.headers, "a token on another host"
        self.hub.asked[asked] += self.command == "GET"
        content = content[:-1] + bytes([content[-1] ^ 1]) if self.hub.spoils else content
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        if not self.hub.cuts or self.command == "HEAD":
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206 if asked else 200, content[start:], Content_Range=place)
        self.hub.cuts -= 1
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) // 2])
        self.close_connection = True

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:
        content, digest = self.body(), self.path.removeprefix("/upload/")
        right = hashlib.sha256(content).hexdigest() == digest
        self.hub.blobs |= {digest: content} if right else {}
        self.answer(200 if right else 400)

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.is_owner:
            return self.refuse(401, "Unknown")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if (name, "main") in self.hub.refs:
                return self.answer(409, {"url": f"{self.hub.endpoint}/{name}"})
            self.hub.commit(name, {})
            self.hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
            return self.answer(200, {"url": f"{self.hub.endpoint}/{name}"})
        if self.path.endswith("/preupload/main"):
            modes = {True: "lfs", False: "regular"}
            files = [file["path"] for file in json.loads(body)["files"]]
            listed = [{"path": p, "uploadMode": modes[p.endswith(".safetensors")], "shouldIgnore": False} for p in files]
            return self.answer(200, {"files": listed})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [self.place_for(one) for one in json.loads(body)["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            commit = self.hub.commit(found[1], dict(self.committed(body)))
            place = f"{self.hub.endpoint}/{found[1]}/commit/{commit}"
            return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": place})
        self.refuse(404, "Unknown")

    def place_for(self, one: dict[str, Any]) -> dict[str, Any]:
        """The answer of the LFS protocol to one object: where it goes, unless it is there."""
        there = one["oid"] in self.hub.blobs
        upload = {} if there else {"actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{one['oid']}"}}}
        return {"oid": one["oid"], "size": one["size"], **upload}

    def committed(self, body: bytes) -> Any:
        """The files of a commit's lines."""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                yield value["path"], base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                yield value["path"], self.hub.blobs[value["oid"]]
