"""Makes a container of an Azure Blob Storage. Usage: azure_container.py URL-OF-THE-ACCOUNT ACCOUNT KEY CONTAINER."""

import base64
import hashlib
import hmac
import sys
import urllib.request
from email.utils import formatdate
from urllib.parse import urlparse

url, account, key, container = sys.argv[1:]
date = formatdate(usegmt=True)
version = "2021-08-06"
path = f"{urlparse(url).path}/{container}"
signed = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{account}{path}\nrestype:container"
digest = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers = {
    "x-ms-date": date,
    "x-ms-version": version,
    "Content-Length": "0",
    "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}",
}
request = urllib.request.Request(f"{url}/{container}?restype=container", method="PUT", headers=headers)
urllib.request.urlopen(request).read()
