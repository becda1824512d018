{{- /*
What a schema could only refuse with a pattern, refused with a sentence. Called once, where the operator is rendered.
*/ -}}
{{- define "easel.check" -}}
{{- $account := .Values.operator.serviceAccount | default dict }}
{{- if and (not (dig "create" true $account)) (not $account.name) }}
{{- fail "operator.serviceAccount.create is false: name the one that is there in operator.serviceAccount.name" }}
{{- end }}
{{- include "easel.checkServerImage" . }}
{{- include "easel.checkResources" (dict "name" "operator.resources" "value" .Values.operator.resources) }}
{{- range $role := list "gateway" "worker" }}
{{- $defaults := dig $role dict ($.Values.defaults | default dict) | default dict }}
{{- include "easel.checkResources" (dict "name" (printf "defaults.%s.resources" $role) "value" $defaults.resources) }}
{{- end }}
{{- if include "easel.ownRedis" . }}
{{- $redis := .Values.redis }}
{{- include "easel.checkResources" (dict "name" "redis.resources" "value" $redis.resources) }}
{{- include "easel.checkQuantity" (dict "name" "redis.persistence.size" "value" $redis.persistence.size) }}
{{- include "easel.checkRedisClaim" . }}
{{- $maxMemory := include "easel.redisMaxMemory" . }}
{{- if not (regexMatch "^(?i)[1-9][0-9]*([kmg]b?)?$" $maxMemory) }}
{{- fail (printf "redis.maxMemory is %s: write a number of bytes with kb, mb or gb, such as 1gb, as Redis' own configuration has it" $maxMemory) }}
{{- end }}
{{- $limit := dig "limits" "memory" "" ($redis.resources | default dict) | toString }}
{{- $bytes := include "easel.bytes" $maxMemory | trim }}
{{- $limitBytes := include "easel.bytes" $limit | trim }}
{{- if and $bytes $limitBytes (ge (int64 $bytes) (int64 $limitBytes)) }}
{{- fail (printf "redis.maxMemory is %s and redis.resources.limits.memory %s: Redis would be killed before it refuses what is too much; leave a half of the limit for copies that it makes while it writes" $maxMemory $limit) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of two values for one thing, nobody would see which counts. */ -}}
{{- define "easel.checkServerImage" -}}
{{- if include "easel.namesServerImage" . }}
{{- range $role := list "gateway" "worker" }}
{{- $own := (index $.Values $role | default dict).image | default dict }}
{{- if or $own.tag $own.digest (ne ($own.repository | default (printf "ghcr.io/easel-dev/easel-%s" $role)) (printf "ghcr.io/easel-dev/easel-%s" $role)) }}
{{- fail (printf "server.image and %s.image both name an image: take server.image out, and name gateway.image and worker.image" $role) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Kubernetes refuses another claim of a StatefulSet, in words that don't say what to do. Without a cluster it isn't known. */ -}}
{{- define "easel.checkRedisClaim" -}}
{{- $name := include "easel.redisStatefulSet" . }}
{{- $wanted := .Values.redis.persistence }}
{{- $replicas := int .Values.redis.replicas }}
{{- $other := printf "%s%s" (include "easel.redisName" .) (ternary "" "-replicated" (gt $replicas 1)) }}
{{- if lookup "apps/v1" "StatefulSet" .Release.Namespace $other }}
{{- fail (printf "redis.replicas is %d, and what is queued is on the volumes of StatefulSet %s: docs/platform/redis.md says how to leave it" $replicas $other) }}
{{- end }}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- if $live }}
{{- if ne (int (dig "spec" "replicas" 1 $live)) $replicas }}
{{- if and (gt $replicas 1) (gt (int (dig "spec" "replicas" 1 $live)) 1) }}
{{- fail (printf "redis.replicas is %d, and StatefulSet %s was made with %d servers, by which its Sentinels count: it can't be changed" $replicas $name (int (dig "spec" "replicas" 1 $live))) }}
{{- end }}
{{- end }}
{{- $claims := dig "spec" "volumeClaimTemplates" list $live }}
{{- if ne (gt (len $claims) 0) $wanted.enabled }}
{{- fail (printf "redis.persistence.enabled is %v, and StatefulSet %s was made otherwise: docs/platform/redis.md says how it is made anew" $wanted.enabled $name) }}
{{- end }}
{{- range $claims }}
{{- $size := dig "spec" "resources" "requests" "storage" "" . }}
{{- $bytes := include "easel.bytes" $size | trim }}
{{- $wantedBytes := include "easel.bytes" $wanted.size | trim }}
{{- if and $bytes $wantedBytes (ne $bytes $wantedBytes) }}
{{- fail (printf "redis.persistence.size is %s, and StatefulSet %s was made with %s, which Kubernetes lets nobody change: docs/platform/redis.md says how its volume grows" $wanted.size $name $size) }}
{{- end }}
{{- $class := dig "spec" "storageClassName" nil . }}
{{- if ne (toJson $class) (toJson $wanted.storageClassName) }}
{{- fail (printf "redis.persistence.storageClassName is %s, and StatefulSet %s was made with %s, which Kubernetes lets nobody change: docs/platform/redis.md says how it gets another" (toJson $wanted.storageClassName) $name (toJson $class)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "easel.checkResources" -}}
{{- range $section, $amounts := .value }}
{{- range $resource, $amount := $amounts }}
{{- include "easel.checkQuantity" (dict "name" (printf "%s.%s.%s" $.name $section $resource) "value" $amount) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "easel.checkQuantity" -}}
{{- $value := toString .value }}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$" $value) }}
{{- $meant := regexReplaceAll "^([0-9.]+) ?[kK][bB]?$" $value "${1}Ki" }}
{{- $meant = regexReplaceAll "^([0-9.]+) ?([MGTPmgtp])[iI]?[bB]?$" $meant "${1}${2}i" | replace "mi" "Mi" | replace "gi" "Gi" | replace "ti" "Ti" | replace "pi" "Pi" }}
{{- if eq $meant $value }}{{ $meant = "8Gi" }}{{ end }}
{{- fail (printf "%s is %s, which is no quantity of Kubernetes: write a number with Ki, Mi, Gi or Ti, such as %s" .name $value $meant) }}
{{- end }}
{{- end }}

{{- /* Of a quantity of Kubernetes or of Redis; empty for those with a fraction. */ -}}
{{- define "easel.bytes" -}}
{{- $number := regexFind "^[0-9]+" . }}
{{- $unit := regexReplaceAll "^[0-9]+" . "" | lower | replace "b" "i" }}
{{- $units := dict "" 1 "k" 1000 "ki" 1024 "m" 1000000 "mi" 1048576 "g" 1000000000 "gi" 1073741824 "t" 1000000000000 "ti" 1099511627776 }}
{{- if and $number (hasKey $units $unit) }}{{ mul (int64 $number) (int64 (index $units $unit)) }}{{ end }}
{{- end }}
