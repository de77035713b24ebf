"""Where shard jobs run. An engine is a function from jobs to their results."""
