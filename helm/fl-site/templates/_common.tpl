{{/* What both charts share; helm/make.py copies it from helm/common into each. */}}

{{- define "fl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "fl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "fl.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels by which selectors find pods; they never change in a release's life. Argument: dict root, component. */}}
{{- define "fl.selector" -}}
app.kubernetes.io/name: {{ include "fl.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "fl.labels" -}}
{{ include "fl.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's full name, which is the same image tomorrow. Argument: dict root, key, image. */}}
{{- define "fl.image" -}}
{{- $tag := default .root.Chart.AppVersion .image.tag -}}
{{- if not .image.repository -}}
{{- fail (printf "%s.repository is empty: name the image" .key) -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else if eq $tag "latest" -}}
{{- fail (printf "%s.tag is latest, which may be another image tomorrow: name a version, or %s.digest" .key .key) -}}
{{- else -}}
{{- printf "%s:%s" .image.repository $tag -}}
{{- end -}}
{{- end }}

{{/* Pod Security restricted: of a pod, and of each container. */}}
{{- define "fl.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Files keep their modes: keys are 0600, and refused if others can read them.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fl.security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "fl.pullSecrets" -}}
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}

{{- define "fl.environment" -}}
- name: HOME
  value: /tmp
- name: FLWR_TELEMETRY_ENABLED
  value: "0"
- name: FLWR_DISABLE_UPDATE_CHECK
  value: "1"
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "fl.scheduling" -}}
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
{{- end }}

{{/* Resources without empty halves, numbers as Kubernetes takes them. */}}
{{- define "fl.resources" -}}
{{- $given := dict -}}
{{- range $half := list "requests" "limits" -}}
{{- with index $.resources $half -}}
{{- $all := dict -}}
{{- range $name, $amount := . -}}
{{- $_ := set $all $name (toString $amount) -}}
{{- end -}}
{{- $_ := set $given $half $all -}}
{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end }}

{{/* Egress to names: DNS over UDP and TCP. Argument: list of ports. */}}
{{- define "fl.egressDns" -}}
# any pod --> DNS
- ports:
    {{- range . }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* Egress to addresses and ports. Argument: dict cidrs, ports. */}}
{{- define "fl.egressCidrs" -}}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* Selects a namespace; before 1.21 namespaces have no label with their name, so there all of them count. */}}
{{- define "fl.namespaceSelector" -}}
{{- if semverCompare ">=1.21-0" .root.Capabilities.KubeVersion.Version -}}
matchLabels:
  kubernetes.io/metadata.name: {{ .namespace }}
{{- else -}}
{}
{{- end -}}
{{- end }}
