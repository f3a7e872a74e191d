"""Phones over adb: the adb client, the two ways to run a job on a phone, and the Arm bundle."""
