#!/bin/sh
# `schedule explain` must not say in words what the expression does not do.
exec python3 "$(dirname "$0")/check.py"
