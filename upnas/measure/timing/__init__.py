"""How long a forward takes: clocks, turns with the reference, the judge of a block, the protocol."""
