"""An FTP server for the tests: ftp_server.py FOLDER PORT TLS_PORT IMPLICIT_PORT OLD_PORT CERTIFICATE.

The user `batchwright` may do everything in FOLDER, `reader` may only read, each with its name as the password. The second port
asks for TLS, connections to the third one begin with it. The fourth one is that of an old server: it lists names alone, knows no times, and replaces no file by renaming.
CERTIFICATE is made, with its key, for 127.0.0.1.
"""

import datetime
import ipaddress
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer


def make_certificate(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "batchwright test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=10))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(path, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    with open(path + ".key", "wb") as file:
        file.write(private)


class ImplicitHandler(TLS_FTPHandler):
    def handle(self):
        self.secure_connection(self.ssl_context)

    def handle_ssl_established(self):
        super().handle()


class OldHandler(FTPHandler):
    proto_cmds = {name: value for name, value in FTPHandler.proto_cmds.items() if name not in ("MLSD", "MLST", "MDTM")}

    def ftp_RNTO(self, path):
        if os.path.exists(path):
            self._rnfr = None
            self.respond("553 The file exists.")
            return None
        return super().ftp_RNTO(path)


def main():
    folder, port, tls_port, implicit_port, old_port, certificate = sys.argv[1:]
    make_certificate(certificate)
    users = DummyAuthorizer()
    users.add_user("batchwright", "batchwright", folder, perm="elradfmwMT")
    users.add_user("reader", "reader", folder, perm="elr")
    loop = IOLoop()
    handlers = {FTPHandler: port, TLS_FTPHandler: tls_port, ImplicitHandler: implicit_port, OldHandler: old_port}
    for handler, port in handlers.items():
        handler = type("Handler", (handler,), {"authorizer": users, "use_sendfile": False})
        if issubclass(handler, TLS_FTPHandler):
            handler.certfile, handler.keyfile = certificate, certificate + ".key"
            handler.tls_control_required = handler.tls_data_required = True
        FTPServer(("127.0.0.1", int(port)), handler, ioloop=loop)
    while True:
        loop.loop(1, True)


if __name__ == "__main__":
    main()
