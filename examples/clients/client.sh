#!/bin/sh
# A client in shell with curl 7.76 or later: ./client.sh http://localhost:8080 ../three.json
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
# curl waits as Retry-After says where the server is busy or loads the model, and fails where the status is 400 or more.
curl --silent --show-error --fail-with-body --retry 4 "$1/v1/models/model:predict" --data "@$2" --output "$answer"
status=$?
cat "$answer"
exit $status
