"""What is for users of one framework or another; each module needs its own."""
