{{- define "ingest-engine.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ingest-engine.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ingest-engine.labels" -}}
{{ include "ingest-engine.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "ingest-engine.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "ingest-engine.container" -}}
image: {{ include "ingest-engine.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # The pod's number, of so many as there are pods.
  - {name: ENGINE_SLICE, value: {{ printf "ordinal/%d" (int .Values.slices) | quote }}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: state, mountPath: /var/lib/ingest-engine}
  - {name: settings, mountPath: /etc/ingest-engine, readOnly: true}
  {{- if .Values.passwordSecret }}
  - {name: password, mountPath: /run/secrets/ingest-engine, readOnly: true}
  {{- end }}
  - {name: scratch, mountPath: /tmp}
{{- end }}
