# Checks before anything is sent; all of them are local.
# shellcheck shell=bash

check() {
  legal_values
  check_event_folders
  check_root
  check_python
  check_model
  if [[ -z $IMAGE ]]; then check_upload; fi
  say "check: passed"
}

# Each of these changes what gcloud builds from a folder.
check_root() {
  local name
  for name in Dockerfile Procfile; do
    [[ ! -e $name ]] || refuse "$name: expected none in this folder, where it changes what is built; the image's is deploy/Dockerfile"
  done
}

# VERSION: 3.13, for the base image python313
check_python() {
  [[ -r .python-version ]] || refuse ".python-version: it is missing, and the build would choose a Python without a TensorFlow wheel"
  VERSION=$(<.python-version)
  [[ $VERSION =~ ^3\.(10|11|12|13)(\.[0-9]+)?$ ]] ||
    refuse ".python-version: expected 3.10 to 3.13, for which TensorFlow has wheels, got '$VERSION'"
  VERSION=3.${BASH_REMATCH[1]}
  [[ -r requirements.txt ]] || refuse "requirements.txt: it is missing"
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^(#.*)?$ || $line =~ ^[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[0-9][^\ ]*(\ *\;.*)?$ ]] ||
      refuse "requirements.txt: expected NAME==VERSION in each line, got '$line'"
  done <requirements.txt
}

# The settings are read by the same code as in the deployed service.
check_model() {
  local i answer environment=("THREADS=$THREADS")
  if [[ $MODEL_DIR == gs://* ]]; then
    environment+=("MODEL_DIR=$MODEL_DIR")
    say "check: the service's account needs roles/storage.objectViewer on $(cut -d / -f 1-3 <<<"$MODEL_DIR")"
  elif [[ $MODEL_DIR == /* || /$MODEL_DIR/ == */../* ]]; then
    refuse "model-dir: expected a folder in this one, which is what is uploaded, got '$MODEL_DIR' ($FROM_MODEL_DIR); copy it here: cp -R ${MODEL_DIR%/}/. model/"
  elif [[ $MODEL_DIR =~ [[:cntrl:]] ]]; then
    refuse "model-dir: expected a folder, got a control character"
  elif [[ ! -d $MODEL_DIR ]]; then
    refuse "model-dir: there is no folder '$MODEL_DIR' ($FROM_MODEL_DIR)"
  fi
  [[ -z $EVENT_INPUT ]] || environment+=("EVENT_INPUT=$EVENT_INPUT")
  [[ -z $EVENT_OUTPUT ]] || environment+=("EVENT_OUTPUT=$EVENT_OUTPUT" "EVENT_TIMEOUT=$TIMEOUT")
  for ((i = 0; i < ${#ENV_KEYS[@]}; i++)); do environment+=("${ENV_KEYS[i]}=${ENV_TEXTS[i]}"); done
  "$PYTHON" -c 'import numpy' 2>/dev/null || refuse "check: this Python lacks the packages of serving; run: make setup"
  # TensorFlow logs to both streams; its log is shown only on failure.
  if ! answer=$(env -u MODEL_DIR "${environment[@]}" "$PYTHON" -m serving check "$MODEL_DIR" 2>&1); then
    refuse "check: $(grep '^serving: ' <<<"$answer" | cut -c 10- || tail -n 3 <<<"$answer")"
  fi
  say "check: $(grep -F "$MODEL_DIR: " <<<"$answer" | tail -n 1)"
}

# The list is gcloud's own where gcloud is here, and else made by git's matcher, from the same rules.
upload_list() {
  local rules=.gcloudignore
  if command -v gcloud >/dev/null; then
    gcloud meta list-files-for-upload
  elif command -v git >/dev/null; then
    [[ -e $rules ]] || rules=.gitignore
    [[ -e $rules ]] || rules=/dev/null
    local empty
    empty=$(mktemp -d)
    git init -q "$empty"
    git --git-dir="$empty/.git" --work-tree=. -c core.quotePath=false ls-files --others --exclude-from="$rules"
    rm -rf "$empty"
  else
    return 1
  fi
}

check_upload() {
  local files file bytes needed
  if ! files=$'\n'$(upload_list)$'\n'; then
    refuse "upload: gcloud or git must list what is uploaded; neither could"
  fi
  needed=$(needed_files) || refuse "upload: expected serving/, fallback/ and the model in this folder"
  while IFS= read -r file; do
    [[ $files == *$'\n'"$file"$'\n'* ]] || refuse "upload: expected $file in it; .gcloudignore keeps it out"
  done <<<"$needed"
  bytes=$(grep . <<<"$files" | tr '\n' '\0' | xargs -0 wc -c | awk '$2 != "total" {s += $1} END {printf "%.0f", s}') ||
    refuse "upload: a file in it cannot be read"
  ((bytes <= MAX_UPLOAD * 1048576)) ||
    refuse "upload: expected at most $MAX_UPLOAD MiB (--max-upload), got $((bytes / 1048576)); a large model can stay in a bucket: --model-dir gs://BUCKET/FOLDER"
  say "check: $(($(wc -l <<<"$files") - 2)) files, $(((bytes + 1048575) / 1048576)) MiB to upload"
}

needed_files() {
  printf '%s\n' main.py requirements.txt .python-version
  find serving fallback -name '*.py' -not -path 'serving/pipeline/native/*' \
    -not -path 'serving/scoring/arrow.py' -not -path 'serving/scoring/spark*.py'
  if [[ $MODEL_DIR != gs://* ]]; then find "$MODEL_DIR" -type f; fi
}
