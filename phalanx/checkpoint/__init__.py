"""A model's folder: finding it, fetching it, and everything that is read from it.

Only `tensors` needs torch, and only ranks import it; the rest is light, for every other process of the service.
"""
