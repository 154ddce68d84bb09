"""What `flanlite bench` compares: variants of a training, each measured in a process of its own."""
