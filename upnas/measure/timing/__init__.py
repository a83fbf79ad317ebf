"""How long a forward takes: clocks, turns with a reference, the judge of a block, the protocol."""
