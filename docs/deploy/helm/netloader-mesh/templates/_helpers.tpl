{{- define "netloader.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "netloader.mesh" -}}
{{- .Values.mesh.name | default (include "netloader.name" .) -}}
{{- end }}

{{- define "netloader.service" -}}
{{- .Values.mesh.service | default (printf "%s-mesh" (include "netloader.name" .)) -}}
{{- end }}

{{- define "netloader.secret" -}}
{{- .Values.mesh.secret | default (printf "%s-mesh" (include "netloader.name" .)) -}}
{{- end }}

{{- define "netloader.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end }}

{{- define "netloader.labels" -}}
app: {{ include "netloader.name" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* The first and the last port of the mesh; 17946 where any port is allowed. */}}
{{- define "netloader.firstPort" -}}
{{- splitList "-" (.Values.mesh.ports | default "17946") | first -}}
{{- end }}

{{- define "netloader.lastPort" -}}
{{- splitList "-" .Values.mesh.ports | last -}}
{{- end }}

{{- /* A pod with too few ports would load, and then be a source to nobody. MAX_SESSIONS is 4 unless set. */}}
{{- define "netloader.checkPorts" -}}
{{- if .Values.mesh.ports }}
{{- $have := sub (include "netloader.lastPort" . | int) (include "netloader.firstPort" . | int) | add1 | int }}
{{- $need := mul .Values.tensorParallelSize (add 3 (.Values.settings.MAX_SESSIONS | default 4 | int)) | int }}
{{- if lt $have $need }}
{{- fail (printf "mesh.ports %s has %d ports, and %d are needed: 3 and MAX_SESSIONS for each worker of a pod" .Values.mesh.ports $have $need) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "netloader.lastMetricsPort" -}}
{{- sub (add .Values.metrics.port .Values.tensorParallelSize) 1 -}}
{{- end }}

{{- /* A value of `settings` as text. Helm reads 1000000000 in a file as a float, which prints as 1e+09. */}}
{{- define "netloader.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- /* What a member, or an observer of the mesh, needs to find the others. */}}
{{- define "netloader.meshEnv" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: HOME
  value: /home/vllm
- name: NETLOADER_MESH_NAME
  value: {{ include "netloader.mesh" . | quote }}
- name: NETLOADER_MESH_KUBERNETES_SERVICE
  value: {{ include "netloader.service" . | quote }}
- name: NETLOADER_MESH_KEY_FILE
  value: /etc/netloader/mesh.key
{{- /* Without a range, the name of the mesh would decide at which port its members look for each other. */}}
{{- if .Values.mesh.ports }}
- name: NETLOADER_PORT_RANGE
  value: {{ .Values.mesh.ports | quote }}
{{- else }}
- name: NETLOADER_MESH_PORT
  value: {{ include "netloader.firstPort" . | quote }}
{{- end }}
{{- end }}

{{- /* User 2000 and group 0 are the user `vllm` of vLLM's image. */}}
{{- define "netloader.podSecurity" -}}
runAsNonRoot: true
runAsUser: 2000
runAsGroup: 0
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "netloader.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Group 0 reads the key, which mode 0400 would keep from it: files of a Secret belong to root. */}}
{{- define "netloader.keyVolume" -}}
- name: mesh-key
  secret:
    secretName: {{ include "netloader.secret" . | quote }}
    defaultMode: 0440
{{- end }}
