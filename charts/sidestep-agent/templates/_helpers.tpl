{{- define "sidestep.labels" -}}
app.kubernetes.io/part-of: sidestep
{{- end }}

{{- define "sidestep.subjects" -}}
subjects:
- kind: ServiceAccount
  name: sidestep-agent
  namespace: sidestep-system
{{- end }}

{{- define "sidestep.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Node delivery needs fewer; manifests/ has the reason of each. */}}
{{- define "sidestep.capabilities" -}}
{{- if eq .Values.delivery "node" -}}
[BPF, PERFMON, NET_ADMIN, DAC_READ_SEARCH]
{{- else -}}
[NET_ADMIN, SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH]
{{- end }}
{{- end }}
