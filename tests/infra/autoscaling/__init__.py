"""The rendered RayCluster under Ray's own autoscaler, with real `ray start` processes for pods.

Real: the manifest as kustomize renders it, Ray's head, nodes, GCS and token, `ray kuberay-autoscaler`,
`ray job submit`. Stand-ins: the Kubernetes API server (`api`), KubeRay's operator (`cluster`) and the
kubelet (`pod`). What this machine has different from the manifest stands in `machine`, and nowhere else.
"""
