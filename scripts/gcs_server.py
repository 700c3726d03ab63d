"""The emulator of Google Cloud Storage, with uploads in parts (the XML API) and If-Match, which it lacks. Usage: gcs_server.py PORT BUCKET."""

import json
import sys
import uuid
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

UPLOADS = {}


class Handler(RequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is one packet: its body does not wait for the acknowledgement of its head.
    wbufsize = 256 * 1024

    def parts(self):
        """Returns the object and the options of a request of the XML API; None for others."""
        url = urlparse(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        if "uploads" not in query and "uploadId" not in query:
            return None
        bucket, name = unquote(url.path).lstrip("/").split("/", 1)
        return bucket, name, {key: values[0] for key, values in query.items()}

    def answer(self, status, text="", **headers):
        body = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self):
        of = self.parts()
        if of is None:
            # The real service has a type for objects without one.
            if "Content-Type" not in self.headers:
                self.headers["Content-Type"] = "application/octet-stream"
            # The emulator fails at an empty one.
            query = parse_qs(urlparse(self.path).query)
            if query.get("uploadType") == ["media"] and self.headers.get("Content-Length") == "0":
                bucket = urlparse(self.path).path.split("/")[-2]
                return self.answer(200, json.dumps(self.insert(bucket, query["name"][0], b"")))
            return super().do_POST()
        bucket, name, options = of
        content = self.body()
        if "uploads" in options:
            upload = uuid.uuid4().hex
            UPLOADS[upload] = {}
            return self.answer(
                200,
                f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
            )
        parts = UPLOADS.pop(options["uploadId"])
        named = content.count(b"<PartNumber>")
        if named != len(parts) or any(len(parts[key]) < 5 * 1024 * 1024 for key in sorted(parts)[:-1]):
            return self.answer(400, "the parts are not those that were sent, or too small")
        whole = b"".join(parts[key] for key in sorted(parts))
        self.insert(bucket, name, whole)
        return self.answer(200, "<CompleteMultipartUploadResult/>")

    def insert(self, bucket, name, content):
        made = _make_object_resource(self.headers["Host"], bucket, name, "application/octet-stream", str(len(content)))
        made = _checksums(content, made)
        self.storage.create_file(bucket, name, content, made)
        return made

    def do_GET(self):
        wanted = self.headers.get("If-Match")
        path = urlparse(self.path).path.split("/o/", 1)
        if wanted is not None and len(path) == 2:
            bucket = path[0].rsplit("/", 1)[1]
            if self.storage.get_file_obj(bucket, unquote(path[1]))["etag"] != wanted:
                return self.answer(412)
        return super().do_GET()

    def do_PUT(self):
        of = self.parts()
        if of is None:
            return super().do_PUT()
        UPLOADS[of[2]["uploadId"]][int(of[2]["partNumber"])] = self.body()
        return self.answer(200, ETag=f'"{uuid.uuid4().hex}"')

    def do_DELETE(self):
        of = self.parts()
        if of is None:
            return super().do_DELETE()
        UPLOADS.pop(of[2]["uploadId"], None)
        return self.answer(204)


def main():
    port, bucket = int(sys.argv[1]), sys.argv[2]
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(bucket, storage)
    ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, storage)).serve_forever()


main()
