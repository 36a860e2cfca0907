"""Jobs on Kubernetes.  Everything here but the nodes' own TEEs is untrusted: only public data goes through a cluster's control plane."""
