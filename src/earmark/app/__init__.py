"""The composition root and the processes: the only place where modules are joined."""
