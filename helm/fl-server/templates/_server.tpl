{{/* Names, settings and refusals of the centre. */}}

{{- define "server.home" -}}/var/lib/fedfleet/server{{- end }}

{{/* server.toml. Helm makes fractions of whole numbers: they are made whole again. */}}
{{- define "server.settings" -}}
{{- $v := .Values -}}
{{- $enrolment := dict "approval" $v.enrolment.approval "token_hours" $v.enrolment.tokenHours "certificate_days" $v.enrolment.certificateDays -}}
{{- $gateway := dict "listen" (list (printf "%s:8443" $v.listen)) "health" (printf "%s:8081" $v.listen) -}}
{{- $toml := dict "addresses" $v.addresses "enrolment" $enrolment "gateway" $gateway -}}
{{- if $v.control.enabled -}}
{{- $control := dict "listen" (printf "%s:8444" $v.listen) -}}
{{- $host := ternary $v.control.ingress.host $v.control.gatewayApi.host $v.control.ingress.enabled -}}
{{- if $host }}{{ $_ := set $control "public_url" (printf "https://%s" $host) }}{{ end -}}
{{- $_ := set $toml "control" $control -}}
{{- end -}}
{{- if $v.store.existingSecret -}}
{{- $_ := set $toml "store" (dict "url_file" "/run/fedfleet/store.url") -}}
{{- end -}}
{{- if $v.monitoring.tokenSecret.existingSecret -}}
{{- $_ := set $toml "access" (dict "metrics_token_file" "/run/fedfleet/metrics.token") -}}
{{- end -}}
{{- $toml = mergeOverwrite $toml (deepCopy $v.settings) -}}
{{- regexReplaceAll "(?m) = (-?[0-9]+)[.]0$" (toToml $toml) " = ${1}" | trim -}}
{{- end }}

{{- define "server.validate" -}}
{{- if not .Values.addresses -}}
{{- fail "addresses is empty: where sites reach the gateway, such as [fl.example.org:8443]" -}}
{{- end -}}
{{- $authority := .Values.rosterAuthority -}}
{{- if and $authority.publicKey $authority.keyHere -}}
{{- fail "rosterAuthority has both publicKey and keyHere: one of them" -}}
{{- end -}}
{{- if not (or $authority.publicKey $authority.keyHere) -}}
{{- fail "rosterAuthority.publicKey is empty: fl roster init, on another machine, prints it (or rosterAuthority.keyHere: true)" -}}
{{- end -}}
{{- range $key := list "addresses" -}}
{{- if hasKey $.Values.settings $key }}{{ fail (printf "settings.%s: it has a value of its own, %s" $key $key) }}{{ end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host is empty: the name under which sites reach the gateway" }}{{ end -}}
{{- $control := .Values.control -}}
{{- $monitoring := .Values.monitoring -}}
{{- if not $control.enabled -}}
{{- if or $control.ingress.enabled $control.gatewayApi.enabled $monitoring.serviceMonitor.enabled -}}
{{- fail "control.enabled is false: a route to the control room or a ServiceMonitor needs it" -}}
{{- end -}}
{{- end -}}
{{- if $control.api.enabled -}}
{{- if not $control.enabled }}{{ fail "control.enabled is false: control.api stands beside the control room" }}{{ end -}}
{{- if not .Values.store.existingSecret }}{{ fail "control.api needs PostgreSQL: store.existingSecret is empty" }}{{ end -}}
{{- if and (eq .Values.storage.accessMode "ReadWriteOnce") (not .Values.storage.existingClaim) -}}
{{- fail "control.api needs a volume that all nodes see: storage.accessMode: ReadWriteMany, or storage.existingClaim" -}}
{{- end -}}
{{- $scale := $control.api.autoscaling -}}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) }}{{ fail "control.api.autoscaling.minReplicas is more than maxReplicas" }}{{ end -}}
{{- end -}}
{{- if and $control.ingress.enabled (not $control.ingress.host) }}{{ fail "control.ingress.host is empty: the name of the dashboard" }}{{ end -}}
{{- if $control.gatewayApi.enabled -}}
{{- if not $control.gatewayApi.host }}{{ fail "control.gatewayApi.host is empty: the name of the dashboard" }}{{ end -}}
{{- if not $control.gatewayApi.parentRefs }}{{ fail "control.gatewayApi.parentRefs is empty: the Gateway that the route belongs to" }}{{ end -}}
{{- end -}}
{{- if .Values.gatewayApi.enabled -}}
{{- if not .Values.gatewayApi.host }}{{ fail "gatewayApi.host is empty: the name under which sites reach the gateway" }}{{ end -}}
{{- if not .Values.gatewayApi.parentRefs }}{{ fail "gatewayApi.parentRefs is empty: the Gateway that the route belongs to" }}{{ end -}}
{{- end -}}
{{- end }}

{{/* Secrets that the centre wants as files which only it can read: file name by Secret and key. */}}
{{- define "server.secrets" -}}
{{- $found := list -}}
{{- with .Values.store }}{{ if .existingSecret }}{{ $found = append $found (dict "secret" .existingSecret "key" .key "file" "store.url") }}{{ end }}{{ end -}}
{{- with .Values.monitoring.tokenSecret }}{{ if .existingSecret }}{{ $found = append $found (dict "secret" .existingSecret "key" .key "file" "metrics.token") }}{{ end }}{{ end -}}
{{- toJson $found -}}
{{- end }}

{{/* An init container that copies them to where their mode can be 0600: files of a Secret belong to root. */}}
{{- define "server.copySecrets" -}}
- name: secrets
  image: {{ include "fl.image" (dict "root" . "key" "image" "image" .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -euc, "umask 077; rm -rf /run/fedfleet/*; cp -L /etc/fedfleet/secrets/* /run/fedfleet/"]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  securityContext:
    {{- include "fl.security" . | nindent 4 }}
  volumeMounts:
    - name: given-secrets
      mountPath: /etc/fedfleet/secrets
      readOnly: true
    - name: secrets
      mountPath: /run/fedfleet
{{- end }}

{{- define "server.secretVolumes" -}}
- name: secrets
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: given-secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range include "server.secrets" . | fromJsonArray }}
      - secret:
          name: {{ .secret }}
          items:
            - key: {{ .key }}
              path: {{ .file }}
      {{- end }}
{{- end }}

{{- define "server.oidcSecret" -}}
{{- with .Values.control.oidc }}
{{- if .existingSecret }}
- name: FEDFLEET_OIDC_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}
