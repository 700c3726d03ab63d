"""A server that speaks WebDAV. Usage: webdav_server.py FOLDER PORT USER PASSWORD."""

import sys

from cheroot import wsgi
from wsgidav.wsgidav_app import WsgiDAVApp

folder, port, user, password = sys.argv[1:]
app = WsgiDAVApp(
    {
        "provider_mapping": {"/": folder},
        "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
        "simple_dc": {"user_mapping": {"*": {user: {"password": password}}}},
        "lock_storage": True,
        "verbose": 1,
    }
)
wsgi.Server(("127.0.0.1", int(port)), app, numthreads=8).start()
