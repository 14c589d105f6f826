# The values of deploy.sh: --flag > environment > deploy.env > default, and whether each is legal.
# shellcheck shell=bash disable=SC2034 # values are named by other names: printf -v, ${!name}

# The flag is the same word in small letters with hyphens. '-': no default.
VALUES='
PROJECT          -
REGION           -
SERVICE          predict
MODEL_DIR        model
CPU              1
MEMORY           1Gi
CONCURRENCY      8
THREADS          8
MIN              0
MAX              100
TIMEOUT          300
INGRESS          all
PUBLIC           no
SERVICE_ACCOUNT  -
MAX_UPLOAD       1024
IMAGE            -
REPOSITORY       cloud-run-source-deploy
BAKE             no
TENSORFLOW       library
LITERT           no
SIGNATURE        -
OBSERVE          no
TAG              canary
REVISION         -
URL              -
EVENT_INPUT      -
EVENT_OUTPUT     -
EVENT_TOPIC      -
PROJECT_NUMBER   -
'
COMMAND=
OPERAND=
ENV_KEYS=() ENV_TEXTS=() ENV_ORIGINS=()
SECRET_KEYS=() SECRET_TEXTS=() SECRET_ORIGINS=()

say() { printf 'deploy.sh: %s\n' "$*" >&2; }
refuse() {
  say "$*"
  exit 1
}
misused() {
  say "$*; see ./deploy.sh help"
  exit 2
}

read_arguments() {
  local words=()
  while (($#)); do
    case $1 in
      -h | --help) words=(help) && break ;;
      --dry-run) DRY_RUN=1 ;;
      --yes) YES=1 ;;
      --public) FLAG_PUBLIC=yes ;;
      --*=*) read_flag "${1%%=*}" "${1#*=}" ;;
      --*)
        (($# > 1)) || misused "$1: expected a value after it"
        read_flag "$1" "$2"
        shift
        ;;
      -*) misused "$1: there is no such flag" ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  COMMAND=${words[0]:-run} OPERAND=${words[1]:-}
  case $COMMAND in
    check | stage | run | container | events | smoke | promote | rollback | delete | config | help)
      [[ -z $OPERAND ]] || misused "$COMMAND: expected flags after it, got '$OPERAND'"
      ;;
    canary) [[ $OPERAND =~ ^(|run|container)$ ]] || misused "canary: expected run or container, got '$OPERAND'" ;;
    yaml) [[ $OPERAND =~ ^(|knative|kubernetes)$ ]] || misused "yaml: expected knative or kubernetes, got '$OPERAND'" ;;
    *) misused "'$COMMAND': there is no such command" ;;
  esac
  ((${#words[@]} <= 2)) || misused "'${words[2]}': expected flags"
}

read_flag() {
  case $1 in
    --env) read_pair ENV "$2" flag "$1" ;;
    --secret) read_pair SECRET "$2" flag "$1" ;;
    *)
      local name
      name=$(printf '%s' "${1#--}" | tr 'a-z-' 'A-Z_')
      known "$name" || misused "$1: there is no such flag"
      printf -v "FLAG_$name" '%s' "$2"
      ;;
  esac
}

known() { [[ $1 =~ ^[A-Z_]+$ && $VALUES == *$'\n'"$1 "* ]]; }

