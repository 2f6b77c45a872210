"""Ray Serve on this cluster: running replicas, HAProxy, ports, logs and the cluster token."""
