#!/bin/sh
# The book says to give a store's password by BATCHWRIGHT_STORE. Scripts have no business with it.
exec python3 "$(dirname "$0")/check.py"
