"""A site in a Kubernetes cluster: its identity in a Secret, so that a new pod is the same site; its rights checked."""
