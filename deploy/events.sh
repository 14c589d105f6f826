# Files in a bucket → notification → topic → push, with a token → POST /events; what fails repeatedly → dead letters.
# Everything is made if it is missing, so that the same command continues after a failure.
# shellcheck shell=bash

# A push is repeated after 600 s at the latest: work beyond that would be done twice at once.
legal_event_folders() {
  [[ -n $EVENT_INPUT ]] || refuse "event-input: not set; use --event-input gs://BUCKET/FOLDER"
  [[ -n $EVENT_OUTPUT ]] || refuse "event-output: not set; use --event-output gs://BUCKET/FOLDER"
  EVENT_INPUT=${EVENT_INPUT%/}/ EVENT_OUTPUT=${EVENT_OUTPUT%/}/
  [[ $EVENT_INPUT != "$EVENT_OUTPUT"* ]] ||
    refuse "event-output: expected a folder that does not contain --event-input, $EVENT_INPUT, got '$EVENT_OUTPUT'"
  [[ $EVENT_OUTPUT != "$EVENT_INPUT"* ]] ||
    say "event-output: it is inside --event-input, so each answer is an event too, which the service acknowledges"
  ((TIMEOUT <= 600)) || refuse "timeout: expected at most 600 seconds with events, got $TIMEOUT ($FROM_TIMEOUT)"
}

# The service needs both folders, or neither.
check_event_folders() { if [[ -n $EVENT_INPUT$EVENT_OUTPUT ]]; then legal_event_folders; fi; }

names() {
  needs_project
  TOPIC=${EVENT_TOPIC:-$SERVICE-events}
  DEAD=$TOPIC-dead
  ACCOUNT=${SERVICE:0:23}
  ACCOUNT=${ACCOUNT%-}-events
  PUSHER=$ACCOUNT@$PROJECT.iam.gserviceaccount.com
  IN="--project=$PROJECT"
}

number() {
  if [[ -n $PROJECT_NUMBER ]]; then
    return
  elif [[ -n $DRY_RUN ]]; then
    PROJECT_NUMBER=PROJECT_NUMBER
    say "PROJECT_NUMBER stands for the project's number, which gcloud would give; or give it: --project-number"
  else
    PROJECT_NUMBER=$(gcloud projects describe "$PROJECT" '--format=value(projectNumber)') ||
      refuse "events: gcloud does not give the number of project $PROJECT; nothing was changed; use --project-number"
  fi
}

# missing DESCRIBE...: true where the resource does not exist; with --dry-run none does
missing() { [[ -n $DRY_RUN ]] || ! ask "$@" >/dev/null; }

grant() { step "$@" --quiet --format=none; }

