#!/bin/sh
# start.sh FOLDER: a director or node, with a configuration of its own that it may change.
set -eu
mkdir -p /etc/onward/conf.d
cp "$1/onward.toml" /etc/onward/
cp /etc/tier2/shared/*.toml /etc/onward/conf.d/
exec onward run /etc/onward/onward.toml
