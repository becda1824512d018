{{- define "easel.fullname" -}}
{{- if contains "easel" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-easel" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "easel.redisName" -}}
{{ include "easel.fullname" . }}-redis
{{- end }}

{{- define "easel.labels" -}}
app.kubernetes.io/name: easel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: easel
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "easel.selector" -}}
app.kubernetes.io/name: easel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "easel.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- /* Whether the chart runs Redis itself. */ -}}
{{- define "easel.ownRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.urlSecretName) }}true{{ end }}
{{- end }}

{{- define "easel.redisUrlSecret" -}}
{{- if .Values.redis.urlSecretName }}{{ .Values.redis.urlSecretName }}{{ else if .Values.redis.url }}{{ include "easel.redisName" . }}-url{{ else }}{{ include "easel.redisName" . }}{{ end }}
{{- end }}

{{- define "easel.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