events() {
  local bucket=${EVENT_INPUT#gs://} output=${EVENT_OUTPUT#gs://} prefix agent push reply i
  names
  number
  prefix=${bucket#*/} bucket=${bucket%%/*} output=${output%%/*}
  if [[ -z $DRY_RUN ]]; then service_exists; fi
  URL=${URL:-https://$SERVICE-$PROJECT_NUMBER.$REGION.run.app}
  agent=service-$PROJECT_NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com

  local topic
  for topic in "$TOPIC" "$DEAD"; do
    if missing gcloud pubsub topics describe "$topic" "$IN"; then step gcloud pubsub topics create "$topic" "$IN"; fi
  done
  if missing gcloud pubsub subscriptions describe "$DEAD" "$IN"; then
    step gcloud pubsub subscriptions create "$DEAD" "$IN" "--topic=$DEAD" --message-retention-duration=7d --expiration-period=never
  fi
  if missing gcloud iam service-accounts describe "$PUSHER" "$IN"; then
    step gcloud iam service-accounts create "$ACCOUNT" "$IN" "--display-name=Pushes events to $SERVICE"
  fi

  push=("--push-endpoint=$URL/events" "--push-auth-service-account=$PUSHER" "--push-auth-token-audience=$URL"
    --ack-deadline=600 --min-retry-delay=10s --max-retry-delay=600s "--dead-letter-topic=$DEAD" --max-delivery-attempts=10)
  if missing gcloud pubsub subscriptions describe "$TOPIC" "$IN"; then
    step gcloud pubsub subscriptions create "$TOPIC" "$IN" "--topic=$TOPIC" "${push[@]}" --expiration-period=never
  else
    step gcloud pubsub subscriptions update "$TOPIC" "$IN" "${push[@]}"
  fi

  # The pusher calls the service. The bucket publishes, and Pub/Sub itself to the dead letters.
  grant gcloud run services add-iam-policy-binding "$SERVICE" "${WHERE[@]}" "--member=serviceAccount:$PUSHER" --role=roles/run.invoker
  grant gcloud pubsub topics add-iam-policy-binding "$TOPIC" "$IN" "--member=serviceAccount:service-$PROJECT_NUMBER@gs-project-accounts.iam.gserviceaccount.com" --role=roles/pubsub.publisher
  grant gcloud pubsub topics add-iam-policy-binding "$DEAD" "$IN" "--member=serviceAccount:$agent" --role=roles/pubsub.publisher
  grant gcloud pubsub subscriptions add-iam-policy-binding "$TOPIC" "$IN" "--member=serviceAccount:$agent" --role=roles/pubsub.subscriber
  grant gcloud iam service-accounts add-iam-policy-binding "$PUSHER" "$IN" "--member=serviceAccount:$agent" --role=roles/iam.serviceAccountTokenCreator

  # What the service itself reads and writes.
  local self="serviceAccount:${SERVICE_ACCOUNT:-$PROJECT_NUMBER-compute@developer.gserviceaccount.com}"
  grant gcloud storage buckets add-iam-policy-binding "gs://$bucket" "--member=$self" --role=roles/storage.objectViewer
  # Large answers are written in parts, which are deleted in the end.
  grant gcloud storage buckets add-iam-policy-binding "gs://$output" "--member=$self" --role=roles/storage.objectUser
  for ((i = 0; i < ${#ENV_KEYS[@]}; i++)); do
    [[ ${ENV_KEYS[i]} == EVENT_REPLY && ${ENV_TEXTS[i]} == projects/*/topics/* ]] || continue
    reply=${ENV_TEXTS[i]}
    grant gcloud pubsub topics add-iam-policy-binding "$reply" "--member=$self" --role=roles/pubsub.publisher
  done

  step gcloud run services update "$SERVICE" "${WHERE[@]}" "--update-env-vars=$(joined "EVENT_INPUT=$EVENT_INPUT" "EVENT_OUTPUT=$EVENT_OUTPUT" "EVENT_TIMEOUT=$TIMEOUT")" "--timeout=$TIMEOUT"
  # Last: from here on, files in the bucket are events.
  if [[ -n $DRY_RUN || $(ask gcloud storage buckets notifications list "gs://$bucket" --format=json) != *"/topics/$TOPIC\""* ]]; then
    step gcloud storage buckets notifications create "gs://$bucket" "--topic=projects/$PROJECT/topics/$TOPIC" --event-types=OBJECT_FINALIZE "--object-prefix=$prefix" --payload-format=json
  fi
  report "files under $EVENT_INPUT are answered under $EVENT_OUTPUT; what failed ten times waits in the subscription $DEAD"
}

delete_events() {
  local bucket=${EVENT_INPUT#gs://} name topic
  names
  bucket=${bucket%%/*}
  if [[ -z $bucket ]]; then
    say "event-input: not set; no bucket's notification is deleted"
  elif [[ -n $DRY_RUN ]]; then
    say "NOTIFICATION stands for the id of the bucket's notification to $TOPIC, which gcloud would give"
    quoted gcloud storage buckets notifications delete "projects/_/buckets/$bucket/notificationConfigs/NOTIFICATION"
  else
    for name in $(ask gcloud storage buckets notifications list "gs://$bucket" --format=json | "$PYTHON" -m deploy.revisions notifications "$TOPIC"); do
      step gcloud storage buckets notifications delete "projects/_/buckets/$bucket/notificationConfigs/$name"
    done
  fi
  for name in "$TOPIC" "$DEAD"; do
    if [[ -n $DRY_RUN ]] || ask gcloud pubsub subscriptions describe "$name" "$IN" >/dev/null; then
      step gcloud pubsub subscriptions delete "$name" "$IN" --quiet
    fi
  done
  for topic in "$TOPIC" "$DEAD"; do
    if [[ -n $DRY_RUN ]] || ask gcloud pubsub topics describe "$topic" "$IN" >/dev/null; then
      step gcloud pubsub topics delete "$topic" "$IN" --quiet
    fi
  done
  if [[ -n $DRY_RUN ]] || ask gcloud iam service-accounts describe "$PUSHER" "$IN" >/dev/null; then
    step gcloud iam service-accounts delete "$PUSHER" "$IN" --quiet
  fi
}
