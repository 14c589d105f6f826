#!/usr/bin/env bash
# Install the programs that tests need besides what pip installs: `make test-tools`. Only what is missing is installed.
set -euo pipefail
PATH=$PATH:/usr/sbin

# program   Debian's package       the tests that are skipped without it
needed="
c++         g++                    tests of the accelerator, of the image and of bound libraries
gcc         gcc                    tests of pruning
readelf     binutils               tests of pruning and of bound libraries
curl        curl                   tests of functions-framework
nginx       nginx-light            tests of instances that are killed behind a load balancer
chromium    chromium               tests of the page to try the model, and of pages of other origins
prometheus  prometheus             tests of the dashboard and of the alerts
go          golang-go              tests of the client in Go
java        default-jre-headless   tests of generated clients, and of Spark (Java 17 or later)
"
# Not here: npm (generated JavaScript clients) and gcloud (uploads, Pub/Sub), which Debian doesn't have in a usable version;
# clang, libclang-rt-14-dev and clang-tidy (make fuzz, the linting of the native codec), which take 600 MB.

missing=()
while read -r program package tests; do
  if [[ -n $program ]] && ! command -v "$program" >/dev/null; then
    missing+=("$package")
    echo "test-tools: $program is missing: $tests"
  fi
done <<<"$needed"
if ((${#missing[@]} == 0)); then
  echo "test-tools: everything is installed"
  exit
fi
if ! command -v apt-get >/dev/null; then
  echo "test-tools: expected Debian's apt-get, found none; install these in your system's way: ${missing[*]}" >&2
  exit 1
fi
if ((EUID != 0)); then
  echo "test-tools: expected root, to install packages: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
# Without a run level no package's service is started.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
