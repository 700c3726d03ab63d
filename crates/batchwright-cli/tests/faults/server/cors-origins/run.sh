#!/bin/sh
# `http.origins` names pages elsewhere that may ask. A browser lets them only when
# the preflight is answered, and lets them read only what names their origin.
exec python3 "$(dirname "$0")/check.py"
