#!/usr/bin/env bash
# Deploy this folder as a Cloud Run function, private. With --dry-run, print the command instead, and need no gcloud.
#   ./deploy.sh [--dry-run] [SERVICE]      SERVICE, PROJECT, REGION, MEMORY and THREADS may be set in the environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

dry_run=
if [[ ${1:-} == --dry-run ]]; then dry_run=1; shift; fi
service=${1:-${SERVICE:-predict}}
threads=${THREADS:-8}

if [[ ! $service =~ ^[a-z]([-a-z0-9]{0,47}[a-z0-9])?$ ]]; then
  echo "deploy.sh: SERVICE: expected lower-case letters, digits and hyphens, got '$service'" >&2
  exit 1
fi
if [[ ! -e model/saved_model.pb ]] && ! compgen -G 'model/[0-9]*/saved_model.pb' >/dev/null; then
  echo "deploy.sh: model/: there is no SavedModel to deploy" >&2
  exit 1
fi

# Concurrency is the number of threads: what waits inside an instance is hidden from the autoscaler. The startup probe
# loads the model at boosted CPU, before a user waits.
command=(
  gcloud run deploy "$service"
  --source . --function predict --base-image python313
  --concurrency "$threads" --cpu 1 --memory "${MEMORY:-1Gi}" --cpu-boost --execution-environment gen2
  --startup-probe httpGet.path=/readyz,periodSeconds=10,timeoutSeconds=10,failureThreshold=24
  --set-env-vars "THREADS=$threads,LOG_EXECUTION_ID=false"
  --no-allow-unauthenticated
)
[[ -z ${PROJECT:-} ]] || command+=(--project "$PROJECT")
[[ -z ${REGION:-} ]] || command+=(--region "$REGION")

if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
