"""A W&B server on the loopback interface: it answers what the client asks in a run's life, and remembers all of it."""

import gzip
import json
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "VXNlcjox", "entity": "team", "username": "user", "email": "", "flags": "{}", "teams": {"edges": []}}


class Server(ThreadingHTTPServer):
    """What came in: GraphQL operations with their variables, lines of the file streams, uploaded files, connections.

    * hosts: others that it was asked for, as a proxy; it refuses.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.operations, self.lines, self.files, self.hosts = [], {}, {}, []
        self.connections = 0

    def verify_request(self, request, client_address):
        self.connections += 1
        return True

    def variables(self, operation):
        return [variables for name, variables in self.operations if name == operation]

    def answer(self, query, variables):
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        self.operations.append((operation, variables))
        if operation == "UpsertView2":
            return {"upsertView": {"view": {"id": "VmlldzoxMjM=", "name": variables["name"]}, "inserted": True}}
        if operation == "UpsertBucket":
            project = {"id": "P", "name": variables["project"], "entity": {"id": "E", "name": "team"}}
            bucket = {"id": "R", "name": variables["name"], "displayName": "", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        return {"viewer": VIEWER} if operation == "Viewer" else {}

    def environment(self):
        """Of a process whose W&B is this server, as is the proxy to all others."""
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("WANDB_", "NO_PROXY"))}
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.url)
        return {**kept, **proxies, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Says nothing."""

    def do_CONNECT(self):
        self.server.hosts.append(self.path)
        self.send_error(403)

    def do_GET(self):
        self.do_POST()

    def do_PUT(self):
        self.do_POST()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        server, reply = self.server, {}
        if self.path == "/graphql":
            asked = json.loads(body)
            reply = {"data": server.answer(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            for name, part in (json.loads(body).get("files") or {}).items():
                server.lines.setdefault(name, []).extend(part["content"])
        elif self.path.startswith("/storage/"):
            server.files[self.path.removeprefix("/storage/")] = body
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
