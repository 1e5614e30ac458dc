{{/* Names, settings and refusals of the centre. */}}

{{- define "server.home" -}}/var/lib/fedfleet/server{{- end }}

{{/* server.toml. Helm makes fractions of whole numbers: they are made whole again. */}}
{{- define "server.settings" -}}
{{- $v := .Values -}}
{{- $enrolment := dict "approval" $v.enrolment.approval "token_hours" $v.enrolment.tokenHours "certificate_days" $v.enrolment.certificateDays -}}
{{- $gateway := dict "listen" (list (printf "%s:8443" $v.listen)) "health" (printf "%s:8081" $v.listen) -}}
{{- $toml := dict "addresses" $v.addresses "enrolment" $enrolment "gateway" $gateway -}}
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
{{- if .Values.gatewayApi.enabled -}}
{{- if not .Values.gatewayApi.host }}{{ fail "gatewayApi.host is empty: the name under which sites reach the gateway" }}{{ end -}}
{{- if not .Values.gatewayApi.parentRefs }}{{ fail "gatewayApi.parentRefs is empty: the Gateway that the route belongs to" }}{{ end -}}
{{- end -}}
{{- end }}
