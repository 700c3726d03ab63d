#!/bin/sh
# Load balancers ask for signs of life by HTTP/1.0 without a Host. /healthz and
# /readyz tell nothing to anybody, so they can answer.
exec python3 "$(dirname "$0")/check.py"
