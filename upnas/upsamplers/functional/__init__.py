"""What several upsamplers compute alike, as functions of tensors."""
