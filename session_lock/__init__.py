"""Share the rows of your own PostgreSQL table over the live instances of a service."""
