#!/bin/sh
# Kairoi's docs/runners.md and the README of emerick42/kairoi-php: the DSN amqp://USER:PASSWORD@HOST:PORT/ means the virtual host `/`
# (so does the driver of Kairoi's server). Clients of Kairoi shall work unchanged.
exec python3 "$(dirname "$0")/check.py"