# read_pair ENV|SECRET KEY=VALUE flag|deploy.env LOCATION: a flag goes before the file, and a later flag before an earlier
read_pair() {
  local list=$1 key=${2%%=*} text=${2#*=} origin=$3 location=$4 i keys=() origins=()
  [[ $2 == *=* && $key =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || refuse "$location: expected KEY=VALUE, got '$2'"
  case $key in
    PORT | K_* | X_GOOGLE_* | FUNCTION_TARGET | FUNCTION_SIGNATURE_TYPE | CLOUD_RUN_*)
      refuse "$location: $key is the platform's own and cannot be set" ;;
    THREADS) refuse "$location: THREADS is the same number as the concurrency; use --concurrency" ;;
    MODEL_DIR) refuse "$location: use --model-dir, which is checked and uploaded" ;;
    EVENT_INPUT | EVENT_OUTPUT) refuse "$location: use --event-input and --event-output, which also grant the rights" ;;
    EVENT_TIMEOUT) refuse "$location: EVENT_TIMEOUT is the same number as the service's own; use --timeout" ;;
    LOG_EXECUTION_ID) refuse "$location: LOG_EXECUTION_ID would mix the logs of concurrent requests" ;;
  esac
  if [[ $list == SECRET ]]; then
    [[ $text =~ ^[A-Za-z0-9_-]{1,255}:(latest|[1-9][0-9]*)$ ]] ||
      refuse "$location: $key: expected SECRET:VERSION, got '$text'"
    keys=(${SECRET_KEYS[@]+"${SECRET_KEYS[@]}"}) origins=(${SECRET_ORIGINS[@]+"${SECRET_ORIGINS[@]}"})
  else
    [[ ! ${text//[$'\n\t']/} =~ [[:cntrl:]] ]] || refuse "$location: $key: expected text, got a control character"
    keys=(${ENV_KEYS[@]+"${ENV_KEYS[@]}"}) origins=(${ENV_ORIGINS[@]+"${ENV_ORIGINS[@]}"})
  fi
  for ((i = 0; i < ${#keys[@]}; i++)); do
    [[ ${keys[i]} == "$key" ]] || continue
    [[ ${origins[i]} != deploy.env || $origin == flag ]] || refuse "$location: $key appears twice"
    [[ $origin == flag ]] || return 0
    break
  done
  if [[ $list == SECRET ]]; then
    SECRET_KEYS[i]=$key SECRET_TEXTS[i]=$text SECRET_ORIGINS[i]=$origin
  else
    ENV_KEYS[i]=$key ENV_TEXTS[i]=$text ENV_ORIGINS[i]=$origin
  fi
}

# Lines of NAME=VALUE, ENV_KEY=VALUE or SECRET_KEY=SECRET:VERSION; the value follows '=', unquoted.
# shellcheck disable=SC2094 # deploy.env is only a word there
read_file() {
  local line name text number=0 location
  [[ -e deploy.env ]] || return 0
  [[ -r deploy.env ]] || refuse "deploy.env: it cannot be read"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1)) location="deploy.env, line $number"
    [[ -n $line && $line != '#'* ]] || continue
    name=${line%%=*} text=${line#*=}
    [[ $line == *=* ]] || refuse "$location: expected NAME=VALUE, got '$line'"
    [[ $text != *$'\r'* ]] || refuse "$location: expected lines that end with a line feed, got a carriage return"
    [[ ! $text =~ ^(\".*\"|\'.*\')$ ]] || refuse "$location: $name: expected a value without quotes around it, got $text"
    case $name in
      ENV_*) read_pair ENV "${name#ENV_}=$text" deploy.env "$location" ;;
      SECRET_*) read_pair SECRET "${name#SECRET_}=$text" deploy.env "$location" ;;
      *)
        known "$name" || refuse "$location: there is no value '$name'; ./deploy.sh config names them all"
        printf -v "FILE_$name" '%s' "$text"
        ;;
    esac
  done <deploy.env
}

resolve() {
  local name default flag file
  while read -r name default; do
    [[ -n $name ]] || continue
    [[ $default != - ]] || default=
    flag=FLAG_$name file=FILE_$name
    if [[ -n ${!flag+set} ]]; then
      printf -v "$name" '%s' "${!flag}" && printf -v "FROM_$name" flag
    elif [[ -n ${!name:-} && $name != PUBLIC ]]; then # what opens a service is never inherited
      printf -v "FROM_$name" environment
    elif [[ -n ${!file+set} ]]; then
      printf -v "$name" '%s' "${!file}" && printf -v "FROM_$name" deploy.env
    else
      printf -v "$name" '%s' "$default" && printf -v "FROM_$name" default
    fi
  done <<<"$VALUES"
  same_concurrency
  MODEL_DIR=${MODEL_DIR#"$PWD/"}
  while [[ $MODEL_DIR == ?*/ ]]; do MODEL_DIR=${MODEL_DIR%/}; done
  MODEL_DIR=${MODEL_DIR#./}
}

# Requests above THREADS would wait inside an instance, where the autoscaler cannot see them.
same_concurrency() {
  local origin
  for origin in flag environment deploy.env; do
    if [[ $FROM_CONCURRENCY == "$origin" && $FROM_THREADS == "$origin" && $CONCURRENCY != "$THREADS" ]]; then
      refuse "concurrency: expected the number of threads, $THREADS, got '$CONCURRENCY' ($origin); give one of the two"
    elif [[ $FROM_CONCURRENCY == "$origin" ]]; then
      THREADS=$CONCURRENCY FROM_THREADS=$origin && return
    elif [[ $FROM_THREADS == "$origin" ]]; then
      CONCURRENCY=$THREADS FROM_CONCURRENCY=$origin && return
    fi
  done
}

show_values() {
  local name rest from i
  while read -r name rest; do
    [[ -n $name ]] || continue
    from=FROM_$name
    printf '%-16s %-32s %s\n' "$name" "${!name:--}" "${!from}"
  done <<<"$VALUES"
  for ((i = 0; i < ${#ENV_KEYS[@]}; i++)); do
    printf '%-16s %-32q %s\n' "ENV_${ENV_KEYS[i]}" "${ENV_TEXTS[i]}" "${ENV_ORIGINS[i]}"
  done
  for ((i = 0; i < ${#SECRET_KEYS[@]}; i++)); do
    printf '%-16s %-32s %s\n' "SECRET_${SECRET_KEYS[i]}" "${SECRET_TEXTS[i]}" "${SECRET_ORIGINS[i]}"
  done
}

# legal NAME PATTERN EXPECTED: refuse a value that does not match; an empty one is legal where that is the default
legal() {
  local from=FROM_$1 word
  [[ -n ${!1} || $VALUES != *$'\n'"$1"*([ ])-$'\n'* ]] || return 0
  word=$(printf '%s' "$1" | tr 'A-Z_' 'a-z-')
  [[ ${!1} =~ $2 ]] || refuse "$word: expected $3, got '${!1}' (${!from})"
}

# gcloud checks none of these: it sends "--cpu=banana" as it is.
legal_values() {
  local bytes key
  legal PROJECT '^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$' "a project's id: 6 to 30 small letters, digits and hyphens"
  legal REGION '^[a-z]+(-[a-z]+)+[0-9]+$' "a region such as europe-west1"
  legal SERVICE '^[a-z]([-a-z0-9]{0,47}[a-z0-9])?$' "1 to 49 small letters, digits and hyphens, a letter first, no hyphen last"
  legal TAG '^[a-z][-a-z0-9]+[a-z0-9]$' "at least 3 small letters, digits and hyphens, a letter first, no hyphen last"
  ((${#SERVICE} + ${#TAG} <= 46)) || [[ $COMMAND != canary ]] ||
    refuse "tag: expected at most 46 characters together with the service's name, got $((${#SERVICE} + ${#TAG}))"
  legal CPU '^[12468]$' "1, 2, 4, 6 or 8"
  legal MEMORY '^[1-9][0-9]{0,5}(Mi|Gi)$' "a size such as 512Mi or 2Gi"
  bytes=$(mebibytes "$MEMORY")
  case $CPU in
    1) between "$bytes" 512 4096 ;;
    2) between "$bytes" 512 8192 ;;
    4) between "$bytes" 2048 16384 ;;
    6) between "$bytes" 4096 24576 ;;
    8) between "$bytes" 4096 32768 ;;
  esac
  legal CONCURRENCY '^([1-9][0-9]{0,2}|1000)$' "a whole number from 1 to 1000"
  legal MIN '^(0|[1-9][0-9]{0,5})$' "a whole number"
  legal MAX '^[1-9][0-9]{0,5}$' "a whole number from 1"
  ((MIN <= MAX)) || refuse "min: expected at most --max, $MAX, got $MIN"
  legal TIMEOUT '^[1-9][0-9]{0,3}$' "seconds from 1 to 3600"
  ((TIMEOUT <= 3600)) || refuse "timeout: expected seconds from 1 to 3600, got $TIMEOUT"
  legal INGRESS '^(all|internal|internal-and-cloud-load-balancing)$' "all, internal or internal-and-cloud-load-balancing"
  legal PUBLIC '^(yes|no)$' "yes or no"
  legal BAKE '^(yes|no|auto)$' "yes, no or auto"
  [[ $BAKE != yes || $MODEL_DIR != gs://* || $COMMAND == container ]] ||
    refuse "bake: expected a model in this folder, which is uploaded, got '$MODEL_DIR'; bake the one in the bucket: python -m exporting bake"
  legal TENSORFLOW '^(library|package)$' "library or package"
  if [[ $TENSORFLOW == library && $COMMAND != container ]]; then
    for ((key = 0; key < ${#ENV_KEYS[@]}; key++)); do
      [[ ${ENV_KEYS[key]}=${ENV_TEXTS[key]} != RUNTIME=python ]] ||
        refuse "env: RUNTIME=python needs TensorFlow's Python package; upload it: --tensorflow package"
    done
  fi
  legal LITERT '^(yes|no)$' "yes or no"
  legal OBSERVE '^(yes|no)$' "yes or no"
  legal SIGNATURE '^[A-Za-z0-9_./:-]{1,128}$' "the name of one of the model's signatures"
  [[ $LITERT == yes || $FROM_SIGNATURE != flag ]] || refuse "signature: expected --litert yes with it"
  legal SERVICE_ACCOUNT '^[a-z0-9][a-z0-9-]*@[a-z0-9.-]+\.gserviceaccount\.com$' "a service account's address, NAME@PROJECT.iam.gserviceaccount.com"
  legal MAX_UPLOAD '^[1-9][0-9]{0,5}$' "a number of MiB"
  legal IMAGE '^[a-z0-9][A-Za-z0-9._/:@-]*[A-Za-z0-9]$' "an image, such as europe-west1-docker.pkg.dev/PROJECT/REPOSITORY/NAME"
  legal REPOSITORY '^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$' "1 to 63 small letters, digits and hyphens"
  legal REVISION '^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$' "a revision's name"
  legal URL '^https?://[^[:space:]/]+$' "https://HOST"
  legal EVENT_INPUT '^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?$' "gs://BUCKET/FOLDER"
  legal EVENT_OUTPUT '^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?$' "gs://BUCKET/FOLDER"
  legal EVENT_TOPIC '^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$' "a topic's name: 3 to 255 letters, digits and . _ ~ + % -, a letter first"
  [[ $EVENT_TOPIC != goog* ]] || refuse "event-topic: expected a name that does not begin with goog, got '$EVENT_TOPIC' ($FROM_EVENT_TOPIC)"
  legal PROJECT_NUMBER '^[0-9]{1,20}$' "the project's number"
  for key in ${SECRET_KEYS[@]+"${SECRET_KEYS[@]}"}; do
    [[ " ${ENV_KEYS[*]-} " != *" $key "* ]] || refuse "secret: $key is also given by --env; give one of the two"
  done
}

mebibytes() { case $1 in *Gi) echo $((${1%Gi} * 1024)) ;; *) echo "${1%Mi}" ;; esac; }

between() {
  (($2 <= $1 && $1 <= $3)) ||
    refuse "memory: expected from $2Mi to $(($3 / 1024))Gi with $CPU CPU, got '$MEMORY' ($FROM_MEMORY)"
}
