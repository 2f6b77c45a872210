"""Sources of downloads: hubs, OCI registries, object stores, web addresses and local folders."""
