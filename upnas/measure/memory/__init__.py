"""What a network needs: live tensors without running it, a GPU's allocator, a whole process."""
