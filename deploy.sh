#!/usr/bin/env bash
# Deploy this folder with its model to the cloud; see `./deploy.sh help`.
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

  run              deploy this folder as a Cloud Run function (the default)
  stage            make the folder that `run` uploads, .cache/upload: with the native codec, and the model baked by
                   `--bake yes` (`auto`: where it can be), and TensorFlow's C library alone (`--tensorflow package`: its
                   Python package, too); sends nothing
  container        deploy the image of deploy/Dockerfile, built by Cloud Build: the faster server
  check            run only the checks that come before each deployment; sends nothing
  events           create a topic, a subscription and their rights: files in --event-input are answered in --event-output
  smoke            test the deployed service: readiness, one prediction, latency (--tag TAG: the canary)
  canary [KIND]    deploy by `run` or `container` without traffic (--tag TAG)
  promote          send all traffic to the canary
  rollback         send all traffic to the previous revision (--revision NAME: to that one)
  yaml [KIND]      print YAML for your own cluster: knative (the default) or kubernetes
  delete           delete the service, and what `events` created
  config           print every value and its origin

  --dry-run        print the commands without running them; needs no gcloud
  --yes            delete without asking
  --public         allow calls without authentication
  --env KEY=VALUE  a variable for the service; may be repeated
  --secret KEY=SECRET:VERSION

Every other value is a flag, an environment variable, a line of deploy.env, or a default, in this order of precedence.
`./deploy.sh config` shows them all; deploy.env.example explains them.
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
    stage) legal_values && check_event_folders && check_python && stage ;;
    run | container) check && connect && "deploy_$COMMAND" ;;
    canary) check && connect && canary "${OPERAND:-run}" ;;
    events) legal_values && legal_event_folders && connect && events ;;
    smoke | promote | rollback | delete) legal_values && connect && "$COMMAND" ;;
    yaml) legal_values && check_event_folders && yaml "${OPERAND:-knative}" ;;
  esac
}

main "$@"
