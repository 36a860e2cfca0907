{{- define "broker.pod" -}}
metadata:
  labels:
    {{- include "broker.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "broker.fullname" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Requests in hand are answered after the pod has left its Service.
  terminationGracePeriodSeconds: {{ add .Values.drainSeconds 20 }}
  {{- with include "broker.runtimeClass" . }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with include "broker.nodeSelector" . }}
  nodeSelector: {{- . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if gt (int .Values.replicas) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "broker.selector" . | nindent 10 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  initContainers:
    # The broker takes no secret from a file that its group may read, and a Secret's volume is readable by a group.
    - name: secrets
      image: {{ include "broker.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [/bin/sh, -ec]
      args:
        - |
          umask 077
          for file in /secrets/*/*; do cp -L "$file" "/run/confide/$(basename "$file")"; done
          {{- if .Values.certificateSecret }}
          mkdir -p /var/lib/confide/broker
          cp -L /certificate/certificate.pem /var/lib/confide/broker/certificate.pem
          {{- end }}
      securityContext: &restricted
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: run, mountPath: /run/confide}
        - {name: custody, mountPath: /secrets/custody, readOnly: true}
        {{- if and (eq .Values.storage.kind "postgres") (or .Values.storage.postgres.passwordSecret.name .Values.storage.postgres.caSecret.name) }}
        - {name: database, mountPath: /secrets/database, readOnly: true}
        {{- end }}
        {{- if .Values.certificateSecret }}
        - {name: certificate, mountPath: /certificate, readOnly: true}
        - {name: home, mountPath: /var/lib/confide}
        {{- end }}
  containers:
    - name: broker
      image: {{ include "broker.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: {{- include "broker.args" . | nindent 8 }}
      ports:
        - {name: https, containerPort: 7600, protocol: TCP}
      # Reads all of the store and of the audit log first: up to ten minutes.
      startupProbe:
        httpGet: {path: /livez, port: https, scheme: HTTPS}
        periodSeconds: 5
        failureThreshold: 120
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /healthz, port: https, scheme: HTTPS}
        periodSeconds: 5
        timeoutSeconds: 5
      # Not /healthz: a restart mends neither the database nor the custody, and would end nodes' sessions.
      livenessProbe:
        httpGet: {path: /livez, port: https, scheme: HTTPS}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 3
      lifecycle:
        preStop:
          exec: {command: [/bin/sleep, "5"]}
      securityContext: *restricted
      resources: {{- include "broker.resources" . | nindent 8 }}
      volumeMounts:
        - {name: home, mountPath: /var/lib/confide}
        - {name: config, mountPath: /var/lib/confide/config.toml, subPath: config.toml, readOnly: true}
        {{- if eq .Values.custody.kind "service" }}
        - {name: config, mountPath: /etc/confide/custody.toml, subPath: custody.toml, readOnly: true}
        {{- end }}
        - {name: run, mountPath: /run/confide, readOnly: true}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap: {name: {{ include "broker.fullname" . }}}
    - name: run
      emptyDir: {medium: Memory, sizeLimit: 8Mi}
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
    - name: custody
      secret: {secretName: {{ .Values.custody.secretName }}, defaultMode: 0440}
    {{- if .Values.certificateSecret }}
    - name: certificate
      secret: {secretName: {{ .Values.certificateSecret }}, defaultMode: 0440}
    {{- end }}
    {{- if eq .Values.storage.kind "postgres" }}
    - name: home
      emptyDir: {sizeLimit: 64Mi}
    {{- if or .Values.storage.postgres.passwordSecret.name .Values.storage.postgres.caSecret.name }}
    - name: database
      projected:
        defaultMode: 0440
        sources:
          {{- with .Values.storage.postgres.passwordSecret }}{{ if .name }}
          - secret: {name: {{ .name }}, items: [{key: {{ .key }}, path: database.password}]}
          {{- end }}{{ end }}
          {{- with .Values.storage.postgres.caSecret }}{{ if .name }}
          - secret: {name: {{ .name }}, items: [{key: {{ .key }}, path: database.ca}]}
          {{- end }}{{ end }}
    {{- end }}
    {{- end }}
{{- end }}
