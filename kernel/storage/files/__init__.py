"""Files and values: the tree of names, versions, content in blobs, mounts, shares, quotas."""
