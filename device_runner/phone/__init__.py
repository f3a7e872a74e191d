"""Phones over adb: the adb client, the ways to run a job on a phone, and the Arm bundle."""
