# The image on clusters of your own, as YAML on stdout.
# shellcheck shell=bash

# A YAML string: JSON's double quotes and escapes are YAML's too. Every name and value goes through here: unquoted,
# null, on, 1e3 or 2026-01-31 would be no string.
text() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

yaml() {
  image_name
  [[ $MODEL_DIR != /* ]] || refuse "model-dir: expected a folder in this one, or gs://BUCKET/FOLDER, got '$MODEL_DIR' ($FROM_MODEL_DIR)"
  "yaml_$1"
}

# yaml_environment INDENT
yaml_environment() {
  local i pair indent=$1 pairs=("THREADS=$THREADS")
  [[ $MODEL_DIR != gs://* ]] || pairs+=("MODEL_DIR=$MODEL_DIR")
  [[ -z $EVENT_INPUT ]] || pairs+=("EVENT_INPUT=$EVENT_INPUT")
  [[ -z $EVENT_OUTPUT ]] || pairs+=("EVENT_OUTPUT=$EVENT_OUTPUT" "EVENT_TIMEOUT=$TIMEOUT")
  for ((i = 0; i < ${#ENV_KEYS[@]}; i++)); do pairs+=("${ENV_KEYS[i]}=${ENV_TEXTS[i]}"); done
  for pair in "${pairs[@]}"; do
    printf '%s- {name: %s, value: %s}\n' "$indent" "$(text "${pair%%=*}")" "$(text "${pair#*=}")"
  done
  for ((i = 0; i < ${#SECRET_KEYS[@]}; i++)); do # a Secret of that name, and in it the version as the key
    printf '%s- name: %s\n%s  valueFrom: {secretKeyRef: {name: %s, key: %s}}\n' "$indent" "$(text "${SECRET_KEYS[i]}")" \
      "$indent" "$(text "${SECRET_TEXTS[i]%:*}")" "$(text "${SECRET_TEXTS[i]##*:}")"
  done
}

# Without privileges, on a read-only root; /tmp is memory, for a model that comes from a bucket.
yaml_security() {
  cat <<TEXT
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          resources:
            requests: {cpu: "$CPU", memory: $MEMORY}
            limits: {cpu: "$CPU", memory: $MEMORY}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
TEXT
}

# kubectl apply; Knative starts instances as requests come, and none while none comes.
yaml_knative() {
  local visibility='' name
  name=$(text "$SERVICE")
  [[ $PUBLIC == yes && $INGRESS == all ]] || visibility=$'\n    networking.knative.dev/visibility: cluster-local'
  cat <<TEXT
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: $name
  labels:
    app: $name$visibility
spec:
  template:
    metadata:
      annotations:
        autoscaling.knative.dev/min-scale: "$MIN"
        autoscaling.knative.dev/max-scale: "$MAX"
        autoscaling.knative.dev/metric: concurrency
        autoscaling.knative.dev/target: "$CONCURRENCY"
    spec:
      containerConcurrency: $CONCURRENCY
      timeoutSeconds: $TIMEOUT
      containers:
        - name: function
          image: $(text "$IMAGE")
          ports:
            - {containerPort: 8080}
          env:
$(yaml_environment '            ')
          readinessProbe:
            httpGet: {path: /readyz}
            periodSeconds: 1
            timeoutSeconds: 1
            failureThreshold: 240
$(yaml_security)
      volumes:
        - name: tmp
          emptyDir: {medium: Memory, sizeLimit: $MEMORY}
TEXT
}

# kubectl apply; there is always one instance at least, and the autoscaler goes by CPU.
yaml_kubernetes() {
  local least=$((MIN > 0 ? MIN : 1)) name
  name=$(text "$SERVICE")
  cat <<TEXT
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $name
  labels: {app: $name}
spec:
  selector:
    matchLabels: {app: $name}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels: {app: $name}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      containers:
        - name: function
          image: $(text "$IMAGE")
          ports:
            - {name: http, containerPort: 8080}
          env:
$(yaml_environment '            ')
          startupProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 1
            timeoutSeconds: 1
            failureThreshold: 240
          readinessProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 5
            timeoutSeconds: 2
          livenessProbe:
            httpGet: {path: /healthz, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle:
            preStop:
              sleep: {seconds: 5}
$(yaml_security)
      volumes:
        - name: tmp
          emptyDir: {medium: Memory, sizeLimit: $MEMORY}
---
apiVersion: v1
kind: Service
metadata:
  name: $name
  labels: {app: $name}
spec:
  selector: {app: $name}
  ports:
    - {name: http, port: 80, targetPort: http}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: $name
  labels: {app: $name}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: $name}
  minReplicas: $least
  maxReplicas: $MAX
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: 60}
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 300}
TEXT
}
