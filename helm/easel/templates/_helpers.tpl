{{- define "easel.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}{{ else if contains "easel" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-easel" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "easel.redisName" -}}
{{ include "easel.fullname" . }}-redis
{{- end }}

{{- define "easel.metricsCertificate" -}}
{{ include "easel.fullname" . }}-metrics-certificate
{{- end }}

{{- define "easel.labels" -}}
app.kubernetes.io/name: easel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: easel
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "easel.operatorAccount" -}}
{{- $account := .Values.operator.serviceAccount | default dict }}
{{- $account.name | default (printf "%s-operator" (include "easel.fullname" .)) }}
{{- end }}

{{- /* Where a pod of the chart may run, and how it finds names: of the values of operator, or of redis. */ -}}
{{- define "easel.podPlacement" -}}
{{- range $field := list "priorityClassName" "runtimeClassName" "dnsPolicy" "dnsConfig" "hostAliases" "nodeSelector" "tolerations" "affinity" }}
{{- with index $ $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- define "easel.selector" -}}
app.kubernetes.io/name: easel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* REPOSITORY@DIGEST, or REPOSITORY:TAG; of a mirror where one is named. */ -}}
{{- define "easel.image" -}}
{{- $repository := .image.repository }}
{{- with .root.Values.imageRegistry | default (dig "imageRegistry" "" (.root.Values.global | default dict)) }}
{{- /* What comes before the first slash is a registry if it has a dot or a port, or is localhost. */}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") }}
{{- end }}
{{- $repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The image of a role, gateway or worker, as YAML: its own, or server.image where that names one. */ -}}
{{- define "easel.roleImage" -}}
{{- $image := deepCopy ((index .root.Values .role | default dict).image | default dict) }}
{{- $_ := set $image "repository" ($image.repository | default (printf "ghcr.io/easel-dev/easel-%s" .role)) }}
{{- $both := (.root.Values.server | default dict).image | default dict }}
{{- if include "easel.namesServerImage" .root }}
{{- $image = dict "repository" ($both.repository | default "ghcr.io/easel-dev/easel-server") "tag" $both.tag "digest" $both.digest }}
{{- end }}
{{- $_ := set $image "pullPolicy" ($both.pullPolicy | default $image.pullPolicy | default "IfNotPresent") }}
{{- toYaml $image }}
{{- end }}

{{- /* Whether server.image names an image. `helm upgrade --reuse-values` brings the default that it once had. */ -}}
{{- define "easel.namesServerImage" -}}
{{- $both := (.Values.server | default dict).image | default dict }}
{{- if or $both.tag $both.digest (not (has ($both.repository | default "") (list "" "ghcr.io/easel-dev/easel-server"))) }}true{{ end }}
{{- end }}

{{- /* The operator's EASEL_SERVICE_DEFAULTS: the values, with imagePullSecrets among the pods' own. */ -}}
{{- define "easel.serviceDefaults" -}}
{{- $defaults := dict }}
{{- range $role := list "gateway" "worker" }}
{{- $said := deepCopy (index ($.Values.defaults | default dict) $role | default dict) }}
{{- if $.Values.imagePullSecrets }}
{{- $template := $said.podTemplate | default dict }}
{{- $spec := $template.spec | default dict }}
{{- $secrets := concat $.Values.imagePullSecrets ($spec.imagePullSecrets | default list) | uniq }}
{{- $_ := set $spec "imagePullSecrets" $secrets }}
{{- $_ := set $template "spec" $spec }}
{{- $_ := set $said "podTemplate" $template }}
{{- end }}
{{- $kept := dict }}
{{- range $name, $value := $said }}{{ if or $value (kindIs "float64" $value) (kindIs "int64" $value) }}{{ $_ := set $kept $name $value }}{{ end }}{{ end }}
{{- if $kept }}{{ $_ := set $defaults $role $kept }}{{ end }}
{{- end }}
{{- with (.Values.defaults | default dict).currency }}{{ $_ := set $defaults "currency" . }}{{ end }}
{{- with (.Values.defaults | default dict).downloads }}{{ $_ := set $defaults "downloads" . }}{{ end }}
{{- if $defaults }}{{ toJson $defaults }}{{ end }}
{{- end }}

{{- /* Whether the cluster assigns users to pods and refuses those that name one. */ -}}
{{- define "easel.assignsUsers" -}}
{{- $platform := .Values.platform | default "Auto" }}
{{- if or (eq $platform "OpenShift") (and (eq $platform "Auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}true{{ end }}
{{- end }}

{{- /* Whether the chart runs Redis itself. */ -}}
{{- define "easel.ownRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.urlSecretName) }}true{{ end }}
{{- end }}

{{- /* A number in a file of values is a float to Helm, and would be printed as one. */ -}}
{{- define "easel.redisMaxMemory" -}}
{{- if kindIs "string" .Values.redis.maxMemory }}{{ .Values.redis.maxMemory }}{{ else }}{{ int64 .Values.redis.maxMemory }}{{ end }}
{{- end }}

{{- /* Several servers have a name of their own: what one server kept is on another volume. */ -}}
{{- define "easel.redisStatefulSet" -}}
{{ include "easel.redisName" . }}{{ if gt (int .Values.redis.replicas) 1 }}-replicated{{ end }}
{{- end }}

{{- /* Names of its pods in DNS, a blank between them. */ -}}
{{- define "easel.redisHosts" -}}
{{- $set := include "easel.redisStatefulSet" . }}
{{- $hosts := list }}
{{- range $number := until (int .Values.redis.replicas) }}
{{- $hosts = append $hosts (printf "%s-%d.%s.%s.svc" $set $number $set $.Release.Namespace) }}
{{- end }}
{{- join " " $hosts }}
{{- end }}

{{- /* Of the scripts that several servers and their Sentinels are started by. */ -}}
{{- define "easel.redisEnvironment" -}}
{{- $set := include "easel.redisStatefulSet" . -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: SELF, value: $(POD_NAME).{{ $set }}.{{ .Release.Namespace }}.svc}
- {name: HOSTS, value: {{ include "easel.redisHosts" . }}}
- {name: PORT, value: "6379"}
- {name: SENTINEL_PORT, value: "26379"}
- {name: DIRECTORY, value: /data}
- {name: USERS_DIRECTORY, value: /etc/valkey-users}
- {name: APPEND_ONLY, value: {{ ternary "yes" "no" .Values.redis.persistence.enabled | quote }}}
- {name: MAX_MEMORY, value: {{ include "easel.redisMaxMemory" . | quote }}}
{{- end }}

{{- define "easel.redisUrlSecret" -}}
{{- if .Values.redis.urlSecretName }}{{ .Values.redis.urlSecretName }}{{ else if .Values.redis.url }}{{ include "easel.redisName" . }}-url{{ else }}{{ include "easel.redisName" . }}{{ end }}
{{- end }}

{{- define "easel.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
