#!/bin/sh
# node.sh: the routes of a node of the second tier. Replies go to clients by its router, whoever has sent the request here.
set -eu
ip route replace default via 203.0.113.65
ip -6 route replace default via 2001:db8:3::1
