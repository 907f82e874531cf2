"""The paper repeated: the numbers of all seeds, what is computed from them, and what the paper claims."""
