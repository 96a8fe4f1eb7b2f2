"""A node: starts children of a service on its own machine, on the order of a supervisor elsewhere.

It dials the supervisor, shows that it has the same model, binds what its children need, and then hosts them: the
same `phalanx.hosting` that the supervisor uses on its own machine. `phalanx join` is a node started by hand, and a
Ray actor starts `python -m phalanx.node`.
"""
