"""Real Runners, in virtual time, through an hour of all that can go wrong: what they promise, checked in what they did."""
