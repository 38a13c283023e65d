"""The image and the chart where they run: by podman, and on a cluster."""
