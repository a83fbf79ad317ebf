"""Whether a network leaves Python, probed once per upsampler, and how far its numbers stay."""
