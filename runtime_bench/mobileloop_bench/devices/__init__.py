"""Phones and boards over adb: what they are, the standalone program and artifacts on them, and measuring there."""
