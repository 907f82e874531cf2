"""The paper repeated: the numbers of all seeds, what is computed of them, and what the paper claims."""
