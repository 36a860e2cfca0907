{{- define "runs.namespace" -}}
{{ default .Release.Namespace .Values.namespace.name }}
{{- end }}

{{- define "runs.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "runs.subjects" -}}
{{- range .Values.submitters.users }}
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: {{ . | toJson }}}
{{- end }}
{{- range .Values.submitters.groups }}
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: {{ . | toJson }}}
{{- end }}
{{- range .Values.submitters.serviceAccounts }}
- {kind: ServiceAccount, name: {{ .name }}, namespace: {{ .namespace }}}
{{- end }}
{{- end }}
