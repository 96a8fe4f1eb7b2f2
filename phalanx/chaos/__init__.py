"""`phalanx chaos`: disturb a running service from outside and check every answer against an undisturbed one.

It knows the service as its users and the operating system do: a command, HTTP, processes and their descriptors.
"""
