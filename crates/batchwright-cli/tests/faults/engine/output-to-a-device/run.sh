#!/usr/bin/env bash
# An output path that is a device or a FIFO is replaced by a file; as root that takes /dev/null from the whole machine.
# Expected: a path that exists and is no regular file stays what it is: written to, or refused
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
mkfifo pipe && (timeout 20 cat pipe >read.txt &)
run run out.toml path=pipe >out.json
[ -p pipe ] || wrong "the FIFO became $(stat -c %F pipe)"
if [ "$(id -u)" = 0 ] && mknod null c 1 3 2>/dev/null; then
    run run out.toml path=null >out.json
    [ -c null ] || wrong "the device became $(stat -c %F null)"
fi
