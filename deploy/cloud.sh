# Running gcloud, or with --dry-run printing it, and printing what exists when it fails.
# shellcheck shell=bash

WHERE=()
DONE=()

quoted() {
  local word line=
  for word; do
    printf -v word '%q' "$word"
    line+=${line:+ }$word
  done
  printf '%s\n' "$line"
}

# Run a command that changes something, or print it.
step() {
  local status=0
  if [[ -n $DRY_RUN ]]; then
    quoted "$@"
    return
  fi
  say "$(quoted "$@")"
  "$@" || status=$?
  ((status == 0)) || stopped "$status" "$@"
  DONE+=("$(quoted "$@")")
}

# Print a result, unless nothing was done (--dry-run).
report() { [[ -n $DRY_RUN ]] || say "$*"; }

# The output of a command that only reads; fails without output where there is nothing to read.
ask() { "$@" 2>/dev/null; }

stopped() {
  local status=$1 earlier
  shift
  say "stopped: exit status $status of: $(quoted "$@")"
  for earlier in ${DONE[@]+"${DONE[@]}"}; do say "done before it: $earlier"; done
  what_exists
  [[ $COMMAND != events ]] || say "nothing is undone; the same command continues from there"
  exit "$status"
}

what_exists() {
  local answer url ready newest
  if answer=$(gcloud run services describe "$SERVICE" "${WHERE[@]}" --format='value(status.url,status.latestReadyRevisionName,status.latestCreatedRevisionName)' 2>&1); then
    IFS=$'\t' read -r url ready newest <<<"$answer"
    say "now exists: service $SERVICE at ${url:-no address yet}, ready revision ${ready:-none}, newest revision ${newest:-none}"
  elif [[ $answer == *'annot find service'* || $answer == *NOT_FOUND* ]]; then
    say "now exists: no service $SERVICE in $REGION"
  else
    say "now exists: unknown, gcloud cannot say: ${answer##*$'\n'}"
  fi
}

# WHERE: the project and the region, gcloud's own where none is given. Refuse before anything is sent.
connect() {
  if [[ -n $DRY_RUN ]]; then
    [[ -n $PROJECT ]] || say "project: not set; gcloud's own is used"
    [[ -n $REGION ]] || say "region: not set; gcloud's own is used"
  else
    command -v gcloud >/dev/null || refuse "gcloud: it is not installed; https://cloud.google.com/sdk/docs/install (--dry-run works without)"
    [[ -n $PROJECT ]] || PROJECT=$(ask gcloud config get-value project) || PROJECT=
    [[ -n $REGION ]] || REGION=$(ask gcloud config get-value run/region) || REGION=
    needs_project
    legal_values
    gcloud auth print-access-token >/dev/null 2>&1 ||
      refuse "login: gcloud has none, or it has expired; nothing was sent; run: gcloud auth login"
  fi
  WHERE=()
  [[ -z $PROJECT ]] || WHERE+=("--project=$PROJECT")
  [[ -z $REGION ]] || WHERE+=("--region=$REGION")
}

needs_project() {
  [[ -n $PROJECT ]] || refuse "project: not set; use --project, or: gcloud config set project PROJECT"
  [[ -n $REGION ]] || refuse "region: not set; use --region, or: gcloud config set run/region REGION"
}
