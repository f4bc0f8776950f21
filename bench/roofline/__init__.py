"""Every operator against the machine's limits: memory bandwidth and matrix throughput."""
