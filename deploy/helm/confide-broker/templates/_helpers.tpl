{{- define "broker.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "broker.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "broker.labels" -}}
{{ include "broker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "broker.image" -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end }}

{{- define "broker.runtimeClass" -}}
{{- if .Values.tee.runtimeClassName -}}{{ .Values.tee.runtimeClassName }}
{{- else if eq .Values.tee.kind "tdx" -}}kata-qemu-tdx
{{- else if eq .Values.tee.kind "snp" -}}kata-qemu-snp
{{- end -}}
{{- end }}

{{- define "broker.nodeSelector" -}}
{{- $found := dict -}}
{{- if eq .Values.tee.kind "sgx" }}{{ $_ := set $found "intel.feature.node.kubernetes.io/sgx" "true" }}{{ end -}}
{{- if eq .Values.tee.kind "tdx" }}{{ $_ := set $found "intel.feature.node.kubernetes.io/tdx" "true" }}{{ end -}}
{{- if eq .Values.tee.kind "snp" }}{{ $_ := set $found "amd.feature.node.kubernetes.io/snp" "true" }}{{ end -}}
{{- $chosen := merge (deepCopy .Values.nodeSelector) (ternary .Values.tee.nodeSelector $found (gt (len .Values.tee.nodeSelector) 0)) -}}
{{- if $chosen }}{{ toYaml $chosen }}{{ end -}}
{{- end }}

{{- define "broker.resources" -}}
{{- $found := deepCopy .Values.resources -}}
{{- if eq .Values.tee.kind "sgx" -}}
{{- $limits := merge (dict "sgx.intel.com/epc" .Values.tee.sgx.epc "sgx.intel.com/enclave" "1" "sgx.intel.com/provision" "1") (default dict $found.limits) -}}
{{- $_ := set $found "limits" $limits -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{- define "broker.args" -}}
- --home
- /var/lib/confide
- broker
- serve
- --listen
- 0.0.0.0:7600
{{- if eq .Values.custody.kind "keyFile" }}
- --key-file
- /run/confide/{{ .Values.custody.keyFile }}
{{- else }}
- --custody
- /etc/confide/custody.toml
{{- end }}
{{- $name := include "broker.fullname" . }}
{{- range concat (list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace)) .Values.extraNames }}
- --name
- {{ . }}
{{- end }}
{{- range .Values.witnesses }}
- --witness
- {{ . }}
{{- end }}
{{- if .Values.insecureSimulate }}
- --simulate
{{- end }}
{{- end }}
