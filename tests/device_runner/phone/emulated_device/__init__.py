"""An emulated phone: a small adbd over TCP for the real adb client, with a folder as its file system and faults on demand."""
