#!/bin/sh
# A receiver that says 429 or 503 with Retry-After is not called before.
exec python3 "$(dirname "$0")/check.py"
