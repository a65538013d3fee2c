"""Quality beside equality: evaluation on labelled rows, and the sensitivity of the probe."""
