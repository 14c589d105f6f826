# The service: its three doors, and where its traffic goes.
# shellcheck shell=bash

# One second, and not ten: a probe that comes before the server listens is repeated after one period, and that
# period is then part of every cold start.
PROBE=httpGet.path=/readyz,periodSeconds=1,timeoutSeconds=1,failureThreshold=240

# What `run` uploads. Its bytecode is bound to the text: the build sets the times of all files to 1980, and Python would
# compile the modules again at each start if it were bound to the time (py_compile, SOURCE_DATE_EPOCH).
STAGE=.cache/upload
BYTECODE=SOURCE_DATE_EPOCH=315532801

deploy_run() {
  run_command
  step "${RUN[@]}"
  all_traffic
}

run_command() {
  if [[ -n $DRY_RUN ]]; then quoted ./deploy.sh stage "--model-dir=$MODEL_DIR" "--bake=$BAKE" "--tensorflow=$TENSORFLOW"; else stage; fi
  RUN=(gcloud run deploy "$SERVICE" "--source=$STAGE" --function=predict "--base-image=python${VERSION/./}"
    "--set-build-env-vars=$BYTECODE")
  run_flags folder
}

# Make STAGE: the files of the upload list, with what can be made for them before.
stage() {
  local files
  files=$(upload_list) || refuse "upload: gcloud or git must list what is uploaded; neither could"
  "$PYTHON" -m deploy.staging "$STAGE" --model "$MODEL_DIR" --bake "$BAKE" --tensorflow "$TENSORFLOW" <<<"$files" || exit 1
}

deploy_container() {
  container_command
  step "${RUN[@]}"
  all_traffic
}

container_command() {
  local model=$MODEL_DIR baked=0 light=0 values
  [[ $MODEL_DIR != gs://* ]] || model=model
  case $BAKE in yes) baked=1 ;; auto) baked=auto ;; esac
  [[ $LITERT == no ]] || light=1
  image_name
  values=("_IMAGE=$IMAGE" "_MODEL=$model" "_BAKE=$baked" "_LITERT=$light")
  [[ -z $SIGNATURE || $LITERT == no ]] || values+=("_SIGNATURE=$SIGNATURE")
  [[ $OBSERVE == no ]] || values+=("_OBSERVE=1")
  if [[ $BUILT == no ]]; then
    if [[ -n $DRY_RUN ]] || ! ask gcloud artifacts repositories describe "$REPOSITORY" "--project=$PROJECT" "--location=$REGION" >/dev/null; then
      step gcloud artifacts repositories create "$REPOSITORY" "--project=$PROJECT" "--location=$REGION" --repository-format=docker
    fi
    step gcloud builds submit . "--project=$PROJECT" --config=deploy/cloudbuild.yaml --ignore-file=.gcloudignore.container "--substitutions=$(joined "${values[@]}")"
  fi
  RUN=(gcloud run deploy "$SERVICE" "--image=$IMAGE")
  run_flags image
}

