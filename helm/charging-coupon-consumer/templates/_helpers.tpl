{{- define "charging-coupon-consumer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* 45 characters leave room for what is put behind it. */}}
{{- define "charging-coupon-consumer.fullname" -}}
{{- $name := include "charging-coupon-consumer.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "charging-coupon-consumer.selector" -}}
app.kubernetes.io/name: {{ include "charging-coupon-consumer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "charging-coupon-consumer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "charging-coupon-consumer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of an object; `annotations` are its own. Takes dict "top" "name" "component" "annotations" "labels" "namespace". */}}
{{- define "charging-coupon-consumer.metadata" -}}
{{- $annotations := mergeOverwrite (dict) .top.Values.commonAnnotations (default (dict) .annotations) -}}
name: {{ .name }}
namespace: {{ default .top.Release.Namespace .namespace }}
labels:
  {{- include "charging-coupon-consumer.labels" .top | nindent 2 }}
  app.kubernetes.io/component: {{ default "consumer" .component }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "charging-coupon-consumer.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "charging-coupon-consumer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "charging-coupon-consumer.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: say where the image is that you built, such as registry.example.com/charging-coupon" $image.repository -}}
{{- $registry := default $image.registry .Values.global.imageRegistry -}}
{{- $host := first (splitList "/" $repository) -}}
{{- if and $registry (contains "/" $repository) (or (regexMatch "[.:]" $host) (eq $host "localhost")) -}}
{{- fail (printf "image.repository: %q begins with a registry, and so does what image.registry or global.imageRegistry puts before it, %q; write the path alone, such as %s" $repository $registry (trimPrefix (printf "%s/" $host) $repository)) -}}
{{- end -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- $repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end -}}
{{- end -}}

{{- define "charging-coupon-consumer.pullSecrets" -}}
{{- with concat .Values.imagePullSecrets (default (list) .Values.global.imagePullSecrets) }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A setting's value or its default: dict "top" "path" "default". What is null counts as left out. */}}
{{- define "charging-coupon-consumer.setting" -}}
{{- $value := .top.Values.settings -}}
{{- range splitList "." .path -}}
{{- $value = get (default (dict) $value) . | default "" -}}
{{- end -}}
{{- $value = eq (toString $value) "" | ternary .default $value -}}
{{- if kindIs "float64" $value }}{{ $value = eq $value (floor $value) | ternary (int64 $value) $value }}{{ end -}}
{{- if kindIs "slice" $value }}{{ join "," $value }}{{ else }}{{ $value }}{{ end -}}
{{- end -}}

{{/* A duration, `20s` or a number of seconds, in milliseconds. */}}
{{- define "charging-coupon-consumer.milliseconds" -}}
{{- $text := kindIs "float64" . | ternary (printf "%.3f" .) (toString .) -}}
{{- $unit := regexFind "[a-z]+$" $text | default "s" -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- mulf $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit) | int64 -}}
{{- end -}}

{{/* A duration in the largest unit that needs no fraction, as retry topics are named. */}}
{{- define "charging-coupon-consumer.inLargest" -}}
{{- $ms := include "charging-coupon-consumer.milliseconds" . | int64 -}}
{{- if and $ms (not (mod $ms 86400000)) }}{{ div $ms 86400000 }}d
{{- else if not (mod $ms 3600000) }}{{ div $ms 3600000 }}h
{{- else if not (mod $ms 60000) }}{{ div $ms 60000 }}m
{{- else if not (mod $ms 1000) }}{{ div $ms 1000 }}s
{{- else }}{{ $ms }}ms
{{- end -}}
{{- end -}}

{{/* Names of the retry topics, comma-separated. */}}
{{- define "charging-coupon-consumer.retryTopics" -}}
{{- $prefix := include "charging-coupon-consumer.setting" (dict "top" . "path" "kafka.topics.retries" "default" "coupon-retries") -}}
{{- $retries := default (dict) .Values.settings.retries -}}
{{- $delays := list "1m" "5m" "30m" -}}
{{- if not (kindIs "invalid" $retries.delays) -}}
{{- $delays = $retries.delays -}}
{{- if kindIs "string" $delays }}{{ $delays = splitList "," (nospace $delays) }}{{ end -}}
{{- end -}}
{{- $names := list -}}
{{- range $delays }}{{ $names = append $names (printf "%s.%s" $prefix (include "charging-coupon-consumer.inLargest" .)) }}{{ end -}}
{{- join "," $names -}}
{{- end -}}

{{/* Calls under way end within drain_timeout; then outcomes are written and the group is left. */}}
{{- define "charging-coupon-consumer.gracePeriod" -}}
{{- $drain := include "charging-coupon-consumer.setting" (dict "top" . "path" "drain_timeout" "default" "20s") -}}
{{- add (ceil (divf (include "charging-coupon-consumer.milliseconds" $drain) 1000)) 10 -}}
{{- end -}}

{{- define "charging-coupon-consumer.sandboxUrl" -}}
http://{{ include "charging-coupon-consumer.fullname" . }}-sandbox:8088/gate/1.0/parking/mcoupon/event
{{- end -}}

{{- define "charging-coupon-consumer.gatewayUrl" -}}
{{- if .Values.sandbox.enabled }}{{ include "charging-coupon-consumer.sandboxUrl" . }}
{{- else }}{{ include "charging-coupon-consumer.setting" (dict "top" . "path" "gateway.url" "default" "https://api.4pyun.com/gate/1.0/parking/mcoupon/event") }}
{{- end -}}
{{- end -}}

{{/* What the way to Kafka lacks, or a secret that stands where its name belongs: it would be in a ConfigMap. */}}
{{- define "charging-coupon-consumer.security" -}}
{{- $gateway := default (dict) .Values.settings.gateway -}}
{{- $security := default (dict) (default (dict) .Values.settings.kafka).security -}}
{{- $oauth := default (dict) $security.oauth -}}
{{- $named := dict "kafka.security.password" $security.password "kafka.security.key_password" $security.key_password -}}
{{- $_ := set $named "kafka.security.oauth.client_secret" $oauth.client_secret -}}
{{- $_ := set $named "gateway.key_password" $gateway.key_password -}}
{{- $_ := set $named "gateway.proxy_credentials" $gateway.proxy_credentials -}}
{{- range $setting, $name := $named -}}
{{- /* the name of a Secret's key, and not what a generator of passwords makes; the text is not repeated */ -}}
{{- if and $name (or (not (regexMatch "^[-._a-zA-Z0-9]+$" $name)) (and (regexMatch "[A-Z]" $name) (regexMatch "[0-9]" $name))) -}}
{{- fail (printf "settings.%s: names a secret, and this is no name such as kafka_password; write the secret's text into existingSecret, under a key, and here the key" $setting) -}}
{{- end -}}
{{- end -}}
{{- $elsewhere := false -}}
{{- range .Values.extraEnv }}{{ if hasPrefix "CHARGING_COUPON__KAFKA__SECURITY__" .name }}{{ $elsewhere = true }}{{ end }}{{ end -}}
{{- if not $elsewhere -}}
{{- $protocol := default "plaintext" $security.protocol -}}
{{- if not (hasPrefix "sasl_" $protocol) -}}
{{- range $name := list "mechanism" "username" -}}
{{- if get $security $name -}}
{{- fail (printf "settings.kafka.security.%s: is set, but kafka.security.protocol is %s; set that to sasl_ssl or sasl_plaintext, or leave this out" $name $protocol) -}}
{{- end -}}
{{- end -}}
{{- else if not $security.mechanism -}}
{{- fail (printf "settings.kafka.security.mechanism: kafka.security.protocol is %s; say what the brokers offer: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER" $protocol) -}}
{{- else if and (ne $security.mechanism "OAUTHBEARER") (not $security.username) -}}
{{- fail (printf "settings.kafka.security.username: %s needs it; name our Kafka user" $security.mechanism) -}}
{{- else if and (eq $security.mechanism "OAUTHBEARER") (eq (empty $oauth.token_file) (empty $oauth.token_url)) -}}
{{- fail "settings.kafka.security.oauth: say where the token comes from, in one of token_file and token_url" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The settings file. */}}
{{- define "charging-coupon-consumer.settings" -}}
{{- if not (include "charging-coupon-consumer.setting" (dict "top" . "path" "kafka.bootstrap_servers" "default" "")) -}}
{{- fail "settings.kafka.bootstrap_servers: say where Kafka is, such as --set settings.kafka.bootstrap_servers={kafka-1:9092}" -}}
{{- end -}}
{{- include "charging-coupon-consumer.security" . -}}
{{- $ours := dict "rules" "/etc/charging-coupon/rules" "secrets_dir" "/etc/charging-coupon/secrets" -}}
{{- if .Values.sandbox.enabled -}}
{{- $_ := set $ours "gateway" (dict "url" (include "charging-coupon-consumer.sandboxUrl" .)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.settings) $ours) -}}
{{- end -}}

{{- define "charging-coupon-consumer.secret" -}}
{{- required "existingSecret: name the Secret with a key for each secret, plate_hash among them; kubectl create secret generic makes one" .Values.existingSecret -}}
{{- end -}}

{{/* The settings and the secrets: volumes of every pod that talks to Kafka. Takes dict "top" "settings" (a ConfigMap). */}}
{{- define "charging-coupon-consumer.volumes" -}}
- name: settings
  configMap:
    name: {{ .settings }}
- name: secrets
{{- if .top.Values.extraSecrets }}
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "charging-coupon-consumer.secret" .top }}
      {{- range .top.Values.extraSecrets }}
      - secret:
          {{- toYaml . | nindent 10 }}
      {{- end }}
{{- else }}
  secret:
    secretName: {{ include "charging-coupon-consumer.secret" .top }}
    defaultMode: 0440
    optional: false # said, because podman 4 stumbles over what is not
{{- end }}
{{- end -}}

{{/* No subPath: files mounted so never change. */}}
{{- define "charging-coupon-consumer.mounts" -}}
- name: settings
  mountPath: /etc/charging-coupon/settings
  readOnly: true
- name: secrets
  mountPath: /etc/charging-coupon/secrets
  readOnly: true
{{- end -}}

{{- define "charging-coupon-consumer.env" -}}
- name: CHARGING_COUPON__SETTINGS
  value: /etc/charging-coupon/settings/settings.yaml
{{- end -}}

{{/* What holds for every pod of ours. */}}
{{- define "charging-coupon-consumer.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "charging-coupon-consumer.pullSecrets" . }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "charging-coupon-consumer.topicsPolicy" -}}
podSelector:
  matchLabels:
    {{- include "charging-coupon-consumer.selector" . | nindent 4 }}
    app.kubernetes.io/component: topics
policyTypes: [Ingress, Egress]
egress:
  {{- include "charging-coupon-consumer.toKafka" . | nindent 2 }}
  {{- with .Values.networkPolicy.extraEgress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Names are asked for, and Kafka. */}}
{{- define "charging-coupon-consumer.toKafka" -}}
{{- $servers := include "charging-coupon-consumer.setting" (dict "top" . "path" "kafka.bootstrap_servers" "default" "") | nospace }}
{{- $ports := list }}
{{- range splitList "," $servers }}{{ $ports = append $ports (regexFind "[0-9]+$" .) }}{{ end -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
- ports:
    {{- range default (uniq $ports) .Values.networkPolicy.kafka.ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.kafka.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* A size, `64KiB` or a number of bytes. */}}
{{- define "charging-coupon-consumer.bytes" -}}
{{- $unit := regexFind "[A-Za-z]+$" . | default "B" -}}
{{- $sizes := dict "B" 1 "kB" 1000 "MB" 1000000 "GB" 1000000000 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 -}}
{{- mulf (regexFind "^[0-9]+" . | float64) (get $sizes $unit) | int64 -}}
{{- end }}
