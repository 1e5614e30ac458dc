{{/* Names, settings and refusals of the site. */}}

{{- define "site.home" -}}/var/lib/fedfleet/site{{- end }}

{{- define "site.isPod" -}}{{- if eq .Values.runner.mode "pod" }}true{{ end }}{{- end }}

{{- define "site.tasksAccount" -}}{{ include "fl.fullname" . }}-tasks{{- end }}

{{- define "site.dataNamespace" -}}
{{- if include "site.isPod" . }}{{ .Values.tasks.namespace.name }}{{ else }}{{ .Release.Namespace }}{{ end -}}
{{- end }}

{{/* The claim of an entry of data. What it is made of is in its name: a volume cannot change its source. */}}
{{- define "site.claim" -}}
{{- if .entry.claimName -}}
{{- .entry.claimName -}}
{{- else -}}
{{- $source := omit .entry "name" "mountPath" "readOnly" | toJson | sha256sum | trunc 8 -}}
{{- printf "%s-%s-%s" (include "fl.fullname" .root | trunc 22 | trimSuffix "-") .entry.name $source -}}
{{- end -}}
{{- end }}

{{- define "site.mountPath" -}}{{ default (printf "/data/%s" .name) .mountPath }}{{- end }}

{{/* Ports at which the way out ends: of the proxy, or of each gateway. */}}
{{- define "site.gatewayPorts" -}}
{{- $ports := list -}}
{{- if .Values.gateway.proxy -}}
{{- $port := regexFind ":[0-9]+$" (trimSuffix "/" .Values.gateway.proxy) | trimPrefix ":" -}}
{{- $ports = append $ports (int (default "80" $port)) -}}
{{- else -}}
{{- range .Values.gateway.addresses -}}
{{- $ports = append $ports (int (default "443" (regexFind ":[0-9]+$" . | trimPrefix ":"))) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{- define "site.hasGpu" -}}{{- if and (gt (int .Values.gpu.count) 0) (ne .Values.gpu.mode "none") }}true{{ end }}{{- end }}

{{/* Requests and limits of what runs tasks, with the GPU as a device plugin has it. */}}
{{- define "site.taskLimits" -}}
{{- $limits := dict -}}
{{- range $name, $amount := .Values.tasks.resources.limits -}}
{{- $_ := set $limits $name (toString $amount) -}}
{{- end -}}
{{- if and (include "site.hasGpu" .) (eq .Values.gpu.mode "devicePlugin") -}}
{{- $_ := set $limits .Values.gpu.resourceName (toString .Values.gpu.count) -}}
{{- end -}}
{{- toJson $limits -}}
{{- end }}

{{/* site.toml, as fl site enrol takes it: numbers are cast, because Helm makes fractions of them. */}}
{{- define "site.settings" -}}
{{- $v := .Values -}}
{{- $toml := dict "id" $v.site.id "gateways" $v.gateway.addresses "proxy" $v.gateway.proxy -}}
{{- $_ := set $toml "partition_id" (int $v.site.partitionId) -}}
{{- $_ := set $toml "num_partitions" (int $v.site.numPartitions) -}}
{{- $_ := set $toml "warm_apps" (int $v.site.warmApps) -}}
{{- $_ := set $toml "outbox_mib" (int $v.site.outboxMiB) -}}
{{- $_ := set $toml "longest_backoff_s" (float64 $v.site.longestBackoffSeconds) -}}
{{- $_ := set $toml "health" (printf "%s:8080" $v.site.listen) -}}
{{- $_ := set $toml "identity_secret" $v.identity.secretName -}}
{{- $_ := set $toml "preload_at" "first-task" -}}
{{- if $v.site.threads }}{{ $_ := set $toml "threads" (int $v.site.threads) }}{{ end -}}
{{- if $v.site.taskSeconds }}{{ $_ := set $toml "time_s" (float64 $v.site.taskSeconds) }}{{ end -}}
{{- if $v.site.taskMemoryMiB }}{{ $_ := set $toml "memory_mib" (int $v.site.taskMemoryMiB) }}{{ end -}}
{{- if $v.site.dataDir -}}
{{- $_ := set $toml "data_dir" $v.site.dataDir -}}
{{- else if $v.data -}}
{{- $_ := set $toml "data_dir" (include "site.mountPath" (first $v.data)) -}}
{{- end -}}
{{- if $v.gateway.proxySecret.existingSecret -}}
{{- $_ := set $toml "proxy_credentials_file" (printf "%s/keys/proxy" (include "site.home" .)) -}}
{{- end -}}
{{- if include "site.isPod" . }}{{ $_ := set $toml "pods" "/etc/fedfleet/site/pods.toml" }}{{ end -}}
{{- toToml $toml | trim -}}
{{- end }}

{{/* pods.toml, as the runner takes it. */}}
{{- define "site.pods" -}}
{{- $v := .Values -}}
{{- $t := $v.tasks -}}
{{- $toml := dict "image" (include "fl.image" (dict "root" . "key" "tasks.image" "image" $t.image)) -}}
{{- $_ := set $toml "image_pull_policy" $t.image.pullPolicy -}}
{{- $_ := set $toml "namespace" $t.namespace.name -}}
{{- $_ := set $toml "owner" (include "site.tasksAccount" .) -}}
{{- $_ := set $toml "service_account" (include "site.tasksAccount" .) -}}
{{- $_ := set $toml "port" (int $t.port) -}}
{{- if not (kindIs "invalid" $t.idleSeconds) }}{{ $_ := set $toml "idle_s" (float64 $t.idleSeconds) }}{{ end -}}
{{- $_ := set $toml "start_within_s" (float64 $t.startSeconds) -}}
{{- $_ := set $toml "pull_within_s" (float64 $t.pullSeconds) -}}
{{- $_ := set $toml "retries" (int $t.retries) -}}
{{- $_ := set $toml "scratch_mib" (int $t.scratchMiB) -}}
{{- $_ := set $toml "shared_memory_mib" (int $t.sharedMemoryMiB) -}}
{{- $_ := set $toml "image_pull_secrets" $t.imagePullSecrets -}}
{{- $_ := set $toml "queue" $t.kueueQueue -}}
{{- $_ := set $toml "priority_class" (ternary (printf "%s-tasks" (include "fl.fullname" .)) $t.priority.className (and $t.priority.create (not $t.priority.className))) -}}
{{- $_ := set $toml "allow_without_rbac" $v.runner.allowWithoutRbac -}}
{{- if include "site.hasGpu" . -}}
{{- $_ := set $toml "runtime_class" $v.gpu.runtimeClassName -}}
{{- end -}}
{{- $selector := merge dict $t.nodeSelector -}}
{{- $tolerations := $t.tolerations -}}
{{- if include "site.hasGpu" . -}}
{{- $selector = merge $selector $v.gpu.nodeSelector -}}
{{- $tolerations = concat $tolerations $v.gpu.tolerations -}}
{{- end -}}
{{- with $selector }}{{ $_ := set $toml "node_selector" . }}{{ end -}}
{{- $cast := list -}}
{{- range $tolerations -}}
{{- $one := omit . "tolerationSeconds" -}}
{{- if hasKey . "tolerationSeconds" }}{{ $_ := set $one "tolerationSeconds" (int .tolerationSeconds) }}{{ end -}}
{{- $cast = append $cast $one -}}
{{- end -}}
{{- with $cast }}{{ $_ := set $toml "tolerations" . }}{{ end -}}
{{- $requests := dict -}}
{{- range $name, $amount := $t.resources.requests }}{{ $_ := set $requests $name (toString $amount) }}{{ end -}}
{{- $_ := set $toml "requests" $requests -}}
{{- $_ := set $toml "limits" (include "site.taskLimits" . | fromJson) -}}
{{- if and (include "site.hasGpu" .) (eq $v.gpu.mode "dra") -}}
{{- $_ := set $toml "claims" (default (dict "gpu" (printf "%s-gpu" (include "fl.fullname" .))) $v.gpu.claims) -}}
{{- end -}}
{{- $volumes := list -}}
{{- $mounts := dict -}}
{{- range $v.data -}}
{{- $claim := include "site.claim" (dict "root" $ "entry" .) -}}
{{- $name := printf "data-%s" .name -}}
{{- $volumes = append $volumes (dict "name" $name "persistentVolumeClaim" (dict "claimName" $claim "readOnly" true)) -}}
{{- $_ := set $mounts $name (include "site.mountPath" .) -}}
{{- end -}}
{{- with $volumes }}{{ $_ := set $toml "volumes" . }}{{ end -}}
{{- with $mounts }}{{ $_ := set $toml "mounts" . }}{{ end -}}
{{- with $t.labels }}{{ $_ := set $toml "labels" . }}{{ end -}}
{{- with $t.annotations }}{{ $_ := set $toml "annotations" . }}{{ end -}}
{{- with $t.env }}{{ $_ := set $toml "env" . }}{{ end -}}
{{- toToml $toml | trim -}}
{{- end }}

{{/* What is said before anything is made: the key, what is wrong with it, what to write. */}}
{{- define "site.validate" -}}
{{- if not .Values.site.id -}}
{{- fail "site.id is empty: the site's id, as in fl site add ID" -}}
{{- end -}}
{{- if not (regexMatch "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$" .Values.site.id) -}}
{{- fail (printf "site.id is %q: letters, digits, '.', '-' and '_', as Kubernetes' labels take them" .Values.site.id) -}}
{{- end -}}
{{- if not .Values.gateway.addresses -}}
{{- fail "gateway.addresses is empty: where the centre's gateway is, such as [fl.example.org:443]" -}}
{{- end -}}
{{- if and (include "site.isPod" .) (eq .Values.tasks.namespace.name .Release.Namespace) -}}
{{- fail (printf "tasks.namespace.name is %q, the namespace of the site's keys: tasks need one of their own" .Release.Namespace) -}}
{{- end -}}
{{- if and (eq .Values.gpu.mode "dra") (include "site.hasGpu" .) -}}
{{- if not (include "site.isPod" .) }}{{ fail "gpu.mode is dra, which needs runner.mode pod" }}{{ end -}}
{{- if semverCompare "<1.34-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "gpu.mode is dra, which needs Kubernetes 1.34; this is %s: gpu.mode devicePlugin" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.data -}}
{{- if has .name $names }}{{ fail (printf "data has two entries named %q" .name) }}{{ end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end }}
