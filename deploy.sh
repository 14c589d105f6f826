#!/usr/bin/env bash
# Take this folder, its model included, to the cloud. `./deploy.sh help` tells how.
set -euo pipefail
shopt -s extglob
cd "$(dirname "${BASH_SOURCE[0]}")"

DRY_RUN=
YES=
PYTHON=${PYTHON:-}
if [[ -z $PYTHON ]]; then PYTHON=.venv/bin/python; fi
if ! command -v "$PYTHON" >/dev/null; then PYTHON=python3; fi

# shellcheck source=deploy/values.sh
. deploy/values.sh
# shellcheck source=deploy/check.sh
. deploy/check.sh
# shellcheck source=deploy/cloud.sh
. deploy/cloud.sh
# shellcheck source=deploy/service.sh
. deploy/service.sh
# shellcheck source=deploy/events.sh
. deploy/events.sh
# shellcheck source=deploy/yaml.sh
. deploy/yaml.sh

usage() {
  cat <<'TEXT'
usage: ./deploy.sh [COMMAND] [FLAGS]

  run              this folder as a Cloud Run function (the default)
  container        the image of deploy/Dockerfile, built by Cloud Build: the fast server
  function         the same function through the older Cloud Functions API
  check            only what each of these does first: would this folder be served? Nothing is sent
  events           a topic, a subscription and their rights: files in --event-input are answered in --event-output
  smoke            ask the deployed service: readiness, one prediction, latency (--tag TAG: the canary)
  canary [DOOR]    deploy by `run` or `container`, and send nobody there yet (--tag TAG)
  promote          send everybody to the canary
  rollback         send everybody to the revision before (--revision NAME: to that one)
  yaml [KIND]      knative, or kubernetes: for clusters of your own, on stdout
  delete           delete the service, and what `events` made
  config           every value, and where it comes from

  --dry-run        print the commands, one a line, and run none; needs no gcloud
  --yes            delete without asking
  --public         anybody may call it; without this, only whom you give the right
  --env KEY=VALUE  a variable for the service; may stand many times
  --secret KEY=SECRET:VERSION

Every other value is --flag, or a variable of the environment, or a line of deploy.env, or a default, in this order;
`./deploy.sh config` shows them all. deploy.env.example says what they are.
TEXT
}

main() {
  read_arguments "$@"
  read_file
  resolve
  case $COMMAND in
    help) usage ;;
    config) show_values ;;
    check) check ;;
    run | function | container) check && connect && "deploy_$COMMAND" ;;
    canary) check && connect && canary "${OPERAND:-run}" ;;
    events) legal_values && legal_places && connect && events ;;
    smoke | promote | rollback | delete) legal_values && connect && "$COMMAND" ;;
    yaml) legal_values && some_places && yaml "${OPERAND:-knative}" ;;
  esac
}

main "$@"
