#!/bin/sh
# A web page posts lines of the line protocol, as the body of an ordinary request, to the port on
# this machine. The server must not follow them.
exec python3 "$(dirname "$0")/check.py"