# IMAGE: the one that was named, which is BUILT already, or the one to build
image_name() {
  BUILT=yes
  [[ -z $IMAGE ]] || return 0
  needs_project
  BUILT=no IMAGE=$REGION-docker.pkg.dev/${PROJECT//:/\/}/$REPOSITORY/$SERVICE
}

run_flags() {
  RUN+=(${WHERE[@]+"${WHERE[@]}"} "--concurrency=$CONCURRENCY" "--cpu=$CPU" "--memory=$MEMORY" "--min-instances=$MIN"
    "--max-instances=$MAX" "--timeout=$TIMEOUT" "--ingress=$INGRESS" --execution-environment=gen2 --cpu-boost
    "--startup-probe=$PROBE" "--labels=pattern=stateless-serving-function")
  RUN+=("--set-env-vars=$(environment "$1")")
  if ((${#SECRET_KEYS[@]})); then RUN+=("--set-secrets=$(secrets)"); else RUN+=(--clear-secrets); fi
  [[ -z $SERVICE_ACCOUNT ]] || RUN+=("--service-account=$SERVICE_ACCOUNT")
  if [[ $PUBLIC == yes ]]; then RUN+=(--allow-unauthenticated); else RUN+=(--no-allow-unauthenticated); fi
}

# After a canary or a rollback, a new revision gets no traffic of its own accord.
all_traffic() { step gcloud run services update-traffic "$SERVICE" ${WHERE[@]+"${WHERE[@]}"} --to-latest; }

# The variables of the service, image or folder, KEY=VALUE each, in gcloud's ^DELIMITER^ form: commas, spaces and quotes are safe.
environment() {
  local i pairs=("THREADS=$THREADS" LOG_EXECUTION_ID=false)
  # An image holds its model as model/, whatever it is called here.
  [[ $MODEL_DIR == model || ($1 == image && $MODEL_DIR != gs://*) ]] || pairs+=("MODEL_DIR=$MODEL_DIR")
  [[ -z $EVENT_INPUT ]] || pairs+=("EVENT_INPUT=$EVENT_INPUT")
  [[ -z $EVENT_OUTPUT ]] || pairs+=("EVENT_OUTPUT=$EVENT_OUTPUT" "EVENT_TIMEOUT=$TIMEOUT")
  for ((i = 0; i < ${#ENV_KEYS[@]}; i++)); do pairs+=("${ENV_KEYS[i]}=${ENV_TEXTS[i]}"); done
  joined "${pairs[@]}"
}

joined() {
  local delimiter=@ number=0 text=$1
  # "@1~" has no beginning that is also its end: joined to any text without it, it is found where it was put.
  while [[ "$*" == *"$delimiter"* ]]; do number=$((number + 1)) delimiter=@$number~; done
  shift
  while (($#)); do text+=$delimiter$1 && shift; done
  printf '^%s^%s' "$delimiter" "$text"
}

secrets() {
  local i joined=${SECRET_KEYS[0]}=${SECRET_TEXTS[0]}
  for ((i = 1; i < ${#SECRET_KEYS[@]}; i++)); do joined+=,${SECRET_KEYS[i]}=${SECRET_TEXTS[i]}; done
  printf '%s' "$joined"
}

canary() {
  if [[ -z $DRY_RUN ]]; then service_exists; fi
  "${1}_command"
  step "${RUN[@]}" --no-traffic "--tag=$TAG"
  report "it gets no traffic yet; test it: ./deploy.sh smoke --tag $TAG; send it all traffic: ./deploy.sh promote"
}

describe() { gcloud run services describe "$SERVICE" "${WHERE[@]}" "$@"; }

# SERVICE_JSON, or a refusal
service_exists() {
  local answer
  answer=$(mktemp)
  if ! SERVICE_JSON=$(describe --format=json 2>"$answer"); then
    if grep -qi 'cannot find service\|NOT_FOUND' "$answer"; then
      rm -f "$answer"
      refuse "$COMMAND: there is no service $SERVICE in $REGION; deploy it first: ./deploy.sh run"
    fi
    say "$(tail -n 1 "$answer")"
    rm -f "$answer"
    refuse "$COMMAND: gcloud cannot say whether there is a service $SERVICE; nothing was changed"
  fi
  rm -f "$answer"
}

promote() {
  if [[ -z $DRY_RUN ]]; then
    service_exists
    "$PYTHON" -m deploy.revisions tagged "$TAG" <<<"$SERVICE_JSON" >/dev/null || exit 1
  fi
  step gcloud run services update-traffic "$SERVICE" ${WHERE[@]+"${WHERE[@]}"} --to-latest "--remove-tags=$TAG"
}

rollback() {
  if [[ -n $DRY_RUN ]]; then
    [[ -n $REVISION ]] || say "FORMER_REVISION stands for the one before, which gcloud would give"
    REVISION=${REVISION:-FORMER_REVISION}
  else
    service_exists
    if [[ -z $REVISION ]]; then
      local revisions
      revisions=$(gcloud run revisions list "--service=$SERVICE" "${WHERE[@]}" --format=json) || exit 1
      REVISION=$(printf '[%s,%s]' "$SERVICE_JSON" "$revisions" | "$PYTHON" -m deploy.revisions former) || exit 1
    fi
  fi
  step gcloud run services update-traffic "$SERVICE" ${WHERE[@]+"${WHERE[@]}"} "--to-revisions=$REVISION=100"
  report "it stays there until the next ./deploy.sh run or promote"
}

smoke() {
  local token url=$URL named=()
  [[ -z $SIGNATURE || $LITERT == no ]] || named=("$SIGNATURE")
  if [[ -n $DRY_RUN ]]; then
    [[ -n $url ]] || quoted gcloud run services describe "$SERVICE" ${WHERE[@]+"${WHERE[@]}"} --format=json
    quoted gcloud auth print-identity-token
    quoted "$PYTHON" -m deploy.smoke "${url:-SERVICE_URL}" "$MODEL_DIR" ${named[@]+"${named[@]}"}
    say "the token goes to the last command's standard input"
    return
  fi
  if [[ -z $url ]]; then
    service_exists
    local tag=
    [[ $FROM_TAG == default ]] || tag=$TAG
    url=$("$PYTHON" -m deploy.revisions url "$tag" <<<"$SERVICE_JSON") || exit 1
  fi
  token=$(gcloud auth print-identity-token) || refuse "smoke: gcloud gives no identity token; run: gcloud auth login"
  "$PYTHON" -m deploy.smoke "$url" "$MODEL_DIR" ${named[@]+"${named[@]}"} <<<"$token"
}

delete() {
  local answer
  if [[ -z $DRY_RUN && -z $YES ]]; then
    say "deletes the service $SERVICE in $PROJECT, $REGION, all its revisions, and what ./deploy.sh events made; the buckets and images stay"
    printf "Type the service's name to continue: " >&2
    read -r answer || answer=
    [[ $answer == "$SERVICE" ]] || refuse "delete: nothing was deleted"
  fi
  delete_events
  if [[ -n $DRY_RUN ]] || ask describe >/dev/null; then
    step gcloud run services delete "$SERVICE" ${WHERE[@]+"${WHERE[@]}"} --quiet
  else
    say "delete: there is no service $SERVICE in $REGION"
  fi
}
