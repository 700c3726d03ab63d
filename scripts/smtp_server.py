"""A mail server for the tests: smtp_server.py FOLDER PORT TLS_PORT CERTIFICATE.

The first port offers STARTTLS and demands it before a login; the second is encrypted from the beginning. The user `batchwright` has the
password `sesame`. Mails are kept in FOLDER, a JSON file for each. The recipient missing@ is refused, busy@ is refused for now.
"""

import itertools
import json
import os
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

# No bytecode beside the scripts.
sys.dont_write_bytecode = True
from ftp_server import make_certificate

FOLDER, PORT, TLS_PORT, CERTIFICATE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
numbers = itertools.count(1)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("missing@"):
            return "550 there is no such person"
        if address.startswith("busy@"):
            return "451 later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        name = os.path.join(FOLDER, f"{next(numbers):06}")
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "user": session.auth_data.login.decode() if session.auth_data else None,
            "encrypted": session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None,
            "content": envelope.content.decode(),
        }
        with open(name + ".part", "w") as file:
            json.dump(mail, file)
        os.rename(name + ".part", name + ".json")
        return "250 kept"


def authenticator(server, session, envelope, mechanism, data):
    is_known = (data.login, data.password) == (b"batchwright", b"sesame")
    return AuthResult(success=is_known, handled=False, auth_data=data)


make_certificate(CERTIFICATE)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, CERTIFICATE + ".key")
common = {"hostname": "127.0.0.1", "authenticator": authenticator}
Controller(Handler(), port=PORT, tls_context=context, auth_require_tls=True, **common).start()
Controller(Handler(), port=TLS_PORT, ssl_context=context, auth_require_tls=False, **common).start()
threading.Event().wait()
