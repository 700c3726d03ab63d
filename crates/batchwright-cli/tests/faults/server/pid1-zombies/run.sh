#!/bin/sh
# As the first process of a container it inherits the orphans of scripts, and must reap them.
exec python3 "$(dirname "$0")/check.py"
