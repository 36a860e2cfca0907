"""Images of nodes: what goes into one, byte by byte, and what its nodes will prove.  Starts no node and talks to no cluster."""
