"""Memory of a session: policies (pure data and functions), preallocated keys and values, snapshots."""
