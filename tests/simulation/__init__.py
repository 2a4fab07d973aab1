"""Real Runners, in virtual time, over the memory database: what a cluster of hundreds does in minutes, in seconds."""
