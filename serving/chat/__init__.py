"""/v1/chat/completions: the protocol, conversations, and the images in them."""
