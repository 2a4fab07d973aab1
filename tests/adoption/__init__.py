"""Installations into tables that others use meanwhile: whom they wait for, how long, and what is left if they fail."""
