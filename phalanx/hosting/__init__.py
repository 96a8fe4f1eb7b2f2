"""Starting children on this machine: what the supervisor does here, and a node elsewhere on its behalf."""
