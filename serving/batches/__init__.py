"""OpenAI's files and batches: uploads, the queue of bulk jobs, and their runner."""
