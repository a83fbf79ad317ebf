"""What single upsamplers cost at the places that they have in a network."""
